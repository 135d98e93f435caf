"""Class folders without writers: ``<class>/<picture>``, or ``{train,validation,test}/<class>/<picture>``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from silofold.core.errors import SchemaError
from silofold.data.leftovers import check_left_out, is_picture
from silofold.data.picture import fitted
from silofold.data.samples import CODES, NO_SPLIT, natural_order, of_texts
from silofold.data.schema import SPLITS
from silofold.data.sources.tree import check_alike, entries, subfolders

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from silofold.data.fitting import Fitting
    from silofold.data.samples import Samples
    from silofold.data.schema import SplitName

SPLIT_FOLDERS: Final[dict[str, SplitName]] = {
    "train": "train", "test": "test", "validation": "validation", "valid": "validation", "val": "validation",
}  # fmt: skip


def fits(root: Path) -> bool:
    """Tell whether a folder is one of class folders: pictures lie one folder below, or two below splits."""
    folders = [entry for entry in entries(root) if entry.is_dir()]
    if any(name in SPLITS for entry in folders for name in _folders(root / entry.name)):  # folders of writers
        return False
    splits = [entry for entry in folders if entry.name in SPLIT_FOLDERS]
    if splits:
        return any(_has_pictures(root / split.name / name) for split in splits for name in _folders(root / split.name))
    return any(_has_pictures(root / entry.name) for entry in folders)


def _folders(folder: Path) -> list[str]:
    return [entry.name for entry in entries(folder) if entry.is_dir()]


def _has_pictures(folder: Path) -> bool:
    return any(is_picture(entry) and not entry.is_dir() for entry in entries(folder))


@dataclass(frozen=True)
class ClassFolders:
    """Class folders; all pictures are of one silo.

    Parameters
    ----------
    silo
        Its name.
    classes
        Names of the class folders; those that occur if none is named.
    """

    root: Path
    silo: str
    classes: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """What it is, for the record."""
        return f"class folders: {self.root.resolve().name}"

    def samples(self) -> Samples:
        """Read what is known of every picture.

        Raises
        ------
        SchemaError
            A class is unknown, something else than a folder lies among them, or two names are nearly equal.
        """
        names: list[str] = []
        labels: list[str] = []
        splits: list[int] = []
        for home, split in self._homes():
            for label in subfolders(home):
                for entry in entries(home / label):
                    if entry.is_dir():
                        raise SchemaError("tree-class", f"{entry.path}: found a folder in a class folder, expected pictures")
                    names.append(entry.path)
                    labels.append(label)
                    splits.append(split)
        if not self.classes:
            check_alike(self.root, sorted(set(labels)))
        size = len(names)
        if not size:
            raise SchemaError("data-empty", f"{self.root}: found no picture in its class folders, expected some")
        of = np.array(splits, np.int32)
        place = np.zeros(size, np.int64)
        return of_texts(labels, [self.silo] * size, None, of, natural_order(names), names, place, self.classes)

    def _homes(self) -> Iterator[tuple[Path, int]]:
        """Yield the folders that hold class folders, each with its split."""
        check_left_out(self.root)
        found = entries(self.root)
        named = [entry for entry in found if entry.name in SPLIT_FOLDERS and entry.is_dir()]
        if not named:
            yield self.root, NO_SPLIT
            return
        strange = next((entry.path for entry in found if entry not in named and (entry.is_dir() or is_picture(entry))), None)
        if strange is not None:
            raise SchemaError("tree-split", f"{strange}: found beside splits, expected train, validation and test alone")
        splits = [SPLIT_FOLDERS[entry.name] for entry in named]
        twice = next((split for split in splits if splits.count(split) > 1), None)
        if twice is not None:
            raise SchemaError("tree-split", f"{self.root}: found several folders for {twice}, expected one")
        for entry in sorted(named, key=lambda entry: entry.name):
            yield self.root / entry.name, CODES[SPLIT_FOLDERS[entry.name]]

    def image(self, path: str, place: int, fitting: Fitting) -> NDArray[np.uint8]:
        """Read one picture as (H, W) or (H, W, 3) uint8."""
        del place
        return fitted(path, fitting)
