"""A folder of silos as a source: what was packed can be cut, split and packed anew."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from silofold.data.manifest import read_manifest
from silofold.data.picture import pixels
from silofold.data.reader import Reader
from silofold.data.samples import CODES, Picture, Samples, all_of
from silofold.data.schema import MANIFEST
from silofold.data.sources import raw_array
from silofold.data.sources.raw_array import RawArray

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from silofold.data.fitting import Fitting
    from silofold.data.schema import Manifest


@dataclass(frozen=True)
class SiloFolder:
    """A folder of silos, read split by split and checked against its manifest.

    Parameters
    ----------
    stamp
        What tells its manifest from another one.
    """

    folder: Path
    stamp: tuple[int, ...]

    @property
    def manifest(self) -> Manifest:
        """What ``silos.json`` says."""
        return _facts(self.folder, self.stamp)[0]

    @property
    def arrays(self) -> dict[str, RawArray]:
        """Where the pictures lie, by ``number of the silo/split``."""
        return _facts(self.folder, self.stamp)[1]

    @property
    def words(self) -> str:
        """What it is, for the record."""
        return self.manifest.source

    def samples(self) -> Samples:
        """Read what is known of every picture.

        Raises
        ------
        SchemaError
            A silo file is missing, damaged, or not the one that the manifest tells of.
        """
        reader = Reader(self.folder, self.manifest, self.manifest.silos)
        groups = tuple(sorted({name for silo in self.manifest.silos for name in silo.writers}))
        codes = {name: code for code, name in enumerate(groups)}
        label, group, silo_of, split_of, place, paths = [], [], [], [], [], []
        for number, silo in enumerate(self.manifest.silos):
            own = np.array([codes[name] for name in silo.writers], np.int32)
            for split in self.manifest.splits:
                found = reader.read(silo, split)
                size = len(found.labels)
                label.append(found.labels.astype(np.int32))
                group.append(own[found.writer])
                silo_of.append(np.full(size, number, np.int32))
                split_of.append(np.full(size, CODES[split], np.int32))
                place.append(np.arange(size))
                paths += [f"{number}/{split}"] * size
        external = frozenset(silo.name for silo in self.manifest.silos if silo.role == "external")
        single = all(silo.writers == (all_of(silo.name),) for silo in self.manifest.silos)
        label_of, silos, group_of, splits = (np.concatenate(each) for each in (label, silo_of, group, split_of))
        return Samples(
            self.manifest.classes,
            tuple(silo.name for silo in self.manifest.silos),
            groups,
            label_of,
            silos,
            group_of,
            splits,
            order=np.arange(len(paths)),
            paths=paths,
            place=np.concatenate(place).astype(np.int64),
            grouped=not single,
            external=external,
            group_word=self.manifest.group,
        )

    def many(self, images: NDArray[np.uint8], pictures: Sequence[Picture], fitting: Fitting) -> bool:
        """Read pictures all at once, where they have the shape already."""
        if self.manifest.image_shape != fitting.shape:
            return False
        paths = np.array([picture.path for picture in pictures])
        places = np.array([picture.place for picture in pictures], np.int64)
        for path in dict.fromkeys(paths.tolist()):
            mine = np.flatnonzero(paths == path)
            images[mine] = raw_array.rows(self.arrays[path], places[mine], fitting)
        return True

    def image(self, path: str, place: int, fitting: Fitting) -> NDArray[np.uint8]:
        """Read one picture as (H, W) or (H, W, 3) uint8."""
        found = raw_array.rows(self.arrays[path], np.array([place]), fitting)
        return pixels(Image.fromarray(found[0]), fitting.shape, fit=fitting.fit)


def open_silos(folder: Path) -> SiloFolder:
    """Find out where the pictures of a folder of silos lie.

    Raises
    ------
    SchemaError
        The manifest or a file is missing, damaged, or not what the other says.
    """
    try:
        status = (folder / MANIFEST).stat()
        stamp: tuple[int, ...] = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    except OSError:
        stamp = ()  # told below
    found = SiloFolder(folder, stamp)
    _facts(folder, stamp)
    return found


@lru_cache(maxsize=64)
def _facts(folder: Path, stamp: tuple[int, ...]) -> tuple[Manifest, dict[str, RawArray]]:
    """Look at a folder once in each process: of thousands of silos, this is too much to be sent along with each."""
    del stamp
    manifest = read_manifest(folder, external=True)
    reader = Reader(folder, manifest, manifest.silos)
    arrays = {}
    for number, silo in enumerate(manifest.silos):
        for split in manifest.splits:
            info = silo.split(split)
            if info and info.examples:
                shape = (info.examples, *manifest.image_shape)
                path, offset = folder / silo.file, reader.place(silo, split)
                arrays[f"{number}/{split}"] = RawArray(str(path), offset, "|u1", shape)
    return manifest, arrays
