"""A tree of pictures on disk: ``<writer>/{train,test}/<class folder>/<picture>``, raw or merged by combine.py."""

from __future__ import annotations

import os
import re
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from silofold.data.silo import SPLITS, SplitName
from silofold.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FEMNIST = tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
"""The 62 classes by name; the folder of each is its position."""
COMBINED = "combine.json"

_DATASET = re.compile(r"dataset_[0-9]+")
_DIGITS = re.compile(r"([0-9]+)")
_LEAF_NAME = re.compile(r"(?P<writer>.+)_(?P<label>[0-9]+)_[^_]+_[0-9]+\.[^.]+")

Kind = Literal["leaf", "combined", "raw"]


class Picture(NamedTuple):
    """One picture: who made it, its class, the file that holds it and its place in that file."""

    writer: str
    label: int
    path: str
    place: int = 0


class Combined(msgspec.Struct):
    """What combine.py tells of the tree that it made: the raw users of each dataset and their pictures."""

    source: str
    order: str
    datasets: dict[str, dict[str, dict[str, int]]]


@dataclass(frozen=True)
class Tree:
    """A tree of pictures.

    Parameters
    ----------
    labels
        Class of each class folder.
    users
        Of a merged tree, the raw users of each dataset, as far as known.
    """

    root: Path
    labels: Mapping[str, int]
    merged: bool
    users: Mapping[str, tuple[str, ...]]

    def pictures(self, folder: str, split: SplitName) -> Iterator[Picture]:
        """Yield a folder's pictures: writers by name, then classes, then files by name with numbers as numbers.

        Raises
        ------
        SchemaError
            A class folder is unknown, or something that is no folder lies between them.
        """
        home = self.root / folder / split
        labels = {name: self._label(home, name) for name in (subfolders(home) if home.exists() else ())}
        rows = [
            (self._writer(folder, entry.name), label, natural(entry.name), entry.path)
            for name, label in labels.items()
            for entry in entries(home / name)
        ]
        return (Picture(writer, label, path) for writer, label, _, path in sorted(rows))

    def _label(self, home: Path, name: str) -> int:
        if name not in self.labels:
            known = list(self.labels)
            raise SchemaError(
                "tree-class",
                f"{home / name}: found the class folder {name!r}, expected one of the {len(known)} from {known[0]} "
                f"to {known[-1]}",
            )
        return self.labels[name]

    def _writer(self, folder: str, name: str) -> str:
        if not self.merged:
            return folder
        for user in self.users.get(folder, ()):
            if name.startswith(f"{user}_"):
                return user
        match = _LEAF_NAME.fullmatch(name)
        return match["writer"] if match else folder


def kind_of(root: Path) -> Kind:
    """Tell what lies in a folder.

    Raises
    ------
    SchemaError
        None of the three.
    """
    if not root.is_dir():
        raise SchemaError("tree-kind", f"{root}: no such folder")
    if any((root / split).is_dir() and any((root / split).glob("*.json")) for split in SPLITS):
        return "leaf"
    names = [entry.name for entry in entries(root) if entry.is_dir()]
    if not any((root / name / split).is_dir() for name in names for split in SPLITS):
        raise SchemaError(
            "tree-kind",
            f"{root}: found neither <writer>/{{train,test}}/<class>/<picture>, nor dataset_<i>/{{train,test}}/…, "
            "nor LEAF's {train,test}/*.json",
        )
    return "combined" if all(_DATASET.fullmatch(name) for name in names) else "raw"


def writers_of(root: Path) -> tuple[str, ...]:
    """Name the folders of a tree in order: by name, with numbers as text so that the order is that of ``sort``.

    Raises
    ------
    SchemaError
        A folder has neither train nor test.
    """
    names = sorted(entry.name for entry in entries(root) if entry.is_dir())
    for name in names:
        if not any((root / name / split).is_dir() for split in SPLITS):
            raise SchemaError("tree-split", f"{root / name}: found neither train nor test, expected both")
    return tuple(names)


def class_folders(root: Path, folders: tuple[str, ...]) -> tuple[str, ...]:
    """Name every class folder that occurs, numbers as numbers."""
    homes = [root / folder / split for folder in folders for split in SPLITS]
    names = {name for home in homes if home.is_dir() for name in subfolders(home)}
    return tuple(sorted(names, key=natural))


def read_combined(root: Path) -> dict[str, tuple[str, ...]]:
    """Read which users combine.py put where; nothing when the tree was merged by something else.

    Raises
    ------
    SchemaError
        The file is there and damaged.
    """
    path = root / COMBINED
    if not path.exists():
        return {}
    try:
        datasets = msgspec.json.decode(path.read_bytes(), type=Combined).datasets
    except (OSError, msgspec.DecodeError) as error:
        raise SchemaError("tree-kind", f"{path}: {error}") from error
    return {name: tuple(users) for name, users in datasets.items()}


def natural(name: str) -> tuple[tuple[str | int, ...], str]:
    """Order names with the numbers in them as numbers: ``a_2`` before ``a_10``."""
    parts = _DIGITS.split(name)
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts)), name


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder without hidden names.

    Raises
    ------
    SchemaError
        It cannot be listed, or a name in it is not UTF-8, which neither HDF5 nor JSON could hold.
    """
    try:
        with os.scandir(folder) as scan:
            found = [entry for entry in scan if not entry.name.startswith(".")]
    except OSError as error:
        raise SchemaError("tree-kind", f"{folder}: {error.strerror}, expected a folder") from error
    strange = next((entry.name for entry in found if entry.name != readable(entry.name)), None)
    if strange is not None:
        raise SchemaError("tree-names", f"{folder}: found the name {os.fsencode(strange)!r}, expected UTF-8")
    return found


def readable(name: str) -> str:
    """Replace what is not UTF-8 in a name."""
    return name.encode("utf-8", "replace").decode()


def subfolders(folder: Path) -> list[str]:
    """List a folder that holds folders alone.

    Raises
    ------
    SchemaError
        Something else lies in it.
    """
    found = entries(folder)
    stray = next((entry.path for entry in found if not entry.is_dir()), None)
    if stray is not None:
        raise SchemaError("tree-class", f"{stray}: found a file, expected only class folders there")
    return [entry.name for entry in found]
