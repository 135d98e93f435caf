"""What the bytes of a TIFF say of themselves: its first directory, and whether the pieces of the picture lie in the file.

The decoder reads on where a piece ends early, whatever lies there.
"""

from __future__ import annotations

import struct
from typing import Final

from silofold.core.guarded import UnfitError
from silofold.data.picture_refusals import CUT

_MOST_NUMBERS: Final = 100_000
_ONE_BYTE: Final = frozenset({1, 2, 6, 7})
"""Types whose numbers have one byte: BYTE, ASCII, SBYTE, UNDEFINED."""
_WHOLE: Final = {1: "B", 3: "H", 4: "I"}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _PLANES = 256, 257, 258, 259, 277, 284
_STRIPS, _ROWS, _STRIP_BYTES, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES = 273, 278, 279, 322, 323, 324, 325
_READ: Final = {
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _PLANES,
    _STRIPS, _ROWS, _STRIP_BYTES, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES,
}  # fmt: skip
_PLAIN, _JPEG = 1, 7
_PLANAR: Final = 2


def check(data: bytes) -> None:
    """Look at the first directory, of which each number becomes an object of Python, and at the pieces that it names.

    Raises
    ------
    UnfitError
        There are too many numbers, or a piece is missing, cut short or elsewhere.
    """
    order = "<" if data[0] == 0x49 else ">"
    if data[2:4] not in {b"*\0", b"\0*"}:
        raise UnfitError("found a BigTIFF, or damage in the first four bytes, expected a TIFF; save it as one first")
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (entries,) = struct.unpack_from(f"{order}H", data, start)
    found: dict[int, tuple[int, ...]] = {}
    for place in range(start + 2, start + 2 + 12 * entries, 12):
        tag, kind, numbers = struct.unpack_from(f"{order}HHI", data, place)
        if numbers > _MOST_NUMBERS and kind not in _ONE_BYTE:
            raise UnfitError(f"found {numbers} numbers in tag {tag}, expected at most {_MOST_NUMBERS}")
        if tag in _READ and kind in _WHOLE and numbers:
            form = f"{order}{min(numbers, _MOST_NUMBERS)}{_WHOLE[kind]}"
            at = place + 8 if struct.calcsize(form) <= 4 else struct.unpack_from(f"{order}I", data, place + 8)[0]
            found[tag] = struct.unpack_from(form, data, at)
    _pieces(data, found)


def _pieces(data: bytes, found: dict[int, tuple[int, ...]]) -> None:
    width, height = (_one(found, tag, 0) for tag in (_WIDTH, _HEIGHT))
    tiled = _TILES in found
    across, down = (
        (_one(found, _TILE_WIDTH, 0), _one(found, _TILE_HEIGHT, 0)) if tiled else (width, _one(found, _ROWS, height))
    )
    starts, sizes = (found.get(tag, ()) for tag in ((_TILES, _TILE_BYTES) if tiled else (_STRIPS, _STRIP_BYTES)))
    if min(width, height, across, down) < 1:
        raise UnfitError("found a size of 0 pixels, expected at least 1")
    samples, planes = _one(found, _SAMPLES, 1), 1
    if _one(found, _PLANES, 1) == _PLANAR:
        samples, planes = 1, samples
    a_plane = -(-width // across) * -(-height // down)
    if not len(starts) == len(sizes) == a_plane * planes:
        raise UnfitError(
            f"found the places of {len(starts)} pieces and the sizes of {len(sizes)}, expected {a_plane * planes} of each"
        )
    compression, bits = _one(found, _COMPRESSION, _PLAIN), _one(found, _BITS, 1)
    for number, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        rows = down if tiled else min(down, height - number % a_plane * down)
        needed = rows * ((across * samples * bits + 7) // 8) if compression == _PLAIN else 1
        if start < 8 or start + size > len(data):
            raise UnfitError(CUT)
        if size < needed or (compression == _JPEG and data.find(b"\xff\xd9", start, start + size) < 0):
            raise UnfitError(f"found {size} bytes in piece {number}, expected more: it was cut short")


def _one(found: dict[int, tuple[int, ...]], tag: int, default: int) -> int:
    return found.get(tag, (default,))[0]
