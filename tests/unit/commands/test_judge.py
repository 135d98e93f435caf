"""What a launcher's end means: by what its ranks said, what the folder says and, last of all, its exit code."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from silofold.commands.launching import judge
from silofold.commands.launching.judge import Observed
from silofold.commands.launching.start import Start
from silofold.core.endings import DIVERGED, DONE
from silofold.record import control
from silofold.record.rundir import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

UP = Observed(
    code=0, program="mpirun", family="openmpi", survives=True, spread=False, plain=True, cut=False, gone=False, born=True,
    lived=True, spoken=False, said="",
)  # fmt: skip
"""A run that came up and ended with 0."""


@pytest.fixture
def start(tmp_path: Path) -> Start:
    (tmp_path / "run").mkdir()
    return Start.now(RunFolder(tmp_path / "run"))


def judged(seen: Observed, start: Start | None) -> int:
    ending, cause = judge.told(start)
    if judge.never_started(seen, ending):
        return judge.judge_start(seen, start)[0]
    return judge.judge(seen, start, ending, cause)


def begin(start: Start) -> None:
    start.folder.record.write_text("{}")


@pytest.mark.parametrize(
    ("code", "family", "cut", "gone", "killed"),
    [
        (0, "openmpi", False, False, False),
        (-9, "openmpi", False, False, True),
        (137, "openmpi", False, False, True),
        (143, "openmpi", False, False, True),
        (9, "openmpi", False, False, False),
        (9, "mpich", False, False, True),
        (15, "mpich", False, False, True),
        (2, "mpich", False, False, False),
        (0, "openmpi", True, False, True),
        (143, "openmpi", True, True, False),
    ],
)
def test_ranks_that_were_lost(code: int, family: str, *, cut: bool, gone: bool, killed: bool) -> None:
    assert UP._replace(code=code, family=family, cut=cut, gone=gone).killed is killed


@pytest.mark.parametrize(
    ("seen", "code"),
    [
        (UP, 75),  # mpirun ended with 0, but the folder does not say that the run is done
        (UP._replace(code=-9), 75),
        (UP._replace(code=1), 75),  # Open MPI's own, where ranks survive each other
        (UP._replace(code=1, survives=False, spoken=True), 1),
        (UP._replace(code=1, survives=False), 75),  # exit(1) of somebody's code
        (UP._replace(code=2, spoken=True), 2),
        (UP._replace(code=2), 75),  # exit(2) of somebody's code
        (UP._replace(code=75), 75),
        (UP._replace(code=130), 130),
        (UP._replace(code=77, spoken=True), 75),  # none of ours
        (UP._replace(code=2, spoken=True, cut=True), 75),  # ended by the guard
    ],
)
def test_an_exit_code_alone(seen: Observed, code: int, start: Start) -> None:
    assert judged(seen, start) == code


def test_an_exit_code_1_after_the_first_round_is_a_rank_lost(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    begin(start)
    assert judged(UP._replace(code=1, survives=False, spoken=True), start) == 75
    assert f"go on with --resume {start.folder.path}" in capsys.readouterr().err
    status = control.read_status(start.folder)
    assert status is not None
    assert (status.ending, status.cause) == ("resumable", "rank-lost")
    assert control.read_end(start.folder).times == 1


def test_the_folder_comes_before_the_exit_code(start: Start) -> None:
    begin(start)
    time.sleep(0.02)
    control.leave_word(start.folder, DIVERGED, "loss is not finite", "diverged-model")
    assert judged(UP._replace(code=-9), start) == 3
    start.folder.done.write_text("x")
    assert judged(UP._replace(code=1), start) == DONE.code


def test_a_folder_of_before_says_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.done.write_text("x")
    os.utime(folder.done, (1, 1))
    assert judged(UP._replace(code=-9), Start.now(folder)) == 75


def test_a_rehearsal_has_no_folder_to_ask() -> None:
    assert judged(UP, None) == 0
    assert judged(UP._replace(code=-9), None) == 75


@pytest.mark.parametrize(
    ("seen", "code", "says"),
    [
        (UP._replace(lived=False, code=1, said="no such device", born=False), 2, "no such device [mpi-start]"),
        (UP._replace(lived=False, code=1, said="", born=False), 75, "has not said why"),
        (UP._replace(lived=False, code=1, said="a library warns", born=True), 75, "has not said why"),
        (UP._replace(lived=False, code=1, said="a library has met an error", born=True), 2, "met an error"),
        (UP._replace(lived=False, code=0, said="", born=False), 2, "it said nothing"),
        (UP._replace(lived=False, code=-9, said="no such device", born=False), 75, "mpirun was killed (SIGKILL)"),
        (UP._replace(lived=False, code=1, said="no such device", spread=True), 75, "mpirun was ended before the run"),
    ],
)
def test_ranks_that_never_came_up(
    seen: Observed, code: int, says: str, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judged(seen, start) == code
    assert says in capsys.readouterr().err


def test_a_rank_that_ends_before_it_is_up_has_the_last_word(start: Start) -> None:
    seen = UP._replace(lived=False, code=4, said="silofold: error: the model raised [model-build]")
    assert judge.judge_start(seen, start) == (4, "silofold: error: the model raised [model-build]\n")
