"""The default update window in whole runs, and what the last line says was lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mpirun
from budget import whole_run
from records import rounds

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = 'seed = 5\n[rounds]\ncount = {count}\n[local]\nepochs = 2\nbatch_size = 8\nlr = 0.05\n[model]\nname = "lenet"\n'


def launch(tmp_path: Path, tiny: Path, count: int, fault: str, *words: object) -> tuple[mpirun.Ended, Path]:
    recipe, out = tmp_path / "run.toml", tmp_path / "run"
    recipe.write_text(RECIPE.format(count=count), encoding="utf-8")
    ended = mpirun.silofold(
        "launch", recipe, "--data", tiny, "--out", out, "--servers", 1, "--workers", 3, *words,
        environment={"SILOFOLD_FAULT": fault}, seconds=280,
    )  # fmt: skip
    return ended, out


def test_the_window_follows_the_rounds_and_a_death_is_told(tmp_path: Path, tiny: Path) -> None:
    ended, out = launch(tmp_path, tiny, 4, "worker 1: kill @ round 2 before train", "--set", "rounds.update_ratio=0.3")
    assert ended.code == 0, ended
    entries = rounds(out)
    windows = [entry["window"] for entry in entries]
    assert windows[0] == 3600
    assert all(60 <= window < 3600 for window in windows[1:])
    lost = [(silo["cause"], silo["worker"], silo["reason"]) for silo in entries[1]["silos"] if silo["reason"]]
    assert lost == 2 * [("dead", "worker_1", "worker_1 died")]
    assert "2 of 24 updates lost: worker_1 died (2)" in ended.out
    assert "2 of 24 updates lost: worker_1 died (2)" in mpirun.silofold("status", out).out
    resumed = mpirun.silofold(
        "launch", "--resume", out, "--workers", 2, "--set", "rounds.count=5", "--set", "rounds.update_window=77"
    )
    assert resumed.code == 0, resumed
    assert rounds(out)[-1]["window"] == 77


@whole_run
def test_a_stopped_worker_costs_no_hour_at_default_settings(tmp_path: Path, tiny: Path) -> None:
    ended, out = launch(tmp_path, tiny, 3, "worker 1: stop @ round 2 before train")
    assert ended.code == 0, ended
    entries = rounds(out)
    assert [entry["void"] for entry in entries] == [False, True, False, False]
    assert [entry["timed_out"] for entry in entries] == [False, True, False, False]
    assert 60 <= entries[1]["seconds"]["total"] < 160
    assert "6 of 24 updates lost: void rounds (4), worker_1 came too late (2)" in ended.out


@whole_run
def test_survivors_wait_for_a_stopped_rank_no_longer_than_the_last_window(tmp_path: Path, tiny: Path) -> None:
    ended, out = launch(tmp_path, tiny, 3, "server 0: kill @ round 2 before settle; worker 1: stop @ round 2 before settle",
                        "--servers", 2, "--set", "rounds.start_window=5")  # fmt: skip
    assert ended.code == 0, ended
    assert sum(not entry["void"] for entry in rounds(out)) == 3
