from __future__ import annotations

import time
from typing import NamedTuple

import pytest

from silofold.core.errors import SchemaError
from silofold.roles.shelf import Shelf


class Box(NamedTuple):
    silo: int
    size: int = 10


class Store:
    """Notes what is read; silo 9 cannot be."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def load(self, silo: int) -> Box:
        self.read.append(silo)
        if silo == 9:
            raise SchemaError("data-read", "silo_0009.h5: damaged")
        return Box(silo)


def test_without_a_limit_all_are_read_once_and_let_go_when_they_leave() -> None:
    store = Store()
    shelf: Shelf[int, Box] = Shelf(store.load, 0)
    shelf.host((1, 2, 9))
    assert sorted(store.read) == [1, 2, 9]
    assert [shelf.take(silo) for silo in shelf.in_turn((2, 1))] == [Box(2), Box(1)]
    assert sorted(store.read) == [1, 2, 9]
    shelf.host((1,))
    shelf.take(2)
    assert store.read.count(1) == 1
    assert store.read.count(2) == 2


def test_with_a_limit_those_used_last_stay() -> None:
    store = Store()
    shelf: Shelf[int, Box] = Shelf(store.load, 25)
    shelf.host((1, 2, 3))
    assert store.read == []
    for silo in (1, 2, 1, 3, 1):
        shelf.take(silo)
    assert store.read == [1, 2, 3]
    shelf.take(2)
    assert store.read == [1, 2, 3, 2]


def test_with_a_limit_those_of_other_hosts_stay_too() -> None:
    store = Store()
    shelf: Shelf[int, Box] = Shelf(store.load, 25)
    shelf.host((1, 2))
    shelf.take(3)
    shelf.host((1,))
    assert shelf.take(3) == Box(3)
    assert store.read == [3]


def test_one_that_is_larger_than_the_limit_can_be_used() -> None:
    shelf: Shelf[int, Box] = Shelf(lambda silo: Box(silo, 1000), 25)
    assert shelf.take(4) == Box(4, 1000)


def test_the_next_one_is_read_meanwhile() -> None:
    store = Store()
    shelf: Shelf[int, Box] = Shelf(store.load, 100)
    shelf.host((1, 2, 3))
    order = shelf.in_turn((3, 1, 2))
    assert next(order) == 3
    shelf.take(3)
    assert next(order) == 1
    assert shelf.take(1) == Box(1)
    assert list(order) == [2]
    assert shelf.take(2) == Box(2)
    assert sorted(store.read) == [1, 2, 3]


def test_a_fault_is_told_where_the_silo_is_used() -> None:
    shelf: Shelf[int, Box] = Shelf(Store().load, 100)
    order = shelf.in_turn((1, 9))
    assert [shelf.take(silo) for silo in order if silo == 1] == [Box(1)]
    with pytest.raises(SchemaError, match="silo_0009"):
        shelf.take(9)


def test_the_first_one_of_what_comes_then_is_read_ahead_and_let_go_if_it_does_not_come() -> None:
    store = Store()
    shelf: Shelf[int, Box] = Shelf(store.load, 100)
    shelf.host((1, 2, 3, 4))
    assert [shelf.take(silo) for silo in shelf.in_turn((1,), (3, 4))] == [Box(1)]
    assert [shelf.take(silo) for silo in shelf.in_turn((2,))] == [Box(2)]  # of a step in between that says nothing of it
    assert [shelf.take(silo) for silo in shelf.in_turn((3,), (4,))] == [Box(3)]
    assert store.read.count(3) == 1
    deadline = time.monotonic() + 10
    while 4 not in store.read:  # by another thread
        assert time.monotonic() < deadline
    assert [shelf.take(silo) for silo in shelf.in_turn((2,), ())] == [Box(2)]
    assert [shelf.take(silo) for silo in shelf.in_turn((4,), ())] == [Box(4)]
    assert store.read.count(4) == 2
