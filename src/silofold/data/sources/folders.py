"""Trees and LEAF's JSON: folders of writers, whose pictures are listed one folder at a time."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from silofold.data.packing import fill_one_by_one
from silofold.data.samples import CODES, Samples
from silofold.data.schema import SPLITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from silofold.data.fitting import Fitting
    from silofold.data.samples import Picture
    from silofold.data.schema import SplitName


class FolderSource(Protocol):
    """Where folders of pictures come from."""

    def pictures(self, folder: str, split: SplitName) -> Iterable[Picture]:
        """Yield the pictures of a folder in canonical order: writer, class, place."""

    def image(self, path: str, place: int, fitting: Fitting) -> NDArray[np.uint8]:
        """Read one picture as (H, W) or (H, W, 3) uint8."""


@dataclass(frozen=True)
class FolderPictures:
    """The pictures of some folders, which make one silo."""

    source: FolderSource
    folders: tuple[str, ...]

    def listing(self, split: SplitName) -> list[Picture]:
        """Name the pictures of a split in canonical order."""
        if split not in SPLITS:
            return []
        return list(itertools.chain.from_iterable(self.source.pictures(folder, split) for folder in self.folders))

    def fill(self, images: NDArray[np.uint8], pictures: Sequence[Picture], fitting: Fitting, notes: list[str]) -> None:
        """Read pictures, one after the other."""
        fill_one_by_one(self, images, pictures, fitting, notes)

    def image(self, path: str, place: int, fitting: Fitting) -> NDArray[np.uint8]:
        """Read one picture."""
        return self.source.image(path, place, fitting)

    @property
    def words(self) -> str:
        """Name the first folders."""
        return ", ".join(self.folders[:3]) + (", …" if len(self.folders) > 3 else "")


@dataclass(frozen=True)
class ListedFolders:
    """Folders whose pictures are all listed first, since they are to be cut or split anew."""

    source: FolderSource
    groups: Sequence[tuple[str, tuple[str, ...]]]
    classes: tuple[str, ...]
    words: str

    def image(self, path: str, place: int, fitting: Fitting) -> NDArray[np.uint8]:
        """Read one picture."""
        return self.source.image(path, place, fitting)

    def samples(self) -> Samples:
        """Read what is known of every picture."""
        paths: list[str] = []
        writers: list[str] = []
        columns: list[tuple[int, int, int, int]] = []
        for silo, (_, folders) in enumerate(self.groups):
            for split, folder in itertools.product(SPLITS, folders):
                for picture in self.source.pictures(folder, split):
                    paths.append(picture.path)
                    writers.append(picture.writer)
                    columns.append((picture.label, silo, CODES[split], picture.place))
        label, silo_of, split_of, place = np.array(columns, np.int64).reshape(-1, 4).T
        groups = tuple(sorted(set(writers)))
        codes = {name: code for code, name in enumerate(groups)}
        return Samples(
            self.classes,
            tuple(name for name, _ in self.groups),
            groups,
            label.astype(np.int32),
            silo_of.astype(np.int32),
            np.array([codes[writer] for writer in writers], np.int32),
            split_of.astype(np.int32),
            np.arange(len(paths)),
            paths,
            place,
        )
