"""What a job without MPI is asked, and how it says that it is at work."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from silofold.config import Rounds
from silofold.core import machine
from silofold.core.endings import RESUMABLE, STOPPED
from silofold.record import control
from silofold.record.desk import Desk, StopNow
from silofold.record.rundir import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS = Rounds(count=9, end_margin=10)


def round_of(desk: Desk) -> object:
    desk.begin()
    return desk.end()


def test_nothing_asked_is_nothing_done(tmp_path: Path) -> None:
    with Desk(RunFolder(tmp_path), ROUNDS, 2) as desk:
        assert round_of(desk) is None
    status = control.read_status(RunFolder(tmp_path))
    assert status is not None
    assert (status.counted, status.wanted, status.round, status.ending) == (3, 9, 4, "")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("how", ["asked", "SIGTERM", "SIGUSR1"])
def test_a_stop_ends_it_with_its_round(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path)
    with Desk(folder, ROUNDS, 0) as desk:
        assert round_of(desk) is None
        if how == "asked":
            status = control.read_status(folder)
            assert status is not None
            control.ask_stop(folder, now=False, to=status.started)
        else:
            os.kill(os.getpid(), getattr(signal, how))
        assert round_of(desk) == (STOPPED, "stopped as asked")
    assert capsys.readouterr().err.count("the job ends after this round") == 1


def test_a_stop_at_once(tmp_path: Path) -> None:
    with Desk(RunFolder(tmp_path), ROUNDS, 0) as desk:
        control.ask_stop(RunFolder(tmp_path), now=True)
        with pytest.raises(StopNow):
            desk.look()


def test_what_was_asked_of_another_job_is_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Desk(RunFolder(tmp_path), ROUNDS, 0) as desk:
        control.ask_stop(RunFolder(tmp_path), now=True, to=17.0)
        assert round_of(desk) is None
    assert "names another one: dropped" in capsys.readouterr().err
    control.ask_stop(RunFolder(tmp_path), now=True)
    os.utime(RunFolder(tmp_path).stop_request, (1, 1))
    with Desk(RunFolder(tmp_path), ROUNDS, 0) as desk:
        assert round_of(desk) is None


@pytest.mark.parametrize(("left", "ends"), [(3600.0, False), (5.0, True), (-5.0, False)])
def test_the_end_of_an_allocation(left: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, ends: bool) -> None:
    """With 10 s to be left; an end that is past is another job's."""
    monkeypatch.setattr(machine, "allocation_end", lambda: time.time() + left)
    with Desk(RunFolder(tmp_path), ROUNDS, 0) as desk:
        found = round_of(desk)
    assert (found is not None) is ends
    if ends:
        assert isinstance(found, tuple)
        assert found[0] is RESUMABLE
        assert found[1].startswith("saved before the allocation's end: ")
