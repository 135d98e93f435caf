"""Silos and runs that an older version made: everything that comes after a run works on them, see tests/old/README.md."""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mpirun
from records import rounds
from silofold import cli
from silofold.data import silo
from silofold.record import answers

OLD = Path(__file__).parents[1] / "old"
VERSION = OLD / "69677e6"
SILOS = VERSION / "silos"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all runs, and the model's module where this process finds it."""
    shutil.copytree(VERSION, tmp_path / "old")
    monkeypatch.syspath_prepend(OLD)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path / "old"


def said(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    """Run a command in this process and return what it wrote to both streams."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cli.main([str(word) for word in words]) == code
    seen = capsys.readouterr()
    return seen.out + "".join(line for line in seen.err.splitlines(keepends=True) if "loading model" not in line)


def run(*words: object) -> mpirun.Ended:
    return mpirun.run(
        [sys.executable, "-m", "silofold", *map(str, words)], seconds=240, environment={"PYTHONPATH": str(OLD)}
    )


def digests(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["model_sha256"] for entry in entries]


def assert_same_or_told(ended: mpirun.Ended, found: list[str], recorded: list[str]) -> None:
    """On the CPU and torch that made the record: the same bits. Elsewhere: what differs stands in the error or warning."""
    if found == recorded:
        assert ended.code == 0, ended
        return
    lines = " ".join(ended.err.splitlines())
    if any(f"{key}: " in lines for key in ("cpu", "torch", "hardware", "numpy", "aten_cpu_capability")):
        pytest.skip(f"made on another machine, and what differs is told: {lines[-300:]}")
    pytest.fail(f"{ended}: other bits, and nothing that differs is named")


def test_the_silos_are_those_of_the_manifest() -> None:
    manifest = silo.read_manifest(SILOS)
    for info in manifest.silos:
        for split in silo.SPLITS:
            assert len(silo.read_split(SILOS, info, split, manifest).labels) == getattr(info, split).examples


@pytest.mark.parametrize("kind", ["federated", "local", "central", "unfinished"])
def test_evaluate_counts_what_the_run_recorded(kind: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = here / "measures.json"
    text = said(capsys, "evaluate", here / kind, SILOS, "--out", out)
    found, last = json.loads(out.read_text()), rounds(here / kind)[-1]
    assert found["model_sha256"] == last["model_sha256"]
    assert found["global_model"]["pooled"]["accuracy"] == pytest.approx(last["accuracy"])
    assert [one["accuracy"] for one in found["global_model"]["silos"]] == pytest.approx(
        [s["accuracy"] for s in last["silos"]]
    )
    assert "top-5" not in text


def test_old_predictions_are_read(here: Path) -> None:
    data = silo.read_manifest(SILOS)
    sizes = [one.test.examples for one in data.silos]
    kept = answers.read(here / "federated" / "predictions.h5", sizes, len(data.classes))
    assert kept.epochs == 1
    assert kept.personalised is not None
    assert kept.global_model.right.mean() == pytest.approx(rounds(here / "federated")[-1]["accuracy"])


def test_compare_and_report(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [here / name for name in ("federated", "local", "central")]
    text = said(capsys, "compare", *runs, "--data", SILOS, "--out", here / "compare.json")
    assert "McNemar's exact p" in text
    assert [run["name"] for run in json.loads((here / "compare.json").read_text())["runs"]] == [
        "federated",
        "local",
        "central",
    ]
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    text = said(capsys, "report", *runs, here / "unfinished", "--data", SILOS, "--out", here / "page.html", "--images")
    assert "unfinished is not finished" in text
    assert (here / "page.html").stat().st_size > 100_000


def test_predict(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = silo.read_manifest(SILOS)
    image = silo.read_split(SILOS, manifest.silos[0], "test", manifest).images[0]
    Image.fromarray(np.asarray(image)).save(here / "one.png")
    text = said(capsys, "predict", here / "federated", here / "one.png", "--top", 9)
    assert len(text.splitlines()) == 1
    assert text.count("%") == 4
    text = said(capsys, "predict", here / "federated", here, here / "one.png", code=2)
    assert "found a folder, expected a picture file" in text
    assert text.count("one.png  ") == 1  # the others are answered all the same
    for words in (
        ("predict", here / "federated", here / "one.png", "--top", -1),
        ("evaluate", here / "federated", "--personalise", -1),
    ):
        assert "[option-value]" in said(capsys, *words, code=2)


def test_a_run_whose_name_is_not_utf8(here: Path) -> None:
    run = Path(os.fsdecode(os.fsencode(here) + b"/caf\xe9"))
    shutil.copytree(here / "central", run)
    for words in (
        ("evaluate", run, SILOS, "--out", here / "out.json"),
        ("compare", run, here / "local", "--data", SILOS, "--out", here / "out.json"),
        ("report", run, here / "local", "--data", SILOS, "--out", here / "page.html"),
    ):
        ended = mpirun.silofold(*words, environment={"PYTHONPATH": str(OLD), "PYTHONIOENCODING": "ascii"})
        assert (ended.code, len(ended.faults())) == (2, 1), ended
        assert "caf\\udce9" in ended.err


def test_status(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "86.96%" in said(capsys, "status", here / "federated")


def test_replay(here: Path) -> None:
    ended = run("replay", here / "federated", "--data", SILOS, "--out", here / "again", "--servers", 1, "--workers", 1)
    found = digests(rounds(here / "again"))
    assert_same_or_told(ended, found, digests(rounds(here / "federated")))
    assert "identical: 3 rounds" in ended.out


def test_resume_of_a_finished_run(here: Path) -> None:
    ended = run(
        "launch", "--resume", here / "federated", "--data", SILOS, "--set", "rounds.count=4", "--servers", 1, "--workers", 2
    )
    after = [json.loads(line) for line in (VERSION / "after" / "resumed.jsonl").read_text().splitlines()]
    entries = rounds(here / "federated")
    assert [entry["round"] for entry in entries] == [1, 2, 3, 4], ended
    assert_same_or_told(ended, digests(entries), digests(after))
    assert (here / "federated" / "DONE").read_text().strip() == entries[-1]["model_sha256"]
    log = Path("federated", "scheduler", "scheduler.log")
    told = (here / log).read_text().removeprefix((VERSION / log).read_text())
    assert "checkpoint of round 4 written" in told
    assert "too late" not in told  # nobody was late


def test_resume_of_an_unfinished_run(here: Path) -> None:
    """It keeps momentum in silos and on the server, both from its checkpoint."""
    ended = run("launch", "--resume", here / "unfinished", "--data", SILOS, "--servers", 1, "--workers", 1)
    assert ended.code == 0, ended
    before, after = rounds(VERSION / "unfinished"), rounds(here / "unfinished")
    assert digests(after)[:2] == digests(before)
    assert [entry["round"] for entry in after] == [1, 2, 3, 4]
    assert not any(entry["void"] for entry in after)
    assert (here / "unfinished" / "DONE").exists()
