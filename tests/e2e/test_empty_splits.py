"""Silos without a test image, from training to the report: n/a and why, and neither a traceback nor a nan."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import budget
import mpirun
from records import rounds
from silofold import cli
from silofold.data import silo
from tiny_silos import RECIPE

if TYPE_CHECKING:
    from collections.abc import Sequence

OLD = Path(__file__).parents[1] / "old"
CASES = {"one of three": (6, 0, 5), "all": (0, 0), "alone": (0,), "a class without test images": (1, 1)}


def pack(folder: Path, tests: Sequence[int]) -> Path:
    """Write silos of 8 training images and so many test images each."""
    folder.mkdir()
    layout = silo.Layout(("a", "b", "c"), (8, 8), "none", "made by a test")
    rng = np.random.default_rng(1)

    def stream(size: int) -> silo.SplitStream:
        images = rng.integers(0, 256, size=(size, 8, 8)).astype(np.uint8)
        return silo.SplitStream(size, [(images, (np.arange(size) % 3).astype(np.int32), np.zeros(size, np.int32))])

    infos = []
    for index, size in enumerate(tests):
        splits: dict[silo.SplitName, silo.SplitStream] = {"train": stream(8), "test": stream(size)}
        infos.append(silo.write_silo(folder / f"{index}.h5", f"silo_{index}", (f"writer {index}",), layout, splits))
    silo.write_manifest(folder, layout, infos)
    return folder


def said(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert cli.main([str(word) for word in words]) == 0
    seen = capsys.readouterr()
    text = seen.out + seen.err
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)
    return text


def all_that_follows(
    run: Path, other: Path, tests: Sequence[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run every command of what comes after a run."""
    for kind in (run, other):
        text = said(capsys, "evaluate", kind, "--personalise", 1, "--out", tmp_path / "measures.json")
        found = json.loads((tmp_path / "measures.json").read_text())
        assert [one["examples"] for one in found["global_model"]["silos"]] == list(tests)
        assert [one["accuracy"] is None for one in found["global_model"]["silos"]] == [not size for size in tests]
        assert (found["global_model"]["pooled"]["accuracy"] is None) == (not any(tests))
        assert ("no silo has a test image" in text) == (not any(tests))
        assert ("n/a" in text) == (0 in tests)
    text = said(capsys, "compare", run, other, "--out", tmp_path / "compare.json")
    assert "other test images" not in text
    assert json.loads((tmp_path / "compare.json").read_text())["first_against"][0]["same_images"] is True
    Image.new("L", (8, 8)).save(tmp_path / "one.png")
    assert "%" in said(capsys, "predict", run, tmp_path / "one.png")
    assert not re.search(r"\bnan\b", (run / "metrics.csv").read_text())
    assert all(entry["test_examples"] == sum(tests) for entry in rounds(run))
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    said(capsys, "report", run, other, "--out", tmp_path / "page.html", "--images")


@pytest.mark.parametrize(
    "tests",
    [
        pytest.param(sizes, id=name, marks=() if name in {"one of three", "all"} else budget.whole_run)
        for name, sizes in CASES.items()
    ],
)
def test_baselines_and_what_follows(
    tests: Sequence[int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(OLD)
    monkeypatch.setenv("PYTHONPATH", str(OLD))
    data, recipe = pack(tmp_path / "silos", tests), tmp_path / "run.toml"
    recipe.write_text(RECIPE.replace('"lenet"', '"old_model:Small"').replace("count = 3", "count = 1"), encoding="utf-8")
    for kind in ("central", "local"):
        ended = mpirun.silofold("baseline", kind, recipe, "--data", data, "--out", tmp_path / kind, "--workers", 1)
        assert ended.code == 0, ended
    all_that_follows(tmp_path / "central", tmp_path / "local", tests, tmp_path, capsys)


@budget.whole_run
@pytest.mark.parametrize("tests", CASES.values(), ids=CASES)
def test_a_federation_and_what_follows(
    tests: Sequence[int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("mlflow")
    monkeypatch.syspath_prepend(OLD)
    monkeypatch.setenv("PYTHONPATH", str(OLD))
    data, recipe = pack(tmp_path / "silos", tests), tmp_path / "run.toml"
    recipe.write_text(RECIPE.replace('"lenet"', '"old_model:Small"'), encoding="utf-8")
    sinks = ",".join(f'{{name="{name}"}}' for name in ("console", "csv", "tensorboard", "mlflow"))
    ended = mpirun.silofold(
        "launch", recipe, "--data", data, "--out", tmp_path / "run", "--workers", len(tests), "--servers", 1,
        "--set", f"sinks=[{sinks}]", seconds=240,
    )  # fmt: skip
    assert ended.code == 0, ended
    assert not re.search(r"\bnan\b", ended.out + ended.err, re.IGNORECASE)
    ended = mpirun.silofold("baseline", "local", tmp_path / "run", "--out", tmp_path / "local", "--workers", 1)
    assert ended.code == 0, ended
    all_that_follows(tmp_path / "run", tmp_path / "local", tests, tmp_path, capsys)
    said(capsys, "status", tmp_path / "run")
    logs = "".join(log.read_text() for log in (tmp_path / "run").glob("*/*.log"))
    assert "of 0" not in logs.replace("n/a of 0", "")
    assert "too late" not in logs
