"""A baseline has what a run has: it is asked to stop, resumed anywhere, compiled, and tells of the silos that fail."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import mpirun
from budget import whole_run
from run_folder import rounds
from tiny_silos import pack

if TYPE_CHECKING:
    import subprocess

WHERE = {"PYTHONPATH": str(Path(__file__).parents[1])}
OWN = 'model={name="odd_models:%s"}'


@pytest.fixture(scope="module")
def even(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small silos, with 10, 11 and 12 test images."""
    return pack(tmp_path_factory.mktemp("even") / "silos", (40, 32, 24))


def words(kind: str, recipe: Path, data: Path, out: Path, *settings: str) -> list[object]:
    sets = [part for one in settings for part in ("--set", one)]
    return ["baseline", kind, recipe, "--data", data, "--out", out, "--workers", 2, *sets]


def wait_for_rounds(process: subprocess.Popen[str], out: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (out / "metrics.jsonl").exists() and len((out / "metrics.jsonl").read_bytes().splitlines()) >= count:
            return
        time.sleep(0.01)
    raise AssertionError(process.communicate())


@whole_run
@pytest.mark.parametrize("kind", ["central", "local"])
def test_an_evaluation_that_raises_costs_that_silos_score_alone(kind: str, even: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended = mpirun.silofold(*words(kind, recipe, even, out, OWN % "RaisesOnOneSilo"), environment=WHERE)
    assert ended.code == 0, ended
    assert "1 of 3 silos was not fully evaluated: silo_0001: KeyboardInterrupt" in ended.out.splitlines()[-1]
    assert ended.err.count("silo 1: cannot be evaluated: KeyboardInterrupt") == 1, ended
    for one in rounds(out):
        assert [silo["accuracy"] is None for silo in one["silos"]] == [False, True, False]
        assert one["test_examples"] == 22
        assert "no such" in one["silos"][1]["untested"]
    assert (out / "DONE").exists()


@pytest.mark.parametrize("how", ["asked", pytest.param("SIGTERM", marks=whole_run), pytest.param("now", marks=whole_run)])
def test_a_baseline_that_is_asked_to_stop_goes_on_to_the_same_bits(
    how: str, tiny: Path, recipe: Path, tmp_path: Path
) -> None:
    """Checkpoints are written at the end alone: what it goes on from is that of the stop."""
    settings = ("rounds.count=2000", "rounds.checkpoint_every=0", "local.epochs=1", "sinks=[]")
    out = tmp_path / "run"
    with mpirun.started(
        [sys.executable, "-m", "silofold", *map(str, words("local", recipe, tiny, out, *settings))]
    ) as process:
        wait_for_rounds(process, out, 2)
        if how == "SIGTERM":
            process.send_signal(signal.SIGTERM)
        else:
            asked = mpirun.silofold("stop", out, "--wait", 60, *(["--now"] if how == "now" else []))
            assert asked.code == 0, asked
            assert ("stopped at once" if how == "now" else "stopped as asked") in asked.out
        ended = mpirun.wait(process, 60)
    assert ended.code == (75 if how == "now" else 0), ended
    assert "the same command goes on" in ended.out.splitlines()[-1]
    assert not (out / "DONE").exists()
    found = mpirun.silofold("status", out)
    assert (found.code, "stopped" in found.out) == (ended.code, True), found
    stopped = len(rounds(out))
    if how == "now":
        return
    assert list((out / "checkpoints").iterdir()) == [out / "checkpoints" / f"round_{stopped:05d}"]
    longer = (f"rounds.count={stopped + 3}", *settings[1:])
    again = mpirun.silofold(*words("local", recipe, tiny, out, *longer))
    assert again.code == 0, again
    undisturbed = tmp_path / "undisturbed"
    assert mpirun.silofold(*words("local", recipe, tiny, undisturbed, *longer)).code == 0
    assert [one["model_sha256"] for one in rounds(out)] == [one["model_sha256"] for one in rounds(undisturbed)]


@whole_run
def test_a_killed_baseline_is_told_of_by_status(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    started = [
        sys.executable,
        "-m",
        "silofold",
        *map(str, words("central", recipe, tiny, out, "rounds.count=2000", "sinks=[]")),
    ]
    with mpirun.started(started) as process:
        wait_for_rounds(process, out, 1)
        found = mpirun.silofold("status", out)
        assert (found.code, "running for" in found.out) == (0, True), found
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        found = mpirun.silofold("status", out)
    assert (found.code, "the same command goes on" in found.out) == (75, True), found


@whole_run
def test_a_compiled_baseline_is_compiled(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    """Compiled code adds in another order: other bits, near the same."""
    found = {}
    for compiled in ("false", "true"):
        out = tmp_path / compiled
        ended = mpirun.silofold(
            *words("central", recipe, tiny, out, f"local.compile={compiled}", "rounds.count=1"), seconds=400
        )
        assert ended.code == 0, ended
        found[compiled] = rounds(out)[-1]
    assert found["true"]["model_sha256"] != found["false"]["model_sha256"]
    assert found["true"]["train_loss"] == pytest.approx(found["false"]["train_loss"], rel=1e-3)


def test_a_graph_without_a_gpu_is_refused_as_in_a_run(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    ended = mpirun.silofold(*words("central", recipe, tiny, tmp_path / "run", "local.cuda_graph=true", "device=cpu"))
    assert (ended.code, "expected a GPU" in ended.err) == (2, True), ended
    assert json.loads((tmp_path / "run" / "status.json").read_text())["cause"] == "device-none"
