"""Files that hold arrays by name: ``.npz``, ``.npy`` and ``.h5``. What is not one plain block is spooled first."""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from silofold.core import guarded, hdf5
from silofold.core.errors import SchemaError
from silofold.data import space, work
from silofold.data.sources.raw_array import NUMBERS, RawArray, read_head

if TYPE_CHECKING:
    from collections.abc import Mapping

SUFFIXES = {".npz", ".npy", ".h5", ".hdf5"}


def names_of(path: Path) -> list[str]:
    """Name the arrays of a file; the only one of a ``.npy`` file has no name.

    Raises
    ------
    SchemaError
        It cannot be read.
    """
    try:
        with guarded.opened(path) as file:
            if path.suffix.lower() == ".npy":
                return [""]
            if path.suffix.lower() == ".npz":
                return [name.removesuffix(".npy") for name in _members(file, path)]
    except (OSError, guarded.UnfitError) as fault:
        raise SchemaError("array-read", f"{path}: {getattr(fault, 'strerror', None) or fault}") from None
    return list(work.apart(_datasets, path))


def take(path: Path, names: list[str], spool: Path) -> dict[str, RawArray]:
    """Find arrays of a file, spooled to a folder where they do not lie in it as they are.

    Raises
    ------
    SchemaError
        An array is damaged, holds objects, or does not fit on the disk.
    """
    try:
        if path.suffix.lower() == ".npy":
            with guarded.opened(path) as file:
                return {"": read_head(cast("BinaryIO", file), str(path), os.fstat(file.fileno()).st_size)}
        if path.suffix.lower() == ".npz":
            return {name: _unzipped(path, name, spool / f"{at}.raw") for at, name in enumerate(names)}
    except (OSError, guarded.UnfitError) as fault:
        raise SchemaError("array-read", f"{path}: {getattr(fault, 'strerror', None) or fault}") from None
    targets = {name: str(spool / f"{path.stem}.{at}.raw") for at, name in enumerate(names)}
    return work.apart(_exported, (path, targets))


def _members(file: BinaryIO, path: Path) -> Mapping[str, zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(file) as archive:
            return {info.filename: info for info in archive.infolist() if info.filename.endswith(".npy")}
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as fault:
        raise SchemaError("array-read", f"{path}: {fault}, expected a .npz file") from None


def _unzipped(path: Path, name: str, target: Path) -> RawArray:
    """Write a member of a ``.npz`` file to a file of its own; what it declares is looked at before space is taken."""
    where = f"{path}: {name}"
    with guarded.opened(path) as file:
        info = _members(file, path)[f"{name}.npy"]
        space.check(target.parent, info.file_size, target)
        try:
            with zipfile.ZipFile(file) as archive, archive.open(info) as member:
                head = read_head(cast("BinaryIO", member), where, info.file_size)
                with target.open("wb") as out:
                    shutil.copyfileobj(member, out, 2**20)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as fault:
            raise SchemaError("array-read", f"{where}: {fault}, expected a sound .npz file") from None
    found = head._replace(path=str(target), offset=0)
    if target.stat().st_size < found.size:
        raise SchemaError("array-read", f"{where}: found {target.stat().st_size} bytes, expected {found.size}: cut short")
    return found


def _datasets(path: Path) -> list[str]:
    """Name the datasets of an HDF5 file, in a process of its own."""
    found: list[str] = []
    library = hdf5.library()

    def visit(name: str, item: object) -> None:
        if isinstance(item, library.Dataset):
            found.append(name)

    try:
        with library.File(path, "r", locking=False) as file:
            file.visititems(visit)
    except Exception as fault:  # noqa: BLE001  (h5py raises nearly anything on a damaged file)
        raise SchemaError("array-read", f"{path}: {' '.join(str(fault).split())[:200]}, expected an HDF5 file") from None
    return found


def _exported(task: tuple[Path, dict[str, str]]) -> dict[str, RawArray]:
    """Write datasets of an HDF5 file to files of their own, in a process of its own."""
    path, targets = task
    try:
        with hdf5.library().File(path, "r", locking=False) as file:
            return {name: _dataset(file[name], f"{path}: {name}", Path(target)) for name, target in targets.items()}
    except SchemaError:
        raise
    except Exception as fault:  # noqa: BLE001  (h5py raises nearly anything on a damaged file)
        raise SchemaError("array-read", f"{path}: {' '.join(str(fault).split())[:200]}, expected an HDF5 file") from None


def _dataset(found: Any, where: str, target: Path) -> RawArray:
    texts = hdf5.library().check_string_dtype(found.dtype) is not None
    if not texts and found.dtype.kind not in NUMBERS:
        raise SchemaError("array-read", f"{where}: found the type {found.dtype}, expected numbers or texts")
    if texts:
        values = np.array([str(value) for value in found.asstr()[...].reshape(-1).tolist()])
        target.write_bytes(values.tobytes())
        return RawArray(str(target), 0, values.dtype.str, found.shape)
    space.check(target.parent, found.size * found.dtype.itemsize, target)
    each = max(1, 2**24 // max(1, found.dtype.itemsize * found.size // max(1, len(found)))) if found.shape else 1
    with target.open("wb") as out:
        for start in range(0, len(found) if found.shape else 0, each):
            out.write(np.ascontiguousarray(found[start : start + each]).tobytes())
    return RawArray(str(target), 0, found.dtype.str, found.shape)
