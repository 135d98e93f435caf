"""Bad inputs of the data commands: one line each, exit code 2, and nothing left behind."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import doors
from doors import COLUMNS, FOLD, refused, silofold
from silofold.data import silo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Lines = list[list[str]]


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return doors.flat(tmp_path_factory.mktemp("flat") / "images")


@pytest.fixture(scope="module")
def silos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("silos")
    words = ("--silo", "silo", "--group", "silo", "--fold", "split", "--jobs", 1)
    assert silofold("pack", doors.npz(root / "set.npz"), root / "silos", *words) == 0
    return root / "silos"


def change(place: int, column: str, value: str) -> Callable[[Lines], object]:
    return lambda lines: lines[place].__setitem__(doors.HEAD.index(column), value)


BAD_TABLES: dict[str, tuple[Callable[[Lines], object] | None, tuple[object, ...], tuple[str, ...]]] = {
    "a column is missing": (None, ("--label", "diagnose"), ("no column 'diagnose'", "is 'diagnosis' meant?")),
    "no such column at all": (None, ("--group", "x"), ("no column 'x'", "'file'")),
    "a path outside": (change(3, "file", "../../etc/passwd"), (), ("line 5", "lies outside")),
    "a path from the root": (change(3, "file", "/etc/passwd"), (), ("line 5", "lies outside")),
    "a label is missing": (change(7, "diagnosis", " "), (), ("line 9", "'diagnosis'", "expected a value")),
    "a silo is missing": (change(7, "hospital", ""), (), ("line 9", "'hospital'")),
    "a group in two silos": (change(0, "patient", "f0_2"), (), ("group 'f0_2'", "f0_1", "table-group")),
    "a picture twice": (lambda lines: lines.append(lines[2]), (), ("line 50", "'2.png' again", "line 4")),
    "a picture twice, spelled otherwise": (change(5, "file", "./2.png"), (), ("line 7", "line 4")),
    "an image is missing": (change(4, "file", "nowhere.png"), (), ("line 6", "nowhere.png", "no such file")),
    "an image is a folder": (change(4, "file", "."), (), ("line 6", "no name of a file")),
    "a split that is none": (change(4, "part", "holdout"), (), ("line 6", "'holdout'", "train, validation or test")),
    "too few cells": (lambda lines: lines[4].pop(), (), ("line 6", "4 cells", "expected 5")),
    "no rows": (lambda lines: lines.clear(), (), ("no row below the head",)),
    "a class that is none": (None, ("--classes", "1,3"), ("class '20'", "1, 3")),
    "near-equal classes": (change(4, "diagnosis", "01"), (), ("'01'", "'1'", "--classes")),
    "a split by groups that cannot be": (None, ("--split", "0.7,0.1,0.2"), ("silo f0_1", "found 1 groups", "at least 3")),
    "shares that are none": (None, ("--split", "0.7,0.7,0.2"), ("--split 0.7,0.7,0.2", "add up to 1")),
    "shares that are no numbers": (None, ("--split", "a,nan,2"), ("--split a,nan,2",)),
    "an external silo that is none": (None, ("--external", "elsewhere"), ("elsewhere", "f0_1")),
    "all silos external": (
        None, ("--external", "f0_1", "--external", "f0_10", "--external", "f0_2", "--external", "f0_3"), ("all 4 silos",),
    ),
    "a size that is none": (None, ("--size", "0x4"), ("--size 0x4", "HxW")),
    "a range that is none": (None, ("--range", "5,1"), ("--range 5,1", "smaller")),
    "a range for 8 bits": (None, ("--range", "0,4095"), ("8 bits", "--range")),
    "a seed for nothing": (None, ("--seed", "3"), ("--seed", "--split")),
    "a like that is none": (None, ("--like", "nowhere"), ("nowhere/silos.json", "no such folder")),
    "silos of folders": (None, ("--silos", "3"), ("--silos means nothing",)),
    "renames without columns": (None, ("--map", "LABELS"), ("no column 'from'",)),
    "a table that is missing": (None, ("--labels", "nowhere.csv"), ("nowhere.csv",)),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_TABLES)
def test_tables_are_refused_by_name(name: str, flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    harm, options, said = BAD_TABLES[name]
    lines = [doors.cells(row) for row in doors.rows()]
    if harm:
        harm(lines)
    labels = doors.table(tmp_path / "labels.csv", lines)
    more = [labels if word == "LABELS" else word for word in options]
    fold = () if "--split" in options else FOLD
    words = ("pack", flat, tmp_path / "out", "--labels", labels, *COLUMNS, *fold, "--jobs", 1, *more)
    refused(capsys, tmp_path / "out", words, *said)


def test_texts_that_are_no_table(flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = {
        "latin.csv": ("file,diagnosis\n0.png,caf\xe9\n".encode("latin-1"), "expected UTF-8"),
        "twice.csv": (b"file,file,diagnosis\n0.png,0.png,1\n", "2 times"),
        "quote.csv": (b'file,diagnosis\n0.png,"1\n', "expected a table"),
        "empty.csv": (b"", "no column 'file'"),
        "no.parquet": (b"PAR1" + bytes(50), "no.parquet"),
    }
    for name, (text, said) in bad.items():
        (tmp_path / name).write_bytes(text)
        words = ("pack", flat, tmp_path / "out", "--labels", tmp_path / name, *COLUMNS[:4], "--split", "0.5,0,0.5")
        refused(capsys, tmp_path / "out", words, said)
    os.mkfifo(tmp_path / "fifo.csv")
    fifo = ("pack", flat, tmp_path / "out", "--labels", tmp_path / "fifo.csv", "--split", "0.5,0,0.5")
    refused(capsys, tmp_path / "out", fifo, "no regular file")


def test_no_split_and_none_asked_for(flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("pack", flat, tmp_path / "out", "--labels", doors.table(tmp_path / "labels.csv"), *COLUMNS, "--jobs", 1)
    refused(capsys, tmp_path / "out", words, "--split 0.8,0,0.2", "split-none")


IMAGES, LABELS = np.zeros((4, 20, 20), np.uint8), np.array([0, 1, 0, 1])
BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "no labels": ({"images": IMAGES}, "expected images, labels"),
    "fewer labels": ({"images": IMAGES, "labels": LABELS[:3]}, "expected (4,)"),
    "fractions": ({"images": IMAGES, "labels": LABELS + 0.5}, "fractions"),
    "no pictures": ({"images": LABELS, "labels": LABELS}, "expected (N, H, W)"),
    "five channels": ({"images": np.zeros((4, 9, 9, 5), np.uint8), "labels": LABELS}, "expected (N, H, W)"),
    "floats without a range": ({"images": IMAGES / 255, "labels": LABELS}, "--range"),
    "Fortran's order": ({"images": np.ones((4, 20, 20), np.uint8, order="F"), "labels": LABELS}, "ascontiguousarray"),
    "of two sizes": (
        {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:, :9], "y_test": LABELS}, "expected one",
    ),
    "none at all": ({"images": IMAGES[:0], "labels": LABELS[:0]}, "found no picture"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_arrays_are_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays, said = BAD_ARRAYS[name]
    np.savez(tmp_path / "set.npz", **arrays)
    words = ("pack", tmp_path / "set.npz", tmp_path / "out", "--split", "0.5,0,0.5", "--jobs", 1)
    refused(capsys, tmp_path / "out", words, said)


def test_damaged_files_of_arrays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = {"set.npz": doors.npz(tmp_path / "set.npz").read_bytes(), "set.h5": doors.h5(tmp_path / "set.h5").read_bytes()}
    for name, data in whole.items():
        for cut in (0, 10, len(data) // 2, len(data) - 30):
            (tmp_path / name).write_bytes(data[:cut])
            refused(capsys, tmp_path / "out", ("pack", tmp_path / name, tmp_path / "out", "--split", "0.5,0,0.5"), name)
    np.save(tmp_path / "x.npy", IMAGES)
    np.save(tmp_path / "y.npy", LABELS)
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-1])
    words = ("pack", tmp_path / "x.npy", tmp_path / "out", "--labels", tmp_path / "y.npy")
    refused(capsys, tmp_path / "out", words, "cut short")
    refused(capsys, tmp_path / "out", ("pack", tmp_path / "x.npy", tmp_path / "out"), "--labels LABELS.npy")


BAD_CUTS = {
    "alpha 0": (("dirichlet", "--alpha", "0"), "--alpha: found 0"),
    "alpha is no number": (("dirichlet", "--alpha", "nan"), "--alpha: found nan"),
    "more silos than pictures": (("iid", "--silos", "99"), "at most 48"),
    "no silo": (("iid", "--silos", "0"), "--silos: found 0"),
    "a method that is none": (("magic",), "--by magic"),
    "more classes than there are": (("classes", "--per-silo", "4"), "at most 3"),
    "classes would be lost": (("classes", "--per-silo", "1", "--silos", "2"), "expected 3: some would be lost"),
    "more shards than pictures": (("shards", "--per-silo", "40"), "one a shard"),
    "fewer groups than silos": (("group", "--silos", "5"), "found 4 groups"),
    "a least size that cannot be": (("dirichlet", "--least", "20"), "--least: found 20"),
    "a least size that never comes": (("dirichlet", "--alpha", "0.001", "--least", "8"), "in each of 100 draws"),
    "sizes beyond all": (("sizes", "--sizes", "40,9", "--silos", "2"), "49 pictures in all"),
    "sizes that are none": (("sizes", "--sizes", "4,x", "--silos", "2"), "whole numbers"),
    "sizes and another number": (("sizes", "--sizes", "4,5"), "expected 2"),
    "sizes for nothing": (("iid", "--sizes", "4,5", "--silos", "2"), "means nothing"),
    "noise beyond all": (("iid", "--noise", "2"), "--noise: found 2"),
}


@pytest.mark.parametrize("name", BAD_CUTS)
def test_cuts_are_refused(name: str, silos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, said = BAD_CUTS[name]
    more = () if "--silos" in options else ("--silos", 4)
    words = ("partition", silos, tmp_path / "out", "--jobs", 1, *more, "--by", *options)
    refused(capsys, tmp_path / "out", words, said)


def test_sites_that_do_not_fit(silos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def site(name: str, *options: object) -> Path:
        arrays = doors.arrays()
        np.savez(tmp_path / f"{name}.npz", images=arrays["images"], labels=arrays["labels"])
        words = ("--name", name, "--split", "0.5,0,0.5", "--jobs", 1, *options)
        assert silofold("pack", tmp_path / f"{name}.npz", tmp_path / name, *words) == 0
        return tmp_path / name

    out = tmp_path / "out"
    other = site("other", "--classes", "1,3,20,7")
    refused(capsys, out, ("join", silos, other, out), "other/silos.json: classes: has 7 besides", "--like")
    small = site("small", "--size", 20)
    refused(capsys, out, ("join", silos, small, out), "image_shape", "(20, 20)")
    refused(capsys, out, ("join", silos, silos, out), "silo f0_1", "expected each name once")
    refused(capsys, out, ("join", silos, out), "expected two or more")
    refused(capsys, out, ("join", silos, tmp_path / "nowhere", out), "nowhere")


def test_a_folder_that_is_in_the_way(silos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    for words in (("pack", silos), ("join", silos, silos), ("partition", silos, "--by", "iid", "--silos", "2")):
        places = [*words[: 3 if words[0] == "join" else 2], tmp_path / "out", *words[3 if words[0] == "join" else 2 :]]
        assert silofold(*places) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_looks_at_what_is_no_folder_of_silos(silos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.png"
    refused(capsys, sheet, ("stats", tmp_path), "silos.json")
    refused(capsys, sheet, ("show", tmp_path, sheet), "silos.json")
    refused(capsys, sheet, ("show", silos, tmp_path / "sheet.pdf"), "ends in .png")
    refused(capsys, sheet, ("show", silos, sheet, "--silo", "x"), "no such silo")
    refused(capsys, sheet, ("show", silos, sheet, "--split", "validation"), "train, test")
    refused(capsys, sheet, ("show", silos, sheet, "--columns", 10**6), "at most")
    refused(capsys, sheet, ("stats", silos, "--picture", "a.pdf"), ".svg or .png")
    assert silo.full_faults(silos)[0] == []


def test_names_that_cannot_be_written_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for names, said in (
        (["a", "b\0c"], "b\\x00c"),
        (["a", "\ud800"], "ud800"),
        (["a", "x" * 1001], "1001 letters"),
        (["a", " "], "empty"),
    ):
        np.savez(tmp_path / "set.npz", images=IMAGES, labels=LABELS, silo=np.array(names * 2))
        words = ("pack", tmp_path / "set.npz", tmp_path / "out", "--silo", "silo", "--split", "0.5,0,0.5", "--jobs", 1)
        refused(capsys, tmp_path / "out", words, said)


@pytest.mark.parametrize(
    "words", [("pack",), ("pack", "a", "b", "--users", "x"), ("partition", "a", "b"), ("show", "a", "b", "--split", "\n")]
)
def test_arguments_that_are_none(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        silofold(*words)
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("silofold: error: ")
    assert f"silofold {words[0]} --help" in told


def test_a_split_beside_a_column_of_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("pack", doors.npz(tmp_path / "set.npz"), tmp_path / "out", "--fold", "split", "--split", "0.5,0,0.5")
    refused(capsys, tmp_path / "out", words, "--split", "--fold")


def test_a_like_of_other_classes(silos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("pack", doors.leaf(tmp_path / "leaf"), tmp_path / "out", "--like", silos, "--jobs", 1)
    refused(capsys, tmp_path / "out", words, "--like", "1, 3, 20")
