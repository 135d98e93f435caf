"""Checkpoints: everything that the next round depends on, in a folder that is there whole or not at all.

``checkpoints/round_00005/`` holds ``shard_<i>.h5`` (slice and optimizer state of server i) and ``manifest.json`` with the
sha256 of each, and of what silos keep (see `silo_state`; a baseline's models, and runs of older versions, keep it in
``silo_<k>.h5`` beside the shards). The files are written under ``.round_00005.tmp``, made
durable, then the folder is renamed: a checkpoint is never half there under its name. Shards may be read back in any other
cut, so a run resumes on any number of servers and workers.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta

from silofold.core import files, guarded
from silofold.core.digest import sha256
from silofold.core.errors import CheckpointError
from silofold.core.reports import StateOf  # noqa: TC001  (msgspec reads it when the program runs)
from silofold.record import array_files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray


SCHEMA = 2
_WITHOUT_STATES = 1
"""Schema of versions whose checkpoints hold what silos keep in files of their own."""
MANIFEST = "manifest.json"
PREFIX = "round_"
LARGEST_STATE = 64
"""Numbers of a server optimizer for each parameter, at most: what a file of a checkpoint may hold follows from it."""
MOST: Final = 16 * guarded.MIB
"""Bytes that a manifest may have: ten times that of ten thousand silos."""
_FILE: Final = re.compile(r"(shard|silo)_(0|[1-9]\d{0,8})\.h5")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_Natural: TypeAlias = Annotated[int, Meta(ge=0, le=2**48)]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a checkpoint holds."""

    schema: int
    round: _Natural
    """The last round whose result is in it; 0 is the initial model."""
    counted: _Natural
    """Rounds that count towards ``rounds.count``."""
    voids: _Natural
    """Void rounds in a row up to this one."""
    parameters: _Natural
    bounds: list[tuple[_Natural, _Natural]]
    """Start and stop of each shard's slice."""
    model_sha256: str
    settings: dict[str, Any]
    data_digest: str
    files: dict[str, str]
    """sha256 of each file."""
    states: dict[_Natural, StateOf] = {}
    """What each silo keeps, where silos keep something."""
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
        files.write_atomically(draft / MANIFEST, msgspec.json.format(msgspec.json.encode(sealed)))
        if final.exists():  # of a run that was resumed from an older one: the same bits, written again
            shutil.rmtree(final)
        files.rename(draft, final)
        # newer ones are those that a resumed run could not use: they must not push out one that can be used
        older = found(checkpoints)
        for old in older[older.index(final) + keep :]:
            shutil.rmtree(old)
    except OSError as fault:
        raise CheckpointError(
            "run-vanished" if isinstance(fault, FileNotFoundError) else "checkpoint-write",
            f"{final}: cannot write the checkpoint: {fault.strerror}",
        ) from None
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
        manifest = guarded.decode(guarded.read(path, MOST), Manifest)
    except OSError as fault:
        raise CheckpointError("checkpoint-read", f"{path}: {fault.strerror}") from None
    except guarded.UnfitError as fault:
        raise CheckpointError("checkpoint-read", f"{path}: damaged: {fault}") from None
    if manifest.schema not in {_WITHOUT_STATES, SCHEMA}:
        raise CheckpointError("checkpoint-read", f"{path}: found schema {manifest.schema}, expected {SCHEMA}")
    if folder.name != f"{PREFIX}{manifest.round:05d}":
        raise CheckpointError("checkpoint-read", f"{path}: is of round {manifest.round}, but the folder is {folder.name}")
    if manifest.seal != _seal(manifest):
        raise CheckpointError("checkpoint-read", f"{path}: damaged: its seal is not the sha256 of the rest")
    if fault_found := _contradiction(manifest):
        raise CheckpointError("checkpoint-read", f"{path}: {fault_found}")
    return manifest


