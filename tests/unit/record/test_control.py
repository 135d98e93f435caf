from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from silofold.errors import RunFolderError
from silofold.record import control
from silofold.record.control import Requests, Status
from silofold.record.rundir import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

STATUS = Status(
    written=2.0, started=1.0, host="here", phase="training", round=3, counted=2, wanted=9, round_seconds=0.5,
    usual_seconds=1.5,
    waiting_for=["worker_1"], late={"worker_1": 2}, workers=["worker_0", "worker_1"], standbys=[], dead=[], benched=[4],
)  # fmt: skip


def test_status_survives_a_full_disk_and_comes_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert control.read_status(folder) is None
    control.write_status(folder, STATUS)
    assert control.read_status(folder) == STATUS
    control.write_status(RunFolder(tmp_path / "absent"), STATUS)
    folder.status.write_bytes(folder.status.read_bytes()[:-9])
    with pytest.raises(RunFolderError, match=r"status\.json"):
        control.read_status(folder)


def test_requests_are_taken_once(tmp_path: Path) -> None:
    folder, before = RunFolder(tmp_path), time.time() - 5
    assert control.take_requests(folder, before) == Requests()
    control.ask_stop(folder, now=False)
    control.ask_scale(folder, -2)
    assert control.take_requests(folder, before) == Requests("round", -2)
    assert control.take_requests(folder, before) == Requests()
    control.ask_stop(folder, now=True)
    assert control.take_requests(folder, before).stop == "now"


def test_what_was_asked_of_an_earlier_job_is_not_for_this_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    control.ask_stop(folder, now=True)
    os.utime(folder.stop_request, (1, 1))
    assert control.take_requests(folder, time.time()) == Requests()
    assert not folder.stop_request.exists()
    control.ask_stop(folder, now=True)
    control.withdraw(folder)
    assert control.take_requests(folder, 0) == Requests()


def test_nonsense_asks_for_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    control.ask_scale(folder, 1)
    folder.scale_request.write_text("many")
    assert control.take_requests(folder, 0) == Requests()


def test_the_lock_tells_whether_a_job_lives(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert not control.is_running(folder)
    folder.claim()
    assert control.is_running(folder)
    folder.release()
    assert not control.is_running(folder)


def test_a_wish_that_cannot_be_left_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="cannot be written"):
        control.ask_stop(RunFolder(tmp_path / "file" / "run"), now=False)
    control.ask_stop(RunFolder(tmp_path / "not" / "yet"), now=False)  # a signal may come before the run folder is made
    assert control.take_requests(RunFolder(tmp_path / "not" / "yet"), time.time() - 5).stop == "round"
