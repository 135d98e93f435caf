"""Jobs that are ended from outside, or that say something which nobody can hear: the true ending, and no rank left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import mpirun
import run_folder
from budget import whole_run
from silofold.core import machine

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG = ("--set", "rounds.count=2000", "--set", "local.epochs=20")
QUICK = ("--set", "rounds.count=2", "--set", "local.epochs=1")


def launched(recipe: Path, data: Path, out: Path, *more: str) -> list[str]:
    command = [sys.executable, "-m", "silofold", "launch", str(recipe), "--data", str(data), "--out", str(out)]
    return [*command, "--servers", "1", "--workers", "2", *more]


def as_launcher(path: Path, script: str) -> dict[str, str]:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"SILOFOLD_LAUNCHER": str(path)}


@pytest.mark.parametrize("code", [1, *(pytest.param(code, marks=whole_run) for code in (143, 137))])
def test_a_launcher_that_was_ended_before_a_rank_was_up(code: int, recipe: Path, tiny: Path, tmp_path: Path) -> None:
    """One that cannot start its ranks says why."""
    ended = mpirun.run(launched(recipe, tiny, tmp_path / "run"), 60, as_launcher(tmp_path / "launcher", f"exit {code}"))
    assert (ended.code, len(ended.err.splitlines())) == (75, 1), ended
    rank = f"{sys.executable} -c 'import time; time.sleep(60)' -m silofold train"
    warns = as_launcher(
        tmp_path / "launcher", f"{rank} & echo 'lib.py:3: ResourceWarning: x' >&2; sleep 3; kill $!; exit {code}"
    )
    assert mpirun.run(launched(recipe, tiny, tmp_path / "run"), 60, warns).code == 75
    silent = as_launcher(tmp_path / "launcher", f"echo 'There are not enough slots.' >&2; exit {1}")
    assert mpirun.run(launched(recipe, tiny, tmp_path / "run"), 60, silent).code == 2


@pytest.mark.parametrize(("options", "code"), [(("--dry-run",), 2), ((), 75)])
def test_standard_output_that_cannot_be_written(
    options: tuple[str, ...], code: int, recipe: Path, tiny: Path, tmp_path: Path
) -> None:
    """Of a rehearsal it is all there is; of a run the folder has the same, and the run's own ending stands."""
    surroundings = dict(os.environ) | as_launcher(tmp_path / "launcher", "echo 'silofold: rank 0 is up' >&2; echo story")
    command = launched(recipe, tiny, tmp_path / "run", *options)
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=surroundings, text=True, check=False)
    assert ended.returncode == code, ended.stderr
    assert ended.stderr.count("standard output: No space left on device") == 1, ended.stderr
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as nobody:  # noqa: PTH123  (a descriptor)
        heard = subprocess.run(command, stdout=nobody, stderr=subprocess.PIPE, env=surroundings, text=True, check=False)
    assert "standard output" not in heard.stderr, heard.stderr


@contextlib.contextmanager
def begun(command: list[str], out: Path, *, rounds: bool) -> Iterator[tuple[subprocess.Popen[str], int, list[int]]]:
    """Start a job; yield it, its mpirun and its ranks once these are there, or once it has played rounds."""
    with mpirun.started(command) as process:
        run_folder.until(lambda: len(ranks_of(process.pid)) == 4)
        if rounds:
            run_folder.until(lambda: (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").stat().st_size)
        ranks = ranks_of(process.pid)
        yield process, ranks[0].parent, [rank.pid for rank in ranks]


def ranks_of(pid: int) -> list[machine.Child]:
    return [child for child in machine.descendants(pid) if " -m silofold train" in child.command and child.parent != pid]


def living(ranks: list[int]) -> list[int]:
    with_states = [(rank, Path(f"/proc/{rank}/stat")) for rank in ranks]
    return [rank for rank, stat in with_states if stat.exists() and ") Z" not in stat.read_text()]


@whole_run
@pytest.mark.parametrize("what", ["chdir", "closes"])
def test_a_model_that_changes_its_process(what: str, recipe: Path, tiny: Path, tmp_path: Path) -> None:
    """The current folder, say, where the run folder is named from; or standard output and error are closed."""
    model = f'model={{name="odd_models:Later",what="{what}"}}'
    command = launched(recipe, tiny, Path(os.path.relpath(tmp_path / "run")), *QUICK, "--set", model)
    ended = mpirun.run(command, 180, {"PYTHONPATH": str(Path(__file__).parents[1])})
    assert (ended.code, ended.faults()) == (0, []), ended
    assert not any(words in ended.err for words in ("Traceback", "lost sys.stderr")), ended
    assert (tmp_path / "run" / "model.pt").exists()


@whole_run
def test_an_mpirun_that_is_asked_to_end_while_ranks_start(recipe: Path, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with begun(launched(recipe, tiny, out, *LONG), out, rounds=False) as (process, launcher, _):
        os.kill(launcher, signal.SIGTERM)
        assert mpirun.wait(process, 60).code == 75


@whole_run
@pytest.mark.parametrize("both", [True, False], ids=["launch too", "mpirun alone"])
def test_an_mpirun_that_is_killed_in_a_round(recipe: Path, tiny: Path, tmp_path: Path, *, both: bool) -> None:
    """No rank trains on; status tells the truth, now and later; the run goes on at once."""
    out = tmp_path / "run"
    with begun(launched(recipe, tiny, out, *LONG), out, rounds=True) as (process, launcher, ranks):
        if both:
            process.kill()
        os.kill(launcher, signal.SIGKILL)
        run_folder.until(lambda: not living(ranks), 5)
        assert mpirun.wait(process, 60).code == (-signal.SIGKILL if both else 75)
    time.sleep(1.5)  # a scheduler that goes on would write its status anew
    ended = mpirun.silofold("status", out)
    assert ended.code == 75, ended
    assert ("dead" if both else "rank-lost") in ended.out
    done = len(run_folder.rounds(out))
    again = mpirun.run(
        [sys.executable, "-m", "silofold", "launch", "--resume", str(out), "--set", f"rounds.count={done + 1}"]
    )
    assert again.code == 0, again
