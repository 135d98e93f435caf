"""Damaged tables and files of arrays through ``silofold pack``: packed or refused in one line, and nothing left behind."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

import budget
import doors
from mutate import damaged
from silofold.data import silo

if TYPE_CHECKING:
    from pathlib import Path

CASES = budget.count(3000, 60)


def parquet(path: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    flat, rows = doors.flat(path.parent / "images"), doors.rows()
    pictures = [{"bytes": (flat / doors.name(row)).read_bytes(), "path": doors.name(row)} for row in rows]
    files.write_table(pyarrow.table({"image": pictures, "label": [int(row.label) for row in rows]}), path)
    return path


def npy(path: Path) -> Path:
    np.save(path.parent / "y.npy", doors.arrays()["labels"])
    np.save(path, doors.arrays()["images"])
    return path


ARRAYS = ("--silo", "silo", "--fold", "split")
SPLIT = ("--split", "0.5,0,0.5")
KINDS = {
    "csv": (doors.table, ("--labels", "labels.csv", *doors.COLUMNS, *doors.FOLD)),
    "npz": (doors.npz, ARRAYS),
    "h5": (doors.h5, ARRAYS),
    "npy": (npy, ("--labels", "y.npy", *SPLIT)),
    "parquet": (parquet, SPLIT),
}


@pytest.mark.parametrize("kind", KINDS)
def test_damage(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    make, words = KINDS[kind]
    monkeypatch.chdir(tmp_path)
    path, rng = tmp_path / f"labels.{kind}", random.Random(kind)  # noqa: S311  (the same each time)
    whole = make(path).read_bytes()
    source = doors.flat(tmp_path / "images") if kind == "csv" else path
    out, refused = tmp_path / "out", 0
    for _ in range(CASES // len(KINDS)):
        path.write_bytes(damaged(whole, rng))
        capsys.readouterr()
        code = doors.silofold("pack", source, out, *words, "--jobs", 1)
        lines = capsys.readouterr().err.splitlines()
        if code == 2:
            refused += 1
            assert len(lines) == 1, lines
            assert not out.exists()
        else:
            assert code == 0
            assert silo.full_faults(out)[0] == []
            shutil.rmtree(out)
    assert refused
