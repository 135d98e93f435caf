"""Checkpoints: everything that the next round depends on, in a folder that is there whole or not at all.

``checkpoints/round_00005/`` holds ``shard_<i>.h5`` (slice and optimizer state of server i), ``silo_<k>.h5`` (kept momentum,
where silos keep it) and ``manifest.json`` with the sha256 of each. The files are written under ``.round_00005.tmp``, made
durable, then the folder is renamed: a checkpoint is never half there under its name. Shards may be read back in any other
cut, so a run resumes on any number of servers and workers.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from typing import TYPE_CHECKING, Any

import h5py
import msgspec
import numpy as np

from silofold.errors import CheckpointError
from silofold.messages import SavedFile
from silofold.record import rundir

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

SCHEMA = 1
MANIFEST = "manifest.json"
PREFIX = "round_"


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a checkpoint holds."""

    schema: int
    round: int
    """The last round whose result is in it; 0 is the initial model."""
    counted: int
    """Rounds that count towards ``rounds.count``."""
    voids: int
    """Void rounds in a row up to this one."""
    parameters: int
    bounds: list[tuple[int, int]]
    """Start and stop of each shard's slice."""
    model_sha256: str
    settings: dict[str, Any]
    data_digest: str
    files: dict[str, str]
    """sha256 of each file."""
    seal: str = ""
    """sha256 of this manifest with an empty seal: a flipped digit would else pass for a number."""


def folder_of(checkpoints: Path, number: int) -> Path:
    """Return the folder of a round's checkpoint."""
    return checkpoints / f"{PREFIX}{number:05d}"


def draft_of(checkpoints: Path, number: int) -> Path:
    """Return the folder in which a round's checkpoint is being written."""
    return checkpoints / f".{PREFIX}{number:05d}.tmp"


def silo_name(silo: int) -> str:
    """Name the file of a silo's kept momentum."""
    return f"silo_{silo}.h5"


def write_arrays(folder: Path, name: str, arrays: Mapping[str, NDArray[Any]]) -> SavedFile:
    """Write named arrays as one HDF5 file of a draft and make it durable.

    Parameters
    ----------
    folder
        The draft; made if it is not there.
    name
        File name.
    arrays
        Any dtype and shape.

    Returns
    -------
    SavedFile
        Name and sha256, for the manifest.

    Raises
    ------
    CheckpointError
        The file cannot be written: the disk is full, say.
    """
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w", locking=False) as file:  # some network file systems have no locks; the draft is ours
            for key, array in arrays.items():
                file.create_dataset(key, data=array, track_times=False)
        return SavedFile(name, _made_durable(path))
    except (OSError, RuntimeError) as fault:  # RuntimeError: HDF5 met the full disk when it closed the file
        raise CheckpointError("checkpoint-write", f"{path}: cannot write the checkpoint: {_reason(fault)}") from None


def carry(folder: Path, name: str, draft: Path) -> SavedFile:
    """Copy a file of an earlier checkpoint into a draft, where what it holds has not changed since.

    A copy and no second name of the same file: one damaged block must not take two checkpoints.

    Parameters
    ----------
    folder
        The earlier checkpoint.
    name
        The file in it.
    draft
        The draft; made if it is not there.

    Returns
    -------
    SavedFile
        Name, and sha256 of the copy: compare it with the earlier manifest.

    Raises
    ------
    CheckpointError
        It cannot be read or written.
    """
    try:
        draft.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, draft / name)
        return SavedFile(name, _made_durable(draft / name))
    except OSError as fault:
        raise CheckpointError(
            "checkpoint-write", f"{draft / name}: cannot copy it from {folder}: {_reason(fault)}"
        ) from None


