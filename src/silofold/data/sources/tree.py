"""A tree of pictures on disk: ``<writer>/{train,test}/<class folder>/<picture>``, raw or merged by combine.py."""

from __future__ import annotations

import os
import re
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec

from silofold.core import guarded
from silofold.core.errors import SchemaError
from silofold.data.leftovers import check_left_out, is_picture, left_behind
from silofold.data.naming import alike, natural, readable
from silofold.data.picture import fitted
from silofold.data.samples import Picture
from silofold.data.schema import SPLITS, SplitName

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from silofold.data.fitting import Fitting

FEMNIST = tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
"""The 62 classes by name; the folder of each is its position."""
COMBINED = "combine.json"
COMBINED_MOST = 256 * guarded.MIB
_LIKE_SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation"}
_DATASET = re.compile(r"dataset_[0-9]+")
_LEAF_NAME = re.compile(r"(?P<writer>.+)_(?P<label>[0-9]+)_[^_]+_[0-9]+\.[^.]+")

Kind = Literal["leaf", "combined", "raw"]


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

    def image(self, path: str, place: int, fitting: Fitting) -> NDArray[np.uint8]:
        """Read one picture as (H, W) or (H, W, 3) uint8."""
        del place
        return fitted(path, fitting)

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
    if any(shard_files(root / split) for split in SPLITS):
        return "leaf"
    names = sorted(entry.name for entry in entries(root) if entry.is_dir())
    if not any((root / name / split).is_dir() for name in names for split in SPLITS):
        inside = [entry.name for entry in entries(root / names[0])] if names else []
        there = f", but in {names[0]} " + ", ".join(sorted(inside)[:5]) if inside else ""
        raise SchemaError(
            "tree-kind",
            f"{root}: found neither <writer>/{{train,test}}/<class>/<picture>, nor dataset_<i>/{{train,test}}/…, "
            f"nor LEAF's {{train,test}}/*.json{there}",
        )
    return "combined" if all(_DATASET.fullmatch(name) for name in names) else "raw"


def shard_files(folder: Path) -> list[Path]:
    """List LEAF's shards in a folder by name, numbers as numbers; hidden files, of which macOS makes some, are none."""
    names = [entry.name for entry in entries(folder) if entry.name.endswith(".json")] if folder.is_dir() else []
    return [folder / name for name in sorted(names, key=natural)]


def foreign_splits(root: Path) -> None:
    """Refuse folders beside train and test that look like a split.

    Raises
    ------
    SchemaError
        There is one.
    """
    names = sorted(entry.name for entry in entries(root) if entry.name.casefold() in _LIKE_SPLITS and entry.is_dir())
    strange = next((name for name in names if name not in SPLITS), None)
    if strange is not None:
        raise SchemaError("tree-split", f"{root / strange}: found a split beside train and test, expected those two alone")


def writers_of(root: Path) -> tuple[str, ...]:
    """Name the folders of a tree in order: by name, with numbers as text so that the order is that of ``sort``.

    Raises
    ------
    SchemaError
        A folder has neither train nor test, or pictures or folders beside them, which would be lost; or it is hidden.
    """
    found = entries(root)
    names = sorted(entry.name for entry in found if entry.is_dir())
    for name in names:
        inside = entries(root / name)
        strange = sorted(
            entry.name for entry in inside if entry.name not in SPLITS and (entry.is_dir() or is_picture(entry))
        )
        if strange:
            raise SchemaError(
                "tree-split",
                f"{root / name}: found {', '.join(strange[:5])}, expected train and test alone; rename or move it away",
            )
        if not any(entry.name in SPLITS and entry.is_dir() for entry in inside):
            raise SchemaError("tree-split", f"{root / name}: found neither train nor test, expected both")
    stray = next((entry.path for entry in found if is_picture(entry) and not entry.is_dir()), None)
    if stray is not None:
        raise SchemaError("tree-kind", f"{stray}: found a picture, expected only folders there")
    check_left_out(root, SPLITS)
    return tuple(names)


def class_names(root: Path, folders: tuple[str, ...]) -> tuple[str, ...]:
    """Name every class folder that occurs, numbers as numbers.

    Raises
    ------
    SchemaError
        Two names differ so little that one class may be meant.
    """
    homes = [root / folder / split for folder in folders for split in SPLITS]
    names = sorted({name for home in homes if home.is_dir() for name in subfolders(home)}, key=natural)
    check_alike(root, names)
    return tuple(names)


def check_alike(root: Path, names: Iterable[str]) -> None:
    """Refuse class names that differ so little that one class may be meant.

    Raises
    ------
    SchemaError
        There are two such names.
    """
    for one, other in alike(names):
        raise SchemaError(
            "tree-names",
            f"{root}: found the class folders {one!a} and {other!a}, which differ by case, leading zeros, blanks or "
            "Unicode form alone; rename one, or name all classes with --classes if both are meant",
        )


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
        datasets = guarded.decode(guarded.read(path, COMBINED_MOST), Combined).datasets
    except (OSError, guarded.UnfitError) as error:
        raise SchemaError("tree-kind", f"{path}: {error}") from error
    return {name: tuple(users) for name, users in datasets.items()}


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder without hidden names, and without what archives and desktops leave behind.

    Raises
    ------
    SchemaError
        It cannot be listed, or a name in it is not UTF-8, which neither HDF5 nor JSON could hold.
    """
    try:
        with os.scandir(folder) as scan:
            found = [entry for entry in scan if not entry.name.startswith(".") and not left_behind(entry)]
    except OSError as error:
        raise SchemaError("tree-kind", f"{folder}: {error.strerror}, expected a folder") from error
    strange = next((entry.name for entry in found if entry.name != readable(entry.name)), None)
    if strange is not None:
        raise SchemaError("tree-names", f"{folder}: found the name {os.fsencode(strange)!r}, expected UTF-8")
    return found


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
    check_left_out(folder)
    return [entry.name for entry in found]
