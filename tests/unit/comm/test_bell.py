from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from silofold.comm import waiting
from silofold.comm.bell import Bell

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pair() -> Iterator[tuple[Bell, Bell]]:
    bells = Bell(), Bell()
    for bell in bells:
        bell.connect([bells[0].name, bells[1].name, b""])
    yield bells
    for bell in bells:
        bell.close()


def test_a_ring_wakes_and_is_heard_once(pair: tuple[Bell, Bell]) -> None:
    here, there = pair
    assert here.name
    assert here.name != there.name
    begin = time.monotonic()
    assert not here.rest(0.05)
    assert time.monotonic() - begin > 0.04

    def thrice() -> None:
        for _ in range(3):
            there.ring(0)

    threading.Timer(0.05, thrice).start()
    begin = time.monotonic()
    assert here.rest(30)
    assert time.monotonic() - begin < 10
    while here.rest(0.2):  # the three may come one by one
        pass
    assert not there.rest(0)


def test_nobody_is_held_up_by_a_rank_that_does_not_listen(pair: tuple[Bell, Bell]) -> None:
    here, there = pair
    for _ in range(10_000):  # more than its queue holds
        here.ring(1)
    assert there.rest(0)
    assert not there.rest(0)
    here.ring(2)  # on another machine
    here.ring(7)
    here.connect([b"\0nobody", b"\0nobody"])
    here.ring(1)


def test_without_sockets_it_is_a_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("socket.socket", refused)
    bell = Bell()
    assert bell.name == b""
    bell.connect([b"\0somebody"])
    bell.ring(0)
    begin = time.monotonic()
    assert not bell.rest(0.02)
    assert time.monotonic() - begin > 0.01


def test_a_wait_looks_again_when_the_bell_rings(pair: tuple[Bell, Bell]) -> None:
    here, there = pair
    come: list[float] = []

    def arrive() -> None:
        come.append(time.monotonic())
        there.ring(0)

    threading.Timer(0.2, arrive).start()
    waiting.until(lambda: bool(come), time.monotonic() + 30, here.rest, longest=20.0)
    assert time.monotonic() - come[0] < 5
    with pytest.raises(waiting.Timeout):
        waiting.until(lambda: False, time.monotonic() + 0.05, here.rest, longest=0.01)
