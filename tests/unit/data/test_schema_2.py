"""Schema 2: validation, roles and sums of pixels; where none of it is used the digest is that of schema 1."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

import doors
from doors import silofold
from silofold.core.errors import SchemaError
from silofold.data import silo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WORDS = ("--silo", "silo", "--fold", "split", "--jobs", 1)


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """Three silos that train, and one for testing only."""
    npz = doors.npz(tmp_path / "set.npz")
    words = ("--silo", "silo", "--jobs", 1, "--split", "0.5,0.25,0.25", "--external", "f0_2")
    assert silofold("pack", npz, tmp_path / "silos", *words) == 0
    return tmp_path / "silos"


def test_what_is_written_is_read(external: Path) -> None:
    manifest = silo.read_manifest(external, external=True)
    assert (manifest.schema, manifest.splits) == (2, ("train", "validation", "test"))
    assert {one.name: one.role for one in manifest.silos}["f0_2"] == "external"
    assert silo.full_faults(external)[0] == []
    for info in manifest.silos:
        sizes = [found.examples for split in manifest.splits if (found := info.split(split))]
        assert sizes == ([0, 0, 12] if info.role == "external" else [6, 3, 3])
        for split in manifest.splits:
            read, told = silo.read_split(external, info, split, manifest), info.split(split)
            assert told
            assert told.sums == (int(read.images.sum(dtype=np.int64)),)
            assert told.squares == (int((read.images.astype(np.int64) ** 2).sum()),)
    with h5py.File(external / "silo_0000.h5") as file:
        assert set(file["validation"]) == {"images", "labels", "group"}
        assert (file.attrs["schema"], file.attrs["role"], file.attrs["group"]) == (2, "train", "writer")
        assert file.attrs["train_sums"].shape == (1,)


def test_a_run_refuses_external_silos(external: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SchemaError, match="external silo f0_2") as refused:
        silo.read_manifest(external)
    assert refused.value.id == "data-external"
    (tmp_path / "run.toml").write_text("seed = 1\n")
    capsys.readouterr()
    assert silofold("baseline", "local", tmp_path / "run.toml", "--data", external, "--out", tmp_path / "run") == 2
    told = capsys.readouterr().err
    assert "[data-external]" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_empty_validation_has_the_digest_of_schema_1(tmp_path: Path) -> None:
    npz = doors.npz(tmp_path / "set.npz")
    assert silofold("pack", npz, tmp_path / "first", *WORDS) == 0
    first = silo.read_manifest(tmp_path / "first")
    layout = replace(first.layout, schema=2, group="patient")
    (tmp_path / "second").mkdir()
    infos = []
    for info in first.silos:
        splits: dict[silo.SplitName, silo.SplitStream] = {"validation": silo.SplitStream(0, [])}
        for split in silo.SPLITS:
            found = silo.read_split(tmp_path / "first", info, split, first)
            batch = (found.images, found.labels.astype(np.int32), found.writer)
            splits[split] = silo.SplitStream(len(found.labels), [batch])
        infos.append(silo.write_silo(tmp_path / "second" / info.file, info.name, info.writers, layout, splits))
    second = silo.write_manifest(tmp_path / "second", layout, infos)
    assert (second.schema, second.digest) == (2, first.digest)
    read = silo.read_manifest(tmp_path / "second")
    assert (read, read.group) == (second, "patient")
    assert silo.full_faults(tmp_path / "second")[0] == []


def reworded(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest and give it the digest that fits."""
    path = folder / "silos.json"
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


BAD = {
    "external that trains": (lambda told: told["silos"][0].update(role="external"), "role: found external|digest"),
    "another role": (lambda told: told["silos"][0].update(role="boss"), "Invalid enum value 'boss'"),
    "sums of another number": (lambda told: told["silos"][0]["train"].update(sums=[1, 2, 3]), "expected 1 numbers"),
    "sums beyond all": (lambda told: told["silos"][0]["train"].update(sums=[10**9]), "expected 1 numbers from 0 to"),
    "sums that are huge": (lambda told: told["silos"][0]["train"].update(squares=[2**63]), "squares"),
    "no validation": (lambda told: told["silos"][0].pop("validation"), "missing required field `validation`"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_manifests_that_contradict_themselves(name: str, external: Path) -> None:
    change, said = BAD[name]
    reworded(external, change)
    with pytest.raises(SchemaError, match=said):
        silo.read_manifest(external, external=True)


def test_keys_of_schema_2_mean_nothing_in_schema_1(tmp_path: Path) -> None:
    assert silofold("pack", doors.npz(tmp_path / "set.npz"), tmp_path / "silos", *WORDS) == 0
    reworded(tmp_path / "silos", lambda told: told["silos"][0].update(role="external"))
    with pytest.raises(SchemaError, match=r"found keys of schema 2|digest"):
        silo.read_manifest(tmp_path / "silos", external=True)


def test_wrong_sums_in_a_file_are_found(external: Path) -> None:
    reworded(external, lambda told: told["silos"][0]["train"].update(sums=[5]))
    with h5py.File(external / "silo_0000.h5", "r+") as file:
        file.attrs["train_sums"] = np.array([5])
    assert any("sums: found" in fault for fault in silo.full_faults(external)[0])
