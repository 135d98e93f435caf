"""A worker that stops for some rounds while silos keep their momentum: checkpoints go on, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import mpirun
from run_folder import rounds, until
from silofold import launch

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = (
    "rounds.count=1000", "rounds.start_quorum=0.3", "rounds.start_window=3", "rounds.update_ratio=0.3",
    "rounds.update_window=3", "local.keep_momentum=true", "rounds.keep_checkpoints=1000", "local.epochs=8",
)  # fmt: skip


def files(out: Path, number: int) -> dict[str, str]:
    manifest: dict[str, Any] = json.loads((out / "checkpoints" / f"round_{number:05d}" / "manifest.json").read_text())
    return dict(manifest["files"])


def newest(out: Path) -> int:
    return max(int(path.name.removeprefix("round_")) for path in (out / "checkpoints").glob("round_*"))


def stop_for_some_rounds(worker: int, out: Path) -> int:
    """Return the first round without the worker; 0 if it had momentum that no checkpoint has, so that none was written."""
    begin = len(rounds(out))
    os.kill(worker, signal.SIGSTOP)
    until(lambda: any(len(entry["cohort"]) < 6 for entry in rounds(out)[begin:]))
    absent: int = next(entry["round"] for entry in rounds(out)[begin:] if len(entry["cohort"]) < 6)
    until(lambda: len(rounds(out)) >= absent + 4)
    written = [(out / "checkpoints" / f"round_{number:05d}").exists() for number in (absent, absent + 2)]
    os.kill(worker, signal.SIGCONT)
    back = len(rounds(out)) + 2
    until(lambda: any(len(entry["cohort"]) == 6 for entry in rounds(out)[back:]))
    until(lambda: newest(out) > back)
    return absent if all(written) else 0


def test_checkpoints_while_a_worker_is_away(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    program = ["-m", "silofold", "train", str(recipe), "--data", str(tiny), "--out", str(out), *sets]
    with mpirun.started(mpirun.command(5, program), launch.environment(1)):
        # right after a checkpoint: between evaluation and checkpoint its last momentum would be known to itself alone
        until((out / "checkpoints" / "round_00004").exists)
        ranks = json.loads((out / "run.json").read_text())["ranks"]
        away = next(rank["pid"] for rank in ranks if rank["role"] == "worker_1")
        absent = next(filter(None, (stop_for_some_rounds(away, out) for _ in range(10))))
        for rank in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank["pid"], signal.SIGKILL)
    entries = rounds(out)
    gone = set(range(6)) - set(entries[absent - 1]["cohort"])
    assert gone
    before = max(entry["round"] for entry in entries if gone <= set(entry["accepted"]) and entry["round"] < absent)
    published = [int(path.name[6:]) for path in (out / "checkpoints").iterdir() if path.name.startswith("round_")]
    for number in (absent, absent + 2):
        assert set(files(out, number)) == {"shard_0.h5", *(f"silo_{silo}.h5" for silo in range(6))}
        for silo in range(6):
            same = files(out, number)[f"silo_{silo}.h5"] == files(out, before)[f"silo_{silo}.h5"]
            assert same == (silo in gone)
    # go on from the checkpoint of a round with absences, on other ranks, and play all of it again
    for number in published:
        if number > absent + 1:
            (out / "checkpoints" / f"round_{number:05d}" / "manifest.json").unlink()
    resumed = mpirun.on_ranks(
        6,
        ["-m", "silofold", "train", "--resume", str(out), "--set", f"rounds.count={absent + 5}", "--set", "roles.servers=2"],
    )
    assert resumed.code == 0, resumed
    assert all(len(entry["cohort"]) == 6 for entry in rounds(out)[absent + 1 :])
    again = mpirun.run([sys.executable, "-m", "silofold", "replay", str(out), "--workers", "2"])
    assert again.code == 0, again
    assert f"identical: {absent + 5} rounds" in again.out
