"""Whether a run folder holds what it promises: asked before DONE is written, and by ``silofold verify``."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

from silofold.core import guarded
from silofold.core.errors import CheckpointError, RunFolderError
from silofold.record import checkpoint, history

if TYPE_CHECKING:
    from pathlib import Path

    from silofold.core.summary import Summary
    from silofold.record.rundir import RunFolder


def unkept(folder: RunFolder, last: Summary, *, model: bool) -> list[str]:
    """List what a finished run promises and its folder does not hold, one fault an entry.

    Parameters
    ----------
    folder
        The run folder.
    last
        Summary of the last round, as the job has it in mind.
    model
        Whether there is one model for all silos, and so a ``model.pt``.
    """
    faults = []
    try:
        rounds = history.read(folder.metrics)
        if not rounds or (rounds[-1].round, rounds[-1].model_sha256) != (last.round, last.model_sha256):
            faults.append(f"{folder.metrics}: does not end with round {last.round}")
    except RunFolderError as fault:
        faults.append(str(fault))
    try:
        saved_model(checkpoint.folder_of(folder.checkpoints, last.round), last.model_sha256)
    except CheckpointError as fault:
        faults.append(str(fault))
    if model and (fault_found := archive_fault(folder.model)):
        faults.append(f"{folder.model}: {fault_found}")
    return faults


def saved_model(path: Path, digest: str) -> checkpoint.Manifest:
    """Read a checkpoint through, and compare its model with a digest.

    Raises
    ------
    CheckpointError
        A file is missing or damaged, or the model is another one.
    """
    manifest = checkpoint.read_manifest(path)
    checkpoint.check_files(path, manifest, manifest.files)
    checkpoint.check_model(path, manifest)
    if manifest.model_sha256 != digest:
        raise CheckpointError(
            "checkpoint-fit", f"{path}: is of the model {manifest.model_sha256[:16]}…, metrics.jsonl tells of {digest[:16]}…"
        )
    return manifest


def archive_fault(path: Path) -> str:
    """Say what is wrong with a ``model.pt`` as the archive that torch writes; no word of it is taken for Python's."""
    try:
        with guarded.opened(path) as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                return "found a packed part, which torch does not write"
            if not any(entry.filename.endswith("/data.pkl") for entry in entries):
                return "found no model of torch in it"
            damaged = archive.testzip()
            return f"damaged: the checksum of {damaged} does not fit" if damaged else ""
    except OSError as fault:
        return fault.strerror or str(fault)
    except guarded.UnfitError as fault:
        return str(fault)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as fault:  # all that zipfile raises
        return f"damaged: {fault}"
