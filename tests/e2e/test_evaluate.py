"""What comes after a run, on real runs: evaluate, predict and the baselines."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import mpirun
from mpirun import silofold as command
from records import rounds
from silofold.data import silo as silos
from silofold.record import answers

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = [sys.executable, "-m", "silofold"]
TESTS = range(10, 16)
"""Test images of each silo of `tiny`."""


@pytest.fixture(scope="module")
def three(tiny: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A federated run and its two baselines."""
    folder = tmp_path_factory.mktemp("three")
    ended = mpirun.train(3, recipe, tiny, folder / "federated", "rounds.count=4", "roles.servers=1")
    assert ended.code == 0, ended
    for kind in ("local", "central"):
        ended = command("baseline", kind, folder / "federated", "--out", folder / kind, "--workers", 2)
        assert ended.code == 0, ended
    return {name: folder / name for name in ("federated", "local", "central")}


@pytest.mark.parametrize("kind", ["federated", "local", "central"])
def test_evaluate_finds_what_the_run_recorded(kind: str, three: dict[str, Path], tmp_path: Path) -> None:
    ended = command("evaluate", three[kind], "--out", tmp_path / "measures.json")
    assert ended.code == 0, ended
    found, last = json.loads((tmp_path / "measures.json").read_text()), rounds(three[kind])[-1]
    assert found["model_sha256"] == last["model_sha256"]
    assert found["global_model"]["pooled"]["accuracy"] == last["accuracy"]
    assert found["global_model"]["pooled"]["examples"] == last["test_examples"]
    assert found["global_model"]["loss"] == pytest.approx(last["test_loss"], rel=1e-9)
    assert [one["accuracy"] for one in found["global_model"]["silos"]] == [silo["accuracy"] for silo in last["silos"]]
    assert f"{last['accuracy']:.2%}" in ended.out
    if kind == "local":
        own = [row[index]["accuracy"] for index, row in enumerate(found["matrix"])]
        assert own == [silo["accuracy"] for silo in last["silos"]]
        assert np.shape([[one["correct"] for one in row] for row in found["matrix"]]) == (6, 6)
    assert ("matrix" in found) == (kind == "local")


