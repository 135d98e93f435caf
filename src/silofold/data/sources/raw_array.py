"""An array of pictures that lies in a file as one block of bytes: NumPy's own files, or what was spooled out of others."""

from __future__ import annotations

import math
import os
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

import numpy as np
from numpy.lib import format as npy

from silofold.core.errors import SchemaError
from silofold.data.fitting import to_eight_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from silofold.data.fitting import Fitting

NUMBERS: Final = "biuf"
"""Kinds of dtypes that pictures may have."""
_AT_ONCE: Final = 2**24


class RawArray(NamedTuple):
    """Where an array lies: file, first byte, dtype and shape, in C order."""

    path: str
    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of all values."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def read_head(file: BinaryIO, where: str, size: int) -> RawArray:
    """Read the head of a NumPy file that goes on behind it; objects are refused, so that nothing is unpickled.

    Parameters
    ----------
    where
        What the file is called, in messages.
    size
        Bytes that the file has in all.

    Raises
    ------
    SchemaError
        It is no NumPy file, of another type than numbers and texts, in Fortran's order, or too short.
    """
    try:
        version = npy.read_magic(file)
        reader = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if reader is None:
            raise ValueError(f"found version {version}")  # noqa: TRY301  (told with all others)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of heads that Python 2 has written
            shape, fortran, dtype = reader(file)
    except Exception as fault:  # noqa: BLE001  (numpy parses the head as Python, which raises nearly anything)
        raise SchemaError("array-read", f"{where}: {' '.join(str(fault).split())[:200]}, expected a NumPy array") from None
    if dtype.kind not in f"{NUMBERS}US" or dtype.itemsize == 0:
        raise SchemaError(
            "array-read", f"{where}: found the type {dtype}, expected numbers or texts; objects are never read"
        )
    if fortran and len(shape) > 1:
        raise SchemaError("array-read", f"{where}: found Fortran's order, expected C's: save numpy.ascontiguousarray(it)")
    if min(shape, default=0) < 0:
        raise SchemaError("array-read", f"{where}: found the shape {shape}, expected no negative number")
    found = RawArray(where, file.tell(), dtype.str, shape)
    if found.offset + found.size > size:
        raise SchemaError(
            "array-read",
            f"{where}: found {size} bytes, expected {found.offset + found.size} for {shape} of {dtype}: cut short?",
        )
    return found


def whole(array: RawArray) -> NDArray[Any]:
    """Read an array of labels, silos or groups whole."""
    with open(array.path, "rb") as file:  # noqa: PTH123  (a name that may come without a folder)
        file.seek(array.offset)
        return np.frombuffer(file.read(array.size), array.dtype).reshape(array.shape)


def check_pictures(array: RawArray, where: str, fitting_range: tuple[float, float] | None) -> tuple[int, ...]:
    """Tell the shape of one picture, (H, W) or (H, W, 3).

    Raises
    ------
    SchemaError
        These are no pictures, or of more than 8 bits without a range.
    """
    shape = array.shape[1:-1] if len(array.shape) == 4 and array.shape[-1] == 1 else array.shape[1:]
    if len(array.shape) not in {3, 4} or (len(shape) == 3 and shape[2] != 3) or min(shape) < 1:
        raise SchemaError(
            "array-shape", f"{where}: found the shape {array.shape}, expected (N, H, W), (N, H, W, 1) or (N, H, W, 3)"
        )
    dtype = np.dtype(array.dtype)
    if dtype.kind not in NUMBERS:
        raise SchemaError("array-shape", f"{where}: found {dtype}, expected numbers")
    if dtype != np.uint8 and fitting_range is None:
        raise SchemaError(
            "array-shape", f"{where}: found {dtype}, expected uint8; --range LOW,HIGH says what becomes black and white"
        )
    return shape


@lru_cache(maxsize=8)
def _mapped(array: RawArray) -> NDArray[Any]:
    size = os.stat(array.path).st_size  # noqa: PTH116  (a text)
    if array.offset + array.size > size:
        raise SchemaError("array-read", f"{array.path}: found {size} bytes, expected more: it was changed meanwhile")
    return np.memmap(array.path, array.dtype, "r", array.offset, array.shape)


def rows(array: RawArray, places: NDArray[np.int64], fitting: Fitting) -> NDArray[np.uint8]:
    """Read pictures (B, H, W[, 3]) as they are, 8 bits a channel.

    Raises
    ------
    SchemaError
        A value is not finite.
    """
    found = _mapped(array)[places]
    if found.ndim == 4 and found.shape[-1] == 1:
        found = found[..., 0]
    if fitting.range is None:
        return found
    try:
        return to_eight_bits(found, fitting.range)
    except ValueError as fault:
        raise SchemaError("array-shape", f"{array.path}: {fault}") from None
