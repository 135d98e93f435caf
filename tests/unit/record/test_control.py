from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from silofold.core.errors import RunFolderError
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
    assert control.take_requests(folder, time.time()) == Requests(dropped=("stop now",))
    assert not folder.stop_request.exists()
    control.ask_stop(folder, now=True)
    control.withdraw(folder)
    assert control.take_requests(folder, 0) == Requests()


def test_a_request_that_names_the_job_is_taken_whatever_its_time(tmp_path: Path) -> None:
    """The clock of the node that asks may be behind that of the job's."""
    folder = RunFolder(tmp_path)
    control.ask_stop(folder, now=False, to=17.25)
    control.ask_scale(folder, 2, 17.25)
    for path in (folder.stop_request, folder.scale_request):
        os.utime(path, (1, 1))
    assert control.take_requests(folder, time.time(), frozenset({17.25})) == Requests("round", 2)
    control.ask_stop(folder, now=False, to=16.0)
    assert control.take_requests(folder, 0, frozenset({17.25})) == Requests(dropped=("stop round",))


def test_ends_alike_without_a_new_checkpoint_are_counted(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert [control.note_end(folder, "rank-lost").times for _ in range(3)] == [1, 2, 3]
    (folder.checkpoints / "round_00001").mkdir(parents=True)
    assert control.note_end(folder, "rank-lost").times == 1
    assert control.note_end(folder, "run-write").times == 1
    assert control.read_end(folder) == control.End("run-write", "round_00001", 1)
    control.forget_end(folder)
    assert control.read_end(folder) == control.End()
    folder.last_end.write_text("nonsense")
    assert control.note_end(folder, "run-write").times == 1


def test_a_status_of_an_older_version_can_be_read(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    control.write_status(folder, STATUS)
    text = folder.status.read_text().replace(',"ending":"","cause":""', "")
    assert "cause" not in text
    folder.status.write_text(text)
    assert control.read_status(folder) == STATUS


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
