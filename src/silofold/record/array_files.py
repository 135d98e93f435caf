"""Named arrays in one HDF5 file: written so that a full disk is told, read as what it must be."""

from __future__ import annotations

import hashlib
import io
import os
from typing import TYPE_CHECKING, Any, Self

from silofold.core import guarded, hdf5, plain_hdf5
from silofold.core.errors import CheckpointError
from silofold.core.messages import SavedFile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray


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
        with _Patient(path) as place, hdf5.library().File(place, "w") as file:
            for key, array in arrays.items():
                file.create_dataset(key, data=array, track_times=False)
        return SavedFile(name, _made_durable(path))
    except OSError as fault:
        raise CheckpointError(
            "run-vanished" if isinstance(fault, FileNotFoundError) else "checkpoint-write",
            f"{path}: cannot write the checkpoint: {fault.strerror}",
        ) from None


def read_arrays(path: Path, part: slice = slice(None), rows: int | None = None) -> dict[str, NDArray[Any]]:
    """Read a part of every array of a file: of vectors, of `rows` elements where that is known.

    Raises
    ------
    CheckpointError
        The file cannot be read, or holds something else.
    """
    try:
        with plain_hdf5.File(path) as file:
            for key, array in file.arrays.items():
                if array.dtype.kind != "f" or len(array.shape) != 1 or rows not in {None, array.shape[0]}:
                    raise CheckpointError(
                        "checkpoint-read",
                        f"{path}: {key}: found {array.shape} of {array.dtype}, expected a vector of {rows or 'any'} floats",
                    )
            return {key: file.read(key, part) for key in file.arrays}
    except OSError as fault:
        raise CheckpointError("checkpoint-read", f"{path}: {fault.strerror}") from None
    except guarded.UnfitError as fault:
        raise CheckpointError("checkpoint-read", f"{path}: damaged: {fault}") from None


class _Patient(io.RawIOBase):
    """A new file for HDF5 that takes every write, and tells only at the end that one has failed.

    HDF5's library does not survive a full disk: it closes what it could not write again and again, and at last ends the
    process by a signal.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    OSError
        On leaving: the first that a write has met.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("w+b", buffering=0)
        self._fault: OSError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file; what HDF5 makes of a write that has failed is not worth telling."""
        self._file.close()
        if self._fault:
            raise self._fault from None

    def write(self, data: Any) -> int:
        """Write all of it, or take note of why not."""
        rest = memoryview(data)
        try:
            while rest and not self._fault:
                rest = rest[self._file.write(rest) :]
        except OSError as fault:
            self._fault = fault
        return memoryview(data).nbytes

    def truncate(self, size: int | None = None) -> int:
        """Set the size, or take note of why not."""
        try:
            return self._file.truncate(size)
        except OSError as fault:
            self._fault = self._fault or fault
            return size or 0

    def readinto(self, buffer: Any) -> int:
        """Read back."""
        return self._file.readinto(buffer)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place in the file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Say at which place of the file it is."""
        return self._file.tell()

    def flush(self) -> None:
        """Nothing: nothing is held back."""


def _made_durable(path: Path) -> str:
    """Wait until a file is on disk and return the sha256 of what it holds."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