def _made_durable(path: Path) -> str:
    """Wait until a file is on disk and return the sha256 of what it holds."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(fault: Exception) -> str:
    """Cut the reason out of what HDF5 makes of an error of the system."""
    told = re.search(r"error message = '([^']*)'", str(fault))
    return told[1] if told else getattr(fault, "strerror", None) or str(fault).partition("\n")[0]


def publish(checkpoints: Path, manifest: Manifest, keep: int) -> Path:
    """Give a complete draft its final name and remove the oldest checkpoints.

    Parameters
    ----------
    checkpoints
        Folder of all checkpoints.
    manifest
        Names every file of the draft.
    keep
        How many checkpoints stay.

    Raises
    ------
    CheckpointError
        It cannot be written.
    """
    draft, final = draft_of(checkpoints, manifest.round), folder_of(checkpoints, manifest.round)
    sealed = msgspec.structs.replace(manifest, seal=_seal(manifest))
    try:
        rundir.write_atomically(draft / MANIFEST, msgspec.json.format(msgspec.json.encode(sealed)))
        if final.exists():  # of a run that was resumed from an older one: the same bits, written again
            shutil.rmtree(final)
        draft.rename(final)
        rundir.sync_folder(checkpoints)
        # newer ones are those that a resumed run could not use: they must not push out one that can be used
        older = found(checkpoints)
        for old in older[older.index(final) + keep :]:
            shutil.rmtree(old)
    except OSError as fault:
        raise CheckpointError("checkpoint-write", f"{final}: cannot write the checkpoint: {fault.strerror}") from None
    return final


def found(checkpoints: Path) -> list[Path]:
    """List the published checkpoints, newest first."""
    numbers = {path: path.name.removeprefix(PREFIX) for path in checkpoints.glob(f"{PREFIX}*") if path.is_dir()}
    return sorted((p for p, n in numbers.items() if n.isdecimal()), key=lambda path: int(numbers[path]), reverse=True)


def clear_drafts(checkpoints: Path) -> None:
    """Remove what a crash left unfinished."""
    for draft in checkpoints.glob(f".{PREFIX}*.tmp"):
        shutil.rmtree(draft, ignore_errors=True)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a checkpoint.

    Raises
    ------
    CheckpointError
        It is missing, damaged, of another schema or of another round than the folder's name says.
    """
    path = folder / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as fault:
        raise CheckpointError("checkpoint-read", f"{path}: {fault.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise CheckpointError("checkpoint-read", f"{path}: damaged: {fault}") from None
    if manifest.schema != SCHEMA:
        raise CheckpointError("checkpoint-read", f"{path}: found schema {manifest.schema}, expected {SCHEMA}")
    if folder.name != f"{PREFIX}{manifest.round:05d}":
        raise CheckpointError("checkpoint-read", f"{path}: is of round {manifest.round}, but the folder is {folder.name}")
    if manifest.seal != _seal(manifest):
        raise CheckpointError("checkpoint-read", f"{path}: damaged: its seal is not the sha256 of the rest")
    return manifest


def _seal(manifest: Manifest) -> str:
    return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(manifest, seal=""))).hexdigest()


def _shard_names(manifest: Manifest) -> list[str]:
    return [f"shard_{index}.h5" for index in range(len(manifest.bounds))]


def check_files(folder: Path, manifest: Manifest, names: Iterable[str]) -> None:
    """Compare files of a checkpoint with their digests.

    Raises
    ------
    CheckpointError
        A file is missing or is not what was written.
    """
    for name in names:
        try:
            with (folder / name).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as fault:
            raise CheckpointError("checkpoint-read", f"{folder / name}: {fault.strerror}") from None
        if digest != manifest.files[name]:
            raise CheckpointError("checkpoint-read", f"{folder / name}: damaged: its sha256 is not the one in {MANIFEST}")


def read_shards(folder: Path, manifest: Manifest, wanted: slice) -> dict[str, NDArray[Any]]:
    """Read a slice of the vector and of the optimizer's state, whatever the cut they were written in.

    Parameters
    ----------
    folder
        The checkpoint.
    manifest
        Its manifest.
    wanted
        Slice of the flat vector.

    Returns
    -------
    dict
        ``model`` (L,) float32, and each array of the optimizer's state, (L,) float64.

    Raises
    ------
    CheckpointError
        A file cannot be read.
    """
    pieces: dict[str, list[NDArray[Any]]] = {}
    for name, (start, stop) in zip(_shard_names(manifest), manifest.bounds, strict=True):
        low, high = max(start, wanted.start), min(stop, wanted.stop)
        if low < high:
            arrays = read_arrays(folder / name, slice(low - start, high - start))
            for key, array in arrays.items():
                pieces.setdefault(key, []).append(array)
    return {key: np.concatenate(parts) for key, parts in pieces.items()}


def read_arrays(path: Path, part: slice = slice(None)) -> dict[str, NDArray[Any]]:
    """Read a part of every array of a file.

    Raises
    ------
    CheckpointError
        The file cannot be read.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            return {key: dataset[part] for key, dataset in file.items()}
    except OSError as fault:
        raise CheckpointError("checkpoint-read", f"{path}: {fault}") from None
