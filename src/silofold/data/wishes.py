"""What is wished of a pack, and what IN holds: whether the two go together is known before any picture is looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from silofold.core.errors import SchemaError
from silofold.data.schema import MANIFEST
from silofold.data.sources import array_files, class_folders
from silofold.data.sources.columns import Columns
from silofold.data.sources.tree import entries, kind_of, shard_files

if TYPE_CHECKING:
    from pathlib import Path

    from silofold.data.fitting import Fit

FOUND: Final = {
    "leaf": "LEAF JSON", "combined": "a combined tree", "raw": "a raw tree", "silos": "a folder of silos",
    "classes": "class folders", "arrays": "arrays", "parquet": "Parquet", "table": "a table of labels",
}  # fmt: skip
FOLDERS: Final = {"leaf", "combined", "raw"}
"""Kinds whose pictures lie in folders of writers, train and test apart."""


@dataclass(frozen=True)
class Wishes:
    """What is wished of a pack; each field is an option of ``silofold pack``, and none means its default.

    Parameters
    ----------
    labels
        A table that tells what the pictures of a folder are; of a ``.npy`` file of pictures, that of the labels.
    columns
        Names of columns or arrays.
    size, mode, classes, like
        Of the pictures, and the names of the classes: all of them from another folder of silos with `like`.
    external
        Names of silos for testing only.
    split
        Shares of train, validation and test that are drawn anew, from `seed`.
    name
        Of the only silo, where the source knows of none.
    """

    labels: Path | None = None
    columns: Columns = field(default_factory=Columns)
    size: str | None = None
    mode: str | None = None
    classes: str | None = None
    like: Path | None = None
    fit: Fit = "squash"
    range: str | None = None
    map: Path | None = None
    suffix: str = ""
    external: tuple[str, ...] = ()
    split: str | None = None
    seed: int = 0
    name: str | None = None
    source: str | None = None
    users: int | None = None
    silos: int | None = None
    allow_empty_test: bool = False


def kind_in(folder: Path, wishes: Wishes) -> str:
    """Tell what a folder or file holds: a key of `FOUND`.

    Raises
    ------
    SchemaError
        None of them, or options that do not go with it.
    """
    suffix = folder.suffix.lower()
    if folder.is_file():
        if suffix not in {*array_files.SUFFIXES, ".parquet"}:
            raise SchemaError(
                "tree-kind",
                f"{folder}: found a file, expected a folder, or one of .npz, .npy, .h5 and .parquet; unpack archives",
            )
        kind = "parquet" if suffix == ".parquet" else "arrays"
    elif wishes.labels:
        kind = "table"
    elif folder.is_dir() and (folder / MANIFEST).exists():
        kind = "silos"
    elif folder.is_dir() and any(entry.name.endswith(".parquet") for entry in entries(folder)):
        kind = "parquet"
    elif (
        folder.is_dir() and not any(shard_files(folder / name) for name in ("train", "test")) and class_folders.fits(folder)
    ):
        kind = "classes"
    else:
        kind = kind_of(folder)
    _check_options(folder, kind, wishes)
    return kind


def _check_options(folder: Path, kind: str, wishes: Wishes) -> None:
    """Refuse options that this kind of source knows nothing of: each would be passed over in silence."""
    columns = [f"--{name}" for name, value in vars(wishes.columns).items() if value]
    known = {
        "--labels": wishes.labels and kind not in {"table", "arrays"},
        "--suffix": wishes.suffix and kind != "table",
        "--map": wishes.map and kind not in {"table", "arrays", "parquet"},
        "--name": wishes.name and (kind not in {"table", "arrays", "parquet", "classes"} or wishes.columns.silo),
        "--users": wishes.users and kind not in {"raw", "leaf", "combined"},
        "--silos": wishes.silos and kind not in {"raw", "leaf", "combined"},
        "--seed": wishes.seed and not wishes.split,
        "--split": wishes.split and wishes.columns.fold,
        "--like": wishes.like and (wishes.size or wishes.mode or wishes.classes or wishes.fit != "squash" or wishes.range),
        "--range": wishes.range and kind in {"leaf", "silos"},
        **({columns[0]: kind not in {"table", "arrays", "parquet"}} if columns else {}),
    }
    wrong = next((option for option, is_wrong in known.items() if is_wrong), None)
    if wrong == "--like":
        raise SchemaError(
            "tool-option", "--like: it tells size, mode, classes and fit; leave --size, --mode, --classes, … out"
        )
    if wrong == "--split":
        raise SchemaError("tool-option", "--split: found it with --fold, which says who is where; leave one of them out")
    if wrong == "--seed":
        raise SchemaError("tool-option", "--seed: found it without --split, which alone draws something")
    if wrong is not None:
        raise SchemaError("tool-option", f"{folder}: found {FOUND[kind]}, for which {wrong} means nothing; leave it out")
