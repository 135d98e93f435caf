"""A dry run: everything up to the first round, told, and nothing left."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import mpirun

if TYPE_CHECKING:
    from pathlib import Path


def launch(recipe: Path, data: Path, out: Path, *more: str) -> mpirun.Ended:
    shape = ["--servers", "2", "--workers", "3"]
    command = [
        sys.executable,
        "-m",
        "silofold",
        "launch",
        str(recipe),
        "--data",
        str(data),
        "--out",
        str(out),
        *shape,
        *more,
    ]
    return mpirun.run(command, 120)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_tells_the_plan_and_leaves_nothing(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    ended = launch(recipe, tiny, tmp_path / "new" / "run", "--dry-run")
    assert ended.code == 0, ended
    assert "begins with round 1; 3 of 3 rounds to go" in ended.out
    told = [line.split() for line in ended.out.splitlines() if line.startswith("  rank ")]
    assert [words[2] for words in told] == ["scheduler", "server_0", "server_1", "worker_0", "worker_1", "worker_2"]
    memory = [float(words[5]) for words in told]
    assert min(memory[3:]) > max(memory[:3]) > 10, "workers hold torch, MiB"
    assert sum(int(words[words.index("training") - 1]) for words in told[3:]) == 61 + 18 + 40 + 33 + 25 + 52
    assert not list(tmp_path.iterdir())


def test_a_dry_run_of_a_run_that_goes_on_changes_nothing(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert launch(recipe, tiny, out).code == 0
    (out / "DONE").unlink()  # as if it had been killed before the last word
    before = files(out)
    ended = launch(recipe, tiny, out, "--dry-run")
    assert ended.code == 0, ended
    assert "goes on with round 4; 0 of 3 rounds to go" in ended.out
    assert files(out) == before


def test_a_dry_run_finds_faults(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    ended = launch(recipe, tiny, tmp_path, "--dry-run")
    assert (ended.code, len(ended.faults())) == (2, 1), ended
    assert "thesis.tex" in ended.faults()[0]
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