def test_baselines_are_recorded_like_a_run(three: dict[str, Path], tiny: Path) -> None:
    records = {kind: json.loads((path / "run.json").read_text()) for kind, path in three.items()}
    for kind in ("local", "central"):
        assert records[kind]["baseline"] == kind
        assert records[kind]["settings"]["local"] == records["federated"]["settings"]["local"]
        assert records[kind]["settings"]["rounds"] == records["federated"]["settings"]["rounds"]
        assert records[kind]["data_digest"] == records["federated"]["data_digest"]
        entries = rounds(three[kind])
        assert [entry["round"] for entry in entries] == [1, 2, 3, 4]
        assert (three[kind] / "DONE").read_text().strip() == entries[-1]["model_sha256"]
        assert len(entries[-1]["shard_sha256"]) == (6 if kind == "local" else 1)
        assert (three[kind] / "metrics.csv").exists()
    steps = sum(-(-silo.train.examples // 8) * 2 for silo in silos.read_manifest(tiny).silos)
    assert records["local"]["steps_a_round"] == records["central"]["steps_a_round"] == steps


def test_one_silo_is_the_same_alone_pooled_and_federated(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    """With a single silo there is nothing to federate: all three train the same model."""
    import shutil

    single = tmp_path / "silos"
    single.mkdir()
    manifest = silos.read_manifest(tiny)
    shutil.copy(tiny / manifest.silos[0].file, single)
    silos.write_manifest(single, manifest.layout, manifest.silos[:1])
    ended = mpirun.train(3, recipe, single, tmp_path / "federated")
    assert ended.code == 0, ended
    for kind in ("local", "central"):
        assert command("baseline", kind, recipe, "--data", single, "--out", tmp_path / kind).code == 0
    alone, pooled, federated = (rounds(tmp_path / kind) for kind in ("local", "central", "federated"))
    assert [entry["model_sha256"] for entry in alone] == [entry["model_sha256"] for entry in pooled]
    for ours, theirs in zip(alone, federated, strict=True):  # the exact sum rounds to 2^-32
        assert ours["test_loss"] == pytest.approx(theirs["test_loss"], rel=1e-4)
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)


@pytest.mark.parametrize("keep", ["false", "true"])
def test_killed_baseline_goes_on_to_the_same_bits(keep: str, tiny: Path, recipe: Path, tmp_path: Path) -> None:
    settings = ["--data", str(tiny), "--set", "rounds.count=30", "--set", f"local.keep_momentum={keep}"]
    whole = [*PROGRAM, "baseline", "local", str(recipe), *settings, "--out"]
    assert mpirun.run([*whole, str(tmp_path / "whole")]).code == 0
    out = tmp_path / "cut"
    with mpirun.started([*whole, str(out), "--workers", "1"]) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
            if (out / "metrics.jsonl").exists() and len((out / "metrics.jsonl").read_bytes().splitlines()) > 5:
                break
        os.kill(process.pid, signal.SIGKILL)
    assert not (out / "DONE").exists()
    ended = mpirun.run([*whole, str(out), "--workers", "2"])
    assert ended.code == 0, ended
    assert [entry["model_sha256"] for entry in rounds(out)] == [
        entry["model_sha256"] for entry in rounds(tmp_path / "whole")
    ]


def test_personalised_models_are_trained_in_their_silo(three: dict[str, Path], tmp_path: Path) -> None:
    ended = command("evaluate", three["federated"], "--personalise", 3, "--out", tmp_path / "measures.json")
    assert ended.code == 0, ended
    found = json.loads((tmp_path / "measures.json").read_text())
    assert found["epochs"] == 3
    assert found["personalised"]["pooled"]["examples"] == found["global_model"]["pooled"]["examples"]
    assert found["personalised"]["loss"] != found["global_model"]["loss"]
    kept = answers.read(three["federated"] / "predictions.h5", TESTS, 5)
    assert kept.epochs == 3
    assert kept.personalised is not None
    assert kept.personalised.right.sum() == found["personalised"]["pooled"]["correct"]


def test_predict_says_what_evaluate_counts(three: dict[str, Path], tiny: Path, tmp_path: Path) -> None:
    manifest = silos.read_manifest(tiny)
    split = silos.read_split(tiny, manifest.silos[5], "test", manifest)
    paths = []
    for index, image in enumerate(split.images):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(image).save(paths[-1])
    ended = command("predict", three["federated"], *paths)
    assert ended.code == 0, ended
    said = [" ".join(line.split()[1:-1]) for line in ended.out.splitlines()]
    assert command("evaluate", three["federated"]).code == 0
    kept = answers.read(three["federated"] / "predictions.h5", TESTS, 5).global_model
    assert said == [manifest.classes[k] for k in kept.predicted[kept.silo == 5]]
    checkpoint = min((three["federated"] / "checkpoints").iterdir())
    top = command("predict", checkpoint, paths[0], "--top", 3)
    assert top.code == 0, top
    assert top.out.count("%") == 3


def test_bad_input_of_what_comes_after(three: dict[str, Path], tiny: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    for words, story in [
        (("evaluate", tmp_path), "found neither run.json nor manifest.json"),
        (("evaluate", three["federated"], tmp_path), "silos.json"),
        (("predict", three["federated"], broken), "not a readable picture"),
        (("predict", three["local"], broken), "one a silo; expected one model for all"),
        (("baseline", "local", three["federated"], "--out", three["federated"]), "finished run"),
        (("baseline", "local", three["federated"], "--out", tmp_path / "x", "--workers", 0), "expected at least 1"),
    ]:
        ended = command(*words)
        assert ended.code == 2, ended
        assert len(ended.faults()) == 1, ended
        assert story in ended.faults()[0]
    shape = (tiny / "silos.json").read_text().replace('"class 4"', '"class 5"')
    other = tmp_path / "other"
    other.mkdir()
    (other / "silos.json").write_text(shape)
    assert command("evaluate", three["federated"], other).code == 2
