"""Bytes of a silo file: opened for reading alone, as many as are asked for, in pieces."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np

from silofold.core import guarded
from silofold.core.errors import SchemaError
from silofold.data.schema import MANIFEST, SiloInfo, size_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from silofold.data.tally import Tally

BLOCK_BYTES: Final = 2**24


def opened(path: Path) -> BinaryIO:
    """Open a silo file for reading alone, and without a lock, which network file systems refuse.

    Raises
    ------
    SchemaError
        It is missing, no regular file, or may not be read.
    """
    try:
        return guarded.opened(path)
    except FileNotFoundError:
        raise missing(path) from None
    except guarded.UnfitError as fault:
        raise SchemaError("data-read", f"{path}: {fault}") from None
    except (OSError, ValueError) as fault:
        raise SchemaError("data-read", f"{path}: {getattr(fault, 'strerror', None) or fault}") from None


def check_size(path: Path, size: int, silo: SiloInfo, image_shape: tuple[int, ...]) -> None:
    """Refuse a file that is too small for what the manifest says of it.

    Raises
    ------
    SchemaError
        It is.
    """
    least = size_of(silo.examples, image_shape)
    if size < least:
        raise SchemaError(
            "data-read",
            f"{path}: found {size} bytes, expected at least the {least} that its pictures take by {MANIFEST}: truncated?",
        )


def missing(path: Path) -> SchemaError:
    """Say that a silo file is not there."""
    return SchemaError("data-missing", f"{path}: no such file, expected the silo file that {MANIFEST} names")


def read_into(file: BinaryIO, offset: int, values: NDArray[Any], path: Path) -> None:
    """Fill an array with the bytes that begin at an offset.

    Raises
    ------
    SchemaError
        The file ends before, or cannot be read.
    """
    left = memoryview(values.reshape(-1).view(np.uint8).data)
    while left:
        try:
            got = os.preadv(file.fileno(), [left[: 2**30]], offset)
        except (OSError, OverflowError) as fault:
            raise SchemaError("data-read", f"{path}: {fault}") from None
        if not got:
            raise SchemaError("data-read", f"{path}: found its end at byte {offset}, expected {len(left)} more: truncated")
        left, offset = left[got:], offset + got


def read_pieces(file: BinaryIO, path: Path, offset: int, shape: tuple[int, ...]) -> Iterator[NDArray[np.uint8]]:
    """Read pictures (M, ...) that begin at an offset, some megabytes at a time."""
    for piece in _spans(shape):
        block = np.empty((piece.stop - piece.start, *shape[1:]), np.uint8)
        read_into(file, offset + piece.start * math.prod(shape[1:]), block, path)
        yield block


def _spans(shape: tuple[int, ...]) -> Iterator[slice]:
    """Cut pictures (M, ...) into pieces of some megabytes."""
    rows = max(1, BLOCK_BYTES // max(1, math.prod(shape[1:])))
    return (slice(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows))


def read_images(file: BinaryIO, offset: int, shape: tuple[int, ...], tally: Tally, path: Path) -> NDArray[np.uint8]:
    """Read the pictures of a split; what is there is hashed while more is read, by another thread where it is worth one."""
    images = np.empty(shape, np.uint8)
    pieces, each = list(_spans(shape)), math.prod(shape[1:])
    if len(pieces) <= 1:
        read_into(file, offset, images, path)
        tally.see_images(images)
        return images
    with ThreadPoolExecutor(1) as hasher:
        for piece in pieces:
            read_into(file, offset + piece.start * each, images[piece], path)
            hasher.submit(tally.see_images, images[piece])
    return images
