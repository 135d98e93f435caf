"""A worker that stops while silos keep their momentum: others train them from what they keep, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from typing import TYPE_CHECKING

import mpirun
from run_folder import rounds, until
from silofold.commands.launching import launcher

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = (
    "rounds.count=1000", "rounds.start_window=3", "rounds.update_ratio=0.3", "rounds.update_window=3",
    "local.keep_momentum=true", "local.epochs=4",
)  # fmt: skip


def whole(out: Path) -> int:
    """Count the rounds in which every silo counted."""
    return sum(len(entry["accepted"]) == 6 for entry in rounds(out))


def test_silos_are_trained_elsewhere_from_what_they_keep(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    program = ["-m", "silofold", "train", str(recipe), "--data", str(tiny), "--out", str(out), *sets]
    with mpirun.started(mpirun.command(5, program), launcher.environment(1)):
        until(lambda: whole(out) >= 3)
        ranks = json.loads((out / "run.json").read_text())["ranks"]
        away = next(rank["pid"] for rank in ranks if rank["role"] == "worker_1")
        os.kill(away, signal.SIGSTOP)
        until(lambda: any(len(entry["accepted"]) < 6 for entry in rounds(out)))
        before = whole(out)
        until(lambda: whole(out) >= before + 3)  # it is still away, and its silos are not
        os.kill(away, signal.SIGCONT)
        before = whole(out)
        until(lambda: whole(out) >= before + 3)
        for rank in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank["pid"], signal.SIGKILL)
    count = len(rounds(out)) + 2
    resumed = mpirun.on_ranks(
        6, ["-m", "silofold", "train", "--resume", str(out), "--set", f"rounds.count={count}", "--set", "roles.servers=2"]
    )
    assert resumed.code == 0, resumed
    again = mpirun.run([sys.executable, "-m", "silofold", "replay", str(out), "--workers", "2"])
    assert again.code == 0, again
    assert f"identical: {count} rounds" in again.out
    kept = sorted(path.name for path in (out / "state").iterdir())
    assert len({name.split(".")[0] for name in kept}) == 6
    assert len(kept) <= 6 * 3  # rounds.keep_checkpoints