def _contradiction(manifest: Manifest) -> str:  # noqa: PLR0911  (a list of what cannot be)
    """Say what cannot be true of a manifest that its seal fits: anybody can seal one."""
    starts = [0, *(stop for _, stop in manifest.bounds)]
    if not manifest.bounds or starts[-1] != manifest.parameters:
        return f"bounds: found {len(manifest.bounds)} shards up to {starts[-1]}, expected all of {manifest.parameters}"
    if any(start != before or stop < start for (start, stop), before in zip(manifest.bounds, starts, strict=False)):
        return "bounds: found shards with a hole or an overlap between them, expected one after the other"
    if odd := next((name for name in manifest.files if not _FILE.fullmatch(name)), None):
        return f"files: found {odd!r}, expected shard_<i>.h5 and silo_<k>.h5 alone"
    shards = {name for name in manifest.files if name.startswith("shard")}
    if shards != set(_shard_names(manifest)):
        return f"files: found {len(shards)} shards, expected shard_0.h5 to shard_{len(manifest.bounds) - 1}.h5"
    if strange := [silo for silo, state in manifest.states.items() if not 1 <= state.round <= manifest.round]:
        return f"states: silo {strange[0]}: found a round outside of 1 to {manifest.round}"
    states = (state.sha256 for state in manifest.states.values())
    if not all(map(_SHA256.fullmatch, (*manifest.files.values(), manifest.model_sha256, manifest.data_digest, *states))):
        return "found a digest that is not 64 hex digits"
    return ""


def _seal(manifest: Manifest) -> str:
    fields: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(manifest, seal=""), str_keys=True)
    if manifest.schema == _WITHOUT_STATES:
        del fields["states"]
    return hashlib.sha256(msgspec.json.encode(fields)).hexdigest()


def _shard_names(manifest: Manifest) -> list[str]:
    return [f"shard_{index}.h5" for index in range(len(manifest.bounds))]


def check_files(folder: Path, manifest: Manifest, names: Iterable[str]) -> None:
    """Compare files of a checkpoint with their digests.

    Raises
    ------
    CheckpointError
        A file is missing or is not what was written.
    """
    most = LARGEST_STATE * manifest.parameters * 8 + 16 * guarded.MIB
    for name in names:
        try:
            with guarded.opened(folder / name) as file:
                if (size := os.fstat(file.fileno()).st_size) > most:  # a file without bytes may say to be of any size
                    raise CheckpointError(
                        "checkpoint-read", f"{folder / name}: damaged: found {size} bytes, expected at most {most}"
                    )
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as fault:
            raise CheckpointError("checkpoint-read", f"{folder / name}: {fault.strerror}") from None
        except guarded.UnfitError as fault:
            raise CheckpointError("checkpoint-read", f"{folder / name}: {fault}") from None
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
        A file cannot be read, or does not hold what the manifest says.
    """
    pieces: dict[str, list[NDArray[Any]]] = {}
    touched = 0
    for name, (start, stop) in zip(_shard_names(manifest), manifest.bounds, strict=True):
        low, high = max(start, wanted.start), min(stop, wanted.stop)
        if low < high:
            arrays = array_files.read_arrays(folder / name, slice(low - start, high - start), stop - start)
            if arrays.get("model", np.empty(0)).dtype != np.float32:
                raise CheckpointError("checkpoint-read", f"{folder / name}: found no model of float32 in it")
            touched += 1
            for key, array in arrays.items():
                pieces.setdefault(key, []).append(array)
    if uneven := next((key for key, parts in pieces.items() if len(parts) != touched), None):
        raise CheckpointError("checkpoint-read", f"{folder}: found {uneven!r} in some shards, expected it in all or none")
    return {key: np.concatenate(parts) for key, parts in pieces.items()}


def read_vector(folder: Path, manifest: Manifest) -> NDArray[np.float32]:
    """Read the whole (P,) float32 model, and compare it with its digest.

    Raises
    ------
    CheckpointError
        A file cannot be read, or the model is another one than the manifest says.
    """
    if not manifest.parameters:
        raise CheckpointError("checkpoint-read", f"{folder}: found a model of no parameter")
    vector: NDArray[np.float32] = read_shards(folder, manifest, slice(0, manifest.parameters))["model"]
    if sha256(vector.data) != manifest.model_sha256:
        raise CheckpointError("checkpoint-read", f"{folder}: damaged: the model is not that of model_sha256 in {MANIFEST}")
    return vector


def check_model(folder: Path, manifest: Manifest) -> None:
    """Compare the model with its digest, a shard at a time.

    Raises
    ------
    CheckpointError
        As `read_vector`.
    """
    parts = (read_shards(folder, manifest, slice(*bound))["model"].data for bound in manifest.bounds if bound[0] < bound[1])
    if sha256(*parts) != manifest.model_sha256:
        raise CheckpointError("checkpoint-read", f"{folder}: damaged: the model is not that of model_sha256 in {MANIFEST}")
