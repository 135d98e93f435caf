"""What becomes of a job whose run folder is full, or taken away under it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

import mpirun
from budget import whole_run
from run_folder import rounds, until
from silofold.commands.launching import launcher

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.mark.parametrize("what", ["metrics.jsonl", pytest.param(".", marks=whole_run)])
def test_a_run_folder_that_vanishes_is_noticed_within_a_round(what: str, tiny: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    program = ["-m", "silofold", "train", str(recipe), "--data", str(tiny), "--out", str(out), "--set", "rounds.count=4000"]
    with mpirun.started(mpirun.command(3, program), launcher.environment(1)) as process:
        until(lambda: len(rounds(out)) > 2)
        until(lambda: gone(out / what), 10)
        ended = mpirun.wait(process, 60)
    assert ended.code == 2, ended
    assert len(ended.faults()) == 1, ended
    assert ended.faults()[0].endswith("[run-vanished]")


def gone(path: Path) -> bool:
    """Remove a file, or a folder into which a job still writes."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()
    return not (path / "metrics.jsonl").exists()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, whose size can be changed."""
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", place], check=False).returncode:
        pytest.skip("only root mounts a file system")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@whole_run
@pytest.mark.parametrize(
    ("size", "every", "told"),
    [
        ("1000k", 1, "checkpoint-write"),  # the 14th checkpoint
        ("120k", 0, "-write"),  # a line of metrics.jsonl, or of the table
        ("200k", 0, "-write"),  # the last checkpoint, or the final model
        ("20k", 1, "-write"),  # the very beginning
    ],
)
def test_a_full_disk_ends_resumably_in_one_line(
    size: str, every: int, told: str, small: Path, tiny: Path, recipe: Path
) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", small], check=True)
    settings = ("rounds.count=40", "local.epochs=1", "rounds.keep_checkpoints=50", f"rounds.checkpoint_every={every}")
    ended = mpirun.train(3, recipe, tiny, small / "run", *settings)
    assert ended.code == 75, ended
    assert not (small / "run" / "DONE").exists()
    faults = [line for line in ended.faults() if line.startswith("silofold: error: ")]
    assert faults, ended
    assert all(line.endswith(f"{told}]") and "No space left on device" in line for line in faults), ended
    assert "Traceback" not in ended.err
    assert "Segmentation" not in ended.err
    subprocess.run(["mount", "-o", "remount,size=10m", small], check=True)
    with contextlib.suppress(FileNotFoundError):
        (small / "run" / "status.tmp").unlink()
    again = mpirun.train(3, recipe, tiny, small / "run", *settings)
    assert again.code == 0, again
    assert mpirun.silofold("verify", small / "run").code == 0
