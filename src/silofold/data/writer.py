"""Writing a silo file: piece by piece, whole under its name or not there."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from silofold.core import files, hdf5
from silofold.core.errors import SchemaError
from silofold.data import space
from silofold.data.schema import (
    DTYPES,
    SCHEMA_2,
    Layout,
    Role,
    SiloInfo,
    SplitInfo,
    SplitName,
    SplitStream,
    attributes_of,
    channels_of,
    datasets_of,
    one_line,
    size_of,
)
from silofold.data.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import h5py


def write_silo(
    path: Path,
    name: str,
    writers: tuple[str, ...],
    layout: Layout,
    splits: Mapping[SplitName, SplitStream],
    role: Role = "train",
) -> SiloInfo:
    """Write one silo file, piece by piece, and return what the manifest shall say of it.

    The file appears under its name when it is whole and on disk, and never before.

    Parameters
    ----------
    writers
        Groups of pictures that nobody may tear apart.
    splits
        Those of the layout's schema; each is read once, in their order.
    role
        Whether the silo is for testing only, which schema 2 can say.

    Raises
    ------
    SchemaError
        The file cannot be written, the train split is empty, or the pieces do not fit the layout.
    """
    if splits["train"].examples < 1 and role == "train":
        raise SchemaError("data-empty", f"{path}: empty silo {name}: found no train picture, expected at least 1")
    infos: dict[SplitName, SplitInfo] = {}
    with replacing(path) as partial:
        _reserve(partial, _most_bytes(writers, layout, splits), path)
        with hdf5.library().File(partial, "r+", libver="earliest", locking=False) as file:
            for split in layout.splits:
                group, where = file.create_group(split), f"{path}: {split}"
                infos[split] = _write_split(group, where, splits[split], layout, len(writers))
            for key, value in attributes_of(name, writers, layout, infos, role).items():
                file.attrs[key] = value
    return SiloInfo(name, path.name, writers, infos["train"], infos["test"], 0, infos.get("validation"), role)


def _reserve(path: Path, size: int, whole: Path) -> None:
    """Make an empty HDF5 file that owns `size` bytes of disk; closing it as HDF5 gives back what it did not need.

    HDF5 ends the process, or prints pages, when the disk fills up while it holds data back. So the system must say no
    before HDF5 begins. `whole` is the name that the file will have.
    """
    with hdf5.library().File("empty", "w", driver="core", backing_store=False, libver="earliest") as file:
        file.flush()
        empty = file.id.get_file_image()
    with space.one_at_a_time(path.parent):
        space.check(path.parent, size, whole)
        with path.open("wb") as raw:
            raw.write(empty)
            raw.flush()
            os.posix_fallocate(raw.fileno(), 0, size)


def _most_bytes(writers: tuple[str, ...], layout: Layout, splits: Mapping[SplitName, SplitStream]) -> int:
    """Bound the size of a silo file from above."""
    text = json.dumps([writers, asdict(layout)], ensure_ascii=False).encode()
    pictures = size_of(sum(split.examples for split in splits.values()), layout.image_shape)
    return pictures + 16 * len(layout.classes) + 2 * len(text) + 65536


def _write_split(group: h5py.Group, where: str, stream: SplitStream, layout: Layout, writers: int) -> SplitInfo:
    size = stream.examples
    images = group.create_dataset("images", (size, *layout.image_shape), DTYPES["images"], track_times=False)
    labels, writer = (np.empty(size, np.int32) for _ in range(2))
    tally = Tally(len(layout.classes), channels_of(layout.image_shape) if layout.schema == SCHEMA_2 else 0)
    start = 0
    for pictures, batch_labels, batch_writer in stream.batches:
        stop = start + len(pictures)
        if stop > size or pictures.shape[1:] != layout.image_shape or pictures.dtype != np.uint8:
            raise SchemaError(
                "data-shape",
                f"{where}: found pictures {start} to {stop} of shape {pictures.shape[1:]} and {pictures.dtype}, "
                f"expected {size} of {layout.image_shape} and uint8",
            )
        images[start:stop] = pictures
        labels[start:stop], writer[start:stop] = batch_labels, batch_writer
        tally.see_images(pictures)
        start = stop
    if start != size:
        raise SchemaError("data-shape", f"{where}: found {start} pictures, expected {size}")
    tally.see_labels(labels, writer)
    fault = next(tally.range_faults(writers), None)
    if fault is not None:
        raise SchemaError("data-labels", f"{where}: {fault}")
    for name, values in zip(list(datasets_of(layout.schema))[1:], (labels, writer), strict=True):
        group.create_dataset(name, data=values.astype("<i4"), track_times=False)
    return tally.info()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Lend a temporary name beside `path`; what is written there takes the name `path` on success, whole and on disk.

    Raises
    ------
    SchemaError
        Writing failed; the temporary file is removed.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        files.sync(partial)
        files.rename(partial, path)
    except OSError as error:
        raise SchemaError("data-write", f"{path}: cannot be written: {error.strerror or one_line(error)}") from error
    finally:
        partial.unlink(missing_ok=True)
