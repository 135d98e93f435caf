from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

import made_run
from silofold import cli
from silofold.record import whole
from silofold.record.rundir import RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A finished run, evaluated."""
    out = tmp_path_factory.mktemp("sound") / "run"
    made_run.make(out, tiny)
    assert cli.main(["evaluate", str(out)]) == 0
    return out


def flip(path: Path, at: int = -20) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def reword(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def swap_model(out: Path) -> None:
    """Put a sound model.pt of other weights there."""
    other = made_run.make(out.parent / "other", seed_of(out), seed=9)
    shutil.copy(other.model, out / "model.pt")


def seed_of(out: Path) -> Path:
    from pathlib import Path

    return Path(json.loads((out / "run.json").read_text())["settings"]["data"]["folder"])


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no model": (lambda out: (out / "model.pt").unlink(), "model.pt: No such file or directory"),
    "empty model": (lambda out: (out / "model.pt").write_bytes(b""), "model.pt: damaged: "),
    "flipped model": (lambda out: flip(out / "model.pt", 5000), "model.pt: damaged: "),
    "other model": (swap_model, "model.pt: conv1.weight: is not that of the checkpoint"),
    "no checkpoint": (lambda out: shutil.rmtree(out / "checkpoints" / "round_00002"), "round_00002/manifest.json: No such"),
    "flipped shard": (
        lambda out: flip(out / "checkpoints" / "round_00001" / "shard_0.h5"),
        "shard_0.h5: damaged: its sha256",
    ),
    "other DONE": (lambda out: (out / "DONE").write_text("0" * 64 + "\n"), "DONE: found '0000000000000000', expected "),
    "no rounds": (lambda out: (out / "metrics.jsonl").unlink(), "metrics.jsonl: No such file"),
    "one round": (
        lambda out: (out / "metrics.jsonl").write_bytes((out / "metrics.jsonl").read_bytes().splitlines(keepends=True)[0]),
        "metrics.jsonl does not tell of round 2",
    ),
    "other digest": (
        lambda out: reword(out / "metrics.jsonl", '"model_sha256":"', '"model_sha256":"0'),
        "metrics.jsonl tells of 0",
    ),
    "silo of no number": (
        lambda out: reword(out / "metrics.jsonl", '"silo":3', '"silo":33'),
        "line 1: names silo 33, expected 0 to 5",
    ),
    "silo of another name": (
        lambda out: reword(out / "metrics.jsonl", "silo_0003", "silo_3"),
        "names silos otherwise than the run's data",
    ),
    "accepted unasked": (lambda out: reword(out / "metrics.jsonl", '"accepted":[0]', '"accepted":[5]'), "not in the cohort"),
    "share above 1": (lambda out: reword(out / "metrics.jsonl", '"accuracy":0.5', '"accuracy":1.5'), "not from 0 to 1"),
    "other data": (
        lambda out: reword(out / "run.json", '"data_digest": "', '"data_digest": "0'),
        "is of other data than run.json",
    ),
    "other size": (lambda out: reword(out / "run.json", '"parameters": ', '"parameters": 1'), "run.json tells of 1"),
    "unknown setting": (lambda out: reword(out / "run.json", '"epochs"', '"epocs"'), "unknown key local.epocs"),
    "status": (lambda out: (out / "status.json").write_bytes(b"{"), "status.json: cannot be read: "),
    "predictions": (lambda out: flip(out / "predictions.h5", 0), "predictions.h5: cannot be read: "),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_told_in_a_line(kind: str, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    shutil.copytree(sound, out)
    damage, story = FAULTS[kind]
    damage(out)
    assert cli.main(["verify", str(out)]) == 2
    told = capsys.readouterr()
    assert story in told.out
    assert told.err == ""


def test_a_sound_run_and_its_silos(sound: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(sound)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"{sound}: federated run, finished, rounds: 2, checkpoints: 2"
    assert told[1].startswith(f"{sound}/model.pt: compared with round_00002, sha256 ")
    assert told[2] == "no fault"
    assert cli.main(["verify", str(tiny)]) == 0
    assert cli.main(["verify", str(tiny / "nowhere")]) == 2


def test_all_faults_are_told_at_once(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    shutil.copytree(sound, out)
    for kind in ("empty model", "flipped shard", "other DONE", "unknown setting"):
        FAULTS[kind][0](out)
    assert cli.main(["verify", str(out)]) == 2
    told = capsys.readouterr().out
    assert all(FAULTS[kind][1] in told for kind in ("empty model", "flipped shard", "other DONE", "unknown setting"))
    assert told.endswith("4 faults\n")


def test_a_model_that_cannot_be_built_is_said(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    shutil.copytree(sound, out)
    path = out / "checkpoints" / "round_00002" / "manifest.json"
    tree = json.loads(path.read_text())
    tree["settings"]["model"] = {"name": "nowhere:Net"}
    made_run.reseal(path, tree)
    assert cli.main(["verify", str(out)]) == 0
    assert "model.pt: not compared with a checkpoint, since the model cannot be built here: " in capsys.readouterr().out


def test_settings_of_a_checkpoint_must_be_settings(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shutil.copytree(sound, tmp_path / "run")
    path = max((out / "checkpoints").iterdir()) / "manifest.json"
    tree = json.loads(path.read_text())
    tree["settings"]["local"]["lr"] = "fast"
    made_run.reseal(path, tree)
    assert cli.main(["verify", str(out)]) == 2
    assert "local.lr = 'fast': expected float" in capsys.readouterr().out


def test_nothing_is_promised_that_is_not_there(sound: Path, tmp_path: Path) -> None:
    from silofold.record import history

    out = tmp_path / "run"
    shutil.copytree(sound, out)
    last = history.read(out / "metrics.jsonl")[-1]
    assert whole.unkept(RunFolder(out), last, model=True) == []
    for kind in ("flipped model", "no checkpoint", "one round"):
        FAULTS[kind][0](out)
    assert len(whole.unkept(RunFolder(out), last, model=True)) == 3
    assert len(whole.unkept(RunFolder(out), last, model=False)) == 2
