"""Telling every fault of a folder of silos, and the keys by which equal pictures are found."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import numpy as np

from silofold.core.errors import SchemaError
from silofold.data.inspection import Inspector
from silofold.data.layout import file_faults
from silofold.data.manifest import decoded, manifest_bytes, read_manifest
from silofold.data.manifest_faults import manifest_faults
from silofold.data.reader import reader_of
from silofold.data.schema import (
    DTYPES,
    MANIFEST,
    SCHEMA_2,
    Manifest,
    SiloInfo,
    SplitInfo,
    SplitName,
    channels_of,
    datasets_of,
)
from silofold.data.silo_bytes import opened, read_into, read_pieces
from silofold.data.tally import Tally

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray


def folder_faults(folder: Path) -> list[str]:
    """Tell every fault of a folder of silos at once; none means that a run can start on it.

    Memory is bounded: a file is read in blocks.
    """
    path = folder / MANIFEST
    try:
        manifest = decoded(manifest_bytes(folder), path)
    except SchemaError as error:
        return [str(error)]
    faults = [f"{path}: {fault}" for fault in manifest_faults(manifest)]
    if any(fault.split(": ")[1:2] == ["image_shape"] for fault in faults):  # nothing else can be measured by it
        return faults
    with Inspector() as inspector:
        for silo in manifest.silos:
            file = folder / silo.file
            faults += [f"{file}: {fault}" for fault in _faults(file, silo, manifest, inspector)]
    known = {MANIFEST, *(silo.file for silo in manifest.silos)}
    extra = sorted(entry.name for entry in folder.iterdir() if entry.name not in known)
    return faults + [f"{folder / name}: extra, expected only {MANIFEST} and the files it names" for name in extra]


def full_faults(folder: Path) -> tuple[list[str], list[str], str]:
    """Tell every fault of a folder of silos, miscounted duplicates too; what to warn of; and what it is, in a line."""
    faults = folder_faults(folder)
    if faults:
        return faults, [], ""
    manifest = read_manifest(folder, external=True)
    train = np.unique(np.concatenate([split_keys(folder, silo, "train", manifest) for silo in manifest.silos]))
    warnings = []
    for silo in manifest.silos:
        found = int(np.isin(split_keys(folder, silo, "test", manifest), train).sum())
        if found:
            warnings.append(f"{folder / silo.file}: {found} test pictures also stand in a train split")
        if found != silo.duplicates:
            faults.append(f"{folder / silo.file}: duplicates: found {found}, expected {silo.duplicates}")
    pictures = sum(silo.examples for silo in manifest.silos)
    line = f"{folder}: {len(manifest.silos)} silos, {pictures} pictures, no fault; digest {manifest.digest}"
    return faults, warnings, line


def _faults(path: Path, silo: SiloInfo, manifest: Manifest, inspector: Inspector) -> list[str]:
    """Tell every fault of one silo file."""
    try:
        with opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            facts = inspector.look(path, size)
            faults, _ = file_faults(facts, silo, manifest, size)
            told = [words for _, words in faults]
            for split in manifest.splits:
                if not facts.fault and not any(words.startswith(f"{split}/") for words in told):
                    where = [facts.datasets[f"{split}/{name}"].offset or 0 for name in datasets_of(manifest.schema)]
                    told += _content_faults(file, path, split, where, silo, manifest)
    except SchemaError as error:
        return [str(error).removeprefix(f"{path}: ")]
    return list(dict.fromkeys(told))


def _content_faults(
    file: BinaryIO, path: Path, split: SplitName, offsets: list[int], silo: SiloInfo, manifest: Manifest
) -> list[str]:
    """Tell what is wrong with the bytes of a split."""
    info: SplitInfo = getattr(silo, split)
    tally = Tally(len(manifest.classes), channels_of(manifest.image_shape) if manifest.schema == SCHEMA_2 else 0)
    for block in read_pieces(file, path, offsets[0], (info.examples, *manifest.image_shape)):
        tally.see_images(block)
    labels, writer = (np.empty(info.examples, DTYPES[name]) for name in ("labels", "writer"))
    read_into(file, offsets[1], labels, path)
    read_into(file, offsets[2], writer, path)
    tally.see_labels(labels, writer)
    return [f"{split}: {fault}" for fault in tally.faults(info, len(silo.writers))]


def image_keys(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Give each picture (M, ...) a number (M,) that equal pixels share; two others collide once in 2^64 pairs."""
    size = images[0].nbytes if len(images) else 0
    pixels = np.ascontiguousarray(images).reshape(-1).data.cast("B")
    starts = range(0, size * len(images), size or 1)
    keys = b"".join(hashlib.blake2b(pixels[start : start + size], digest_size=8).digest() for start in starts)
    return np.frombuffer(keys, "<u8").astype(np.uint64)


def split_keys(folder: Path, silo: SiloInfo, split: SplitName, manifest: Manifest | None = None) -> NDArray[np.uint64]:
    """Compute `image_keys` of a split that lies on disk, in bounded memory.

    Raises
    ------
    SchemaError
        The file cannot be read.
    """
    reader = reader_of(folder, manifest or read_manifest(folder))
    keys = [image_keys(piece) for piece in reader.pieces(silo, split)]
    return np.concatenate([np.empty(0, np.uint64), *keys])
