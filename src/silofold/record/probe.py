"""What the file system under a run folder can do: asked by ``silofold doctor``, never by a run."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from silofold.core import hdf5

if TYPE_CHECKING:
    from pathlib import Path


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out about a folder; a fault is empty if there was none."""

    writing: str
    """Why no file can be written, made durable and renamed."""
    locking: str
    """Why no file can be locked (flock): a run holds its folder by that."""
    hdf5: str
    """Why no HDF5 file can be written and read there, as silo files are."""
    free: int
    """Bytes that are free."""
    seconds: float
    """Seconds that a small file took to become durable."""


def look(folder: Path) -> Facts:
    """Try what a run does in its folder, and leave nothing behind.

    Parameters
    ----------
    folder
        The run folder; where it does not exist yet, the nearest folder above it is tried.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    trial = place / f".silofold-doctor-{os.getpid()}"
    writing = locking = hdf5 = ""
    began = time.perf_counter()
    seconds = 0.0
    try:
        try:
            trial.mkdir()
            with (trial / "a").open("wb") as file:
                file.write(b"x" * 4096)
                file.flush()
                os.fsync(file.fileno())
            (trial / "a").rename(trial / "b")
            seconds = time.perf_counter() - began
        except OSError as fault:
            writing = fault.strerror or str(fault)
        else:
            locking, hdf5 = _lock(trial / "lock"), _hdf5(trial / "h.h5")
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    return Facts(writing=writing, locking=locking, hdf5=hdf5, free=shutil.disk_usage(place).free, seconds=seconds)


def _lock(path: Path) -> str:
    try:
        with path.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as fault:
        return fault.strerror or str(fault)
    return ""


def _hdf5(path: Path) -> str:
    try:
        with hdf5.library().File(path, "w", locking=False) as file:
            file["x"] = np.arange(64)
        with hdf5.library().File(path, "r", locking=False) as file:
            return "" if int(file["x"][63]) == 63 else "what was written is not what is read"
    except OSError as fault:
        return str(fault).splitlines()[0]
