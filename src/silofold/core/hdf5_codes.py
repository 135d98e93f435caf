"""What the parts of a plain HDF5 file look like as bytes: types, shapes, texts; what is anything else is refused."""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple, NoReturn

import numpy as np

from silofold.core import guarded


def _types() -> dict[bytes, np.dtype[Any]]:
    """Write down, as HDF5 does, the types of numbers that our files hold."""
    found: dict[bytes, np.dtype[Any]] = {
        bytes.fromhex("11201f00 04000000 0000 2000 17 08 00 17 7f000000"): np.dtype("<f4"),
        bytes.fromhex("11203f00 08000000 0000 4000 34 0b 00 34 ff030000"): np.dtype("<f8"),
    }
    for size in (1, 2, 4, 8):
        for signed, kind in ((0, "u"), (8, "i")):
            found[struct.pack("<BBHIHH", 0x10, signed, 0, size, 0, 8 * size)] = np.dtype(f"<{kind}{size}")
    return found


TYPES: Final = _types()
TEXT: Final = 0x19
"""First byte of the type of a text of any length."""
FIXED: Final = 0x13
"""First byte of the type of a text of a fixed length, whose second one tells how it is filled up."""
SPACES: Final = 2


class Array(NamedTuple):
    """Where an array lies in its file.

    Attributes
    ----------
    dtype, shape
        Of the array.
    offset
        Of its first byte, which is followed by all others.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


def shape_of(dataspace: bytes) -> tuple[int, ...]:
    """Read the shape of an array, of 8 dimensions at most."""
    version, rank, flags = unpack("<BBB", dataspace)
    if version != 1 or rank > 8 or flags & ~1:
        refuse("found a shape that silofold does not write")
    return tuple(unpack(f"<{rank}Q", dataspace[8:]))


def unpack(form: str, data: bytes) -> tuple[Any, ...]:
    """Unpack the head of a message."""
    if len(data) < struct.calcsize(form):
        refuse("found a message that is cut short")
    return struct.unpack_from(form, data)


def decoded(text: bytes) -> str:
    """Read a text."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        refuse("found a text that is not UTF-8")


def refuse(why: str) -> NoReturn:
    """Say why a file is none of ours."""
    raise guarded.UnfitError(why)
