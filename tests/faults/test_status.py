"""What `silofold status` says of runs that ended in each way, and of what batch scripts ask."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest

import mpirun
from budget import whole_run
from silofold.core.endings import BAD_INPUT, DIVERGED, ENDINGS, RESUMABLE, STOPPED, USER_CODE, Ending
from silofold.record import control
from silofold.record.rundir import RunFolder


def ask(*words: object) -> mpirun.Ended:
    return mpirun.silofold("status", *words)


def test_a_job_that_starts_says_so(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = ask(tmp_path)
    assert (ended.code, ended.err) == (0, ""), ended
    assert "starting" in ended.out
    assert ask(tmp_path).code == 2


@pytest.mark.parametrize("ending", [STOPPED, RESUMABLE, BAD_INPUT, DIVERGED, USER_CODE], ids=lambda ending: ending.name)
def test_an_ending_keeps_its_code(ending: Ending, tmp_path: Path) -> None:
    control.leave_word(RunFolder(tmp_path), ending, "stopped by something \x1b[31m", "model-build")
    ended = ask(tmp_path)
    assert ended.code == ending.code, ended
    assert "[model-build]" in ended.out
    assert "\x1b" not in ended.out


def test_what_a_batch_script_asks(tmp_path: Path) -> None:
    for ending in ENDINGS:
        assert ask(tmp_path, "--requeue", ending.code).code == (0 if ending.requeue else 1)
    told = [ask(tmp_path, "--requeue", 0, "--warned").code for _ in range(4)]
    assert told == [0, 0, 1, 0]
    assert json.loads((tmp_path / ".last_end").read_text())["times"] == 1
    (tmp_path / "DONE").touch()
    assert ask(tmp_path, "--requeue", 75).code == 1


@pytest.mark.parametrize("noted", ["", "rank-lost"])
def test_starts_of_which_nothing_was_noted_are_counted(noted: str, tmp_path: Path) -> None:
    """Those of a bare mpirun, say, also where the first one was noted: a repetition that mends nothing comes to an end."""
    if noted:
        control.note_end(RunFolder(tmp_path), noted)
    codes = [ask(tmp_path, "--requeue", 75).code for _ in range(3)]
    assert codes == [0, 0, 1]
    assert ask(tmp_path, "--requeue", 75).code == 0, "who submits the job once more has mended something"


def test_a_status_that_a_crash_has_cut_off_does_not_decide(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"written": 17')
    assert ask(tmp_path, "--requeue", 137).code == 0
    assert ask(tmp_path, "--requeue", 4).code == 1


def test_where_starts_cannot_be_counted_none_is_requeued() -> None:
    ended = ask("/proc/nowhere", "--requeue", 75)
    assert (ended.code, len(ended.err.splitlines())) == (1, 1), ended
    assert "cannot be written" in ended.err


@pytest.mark.parametrize("change", ["0", "+0", str(10**23), str(-(10**23))])
def test_a_change_of_workers_that_is_none(change: str, tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = mpirun.silofold("scale", tmp_path, f"--workers={change}")
    assert (ended.code, len(ended.err.splitlines())) == (2, 1), ended
    assert "expected a change" in ended.err


@pytest.mark.parametrize("kind", ["central", pytest.param("local", marks=whole_run)])
def test_a_baseline_says_how_it_ended(kind: str, recipe: Path, tiny: Path, tmp_path: Path) -> None:
    def baseline(out: Path, *more: str) -> mpirun.Ended:
        command = ["baseline", kind, recipe, "--data", tiny, "--workers", 1, "--set", "rounds.count=2", "--out", out]
        return mpirun.silofold(*command, *more, environment={"PYTHONPATH": str(Path(__file__).parents[1])})

    broken, out = tmp_path / "broken", tmp_path / "run"
    ended, told = baseline(broken, "--set", 'model={name="odd_models:DivergesLater"}'), ask(broken)
    assert (ended.code, told.code) == (3, 3), (ended, told)
    assert "[diverged-rounds]" in told.out.splitlines()[1]
    assert baseline(out).code == 0
    told = ask(out)
    assert told.code == 0
    assert told.out.splitlines()[1].startswith("state        done: 2 rounds, accuracy")
    (out / "DONE").unlink()
    (out / "status.json").unlink()
    killed = ask(out)
    assert (killed.code, "after round 2" in killed.out) == (75, True), killed
