"""What the bytes of a PNG say of themselves: its chunks, their checksums, and whether its rows are all there.

The decoder fills in what is missing: rows with zeros, colours that no palette names with black.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final

from silofold.core.guarded import UnfitError
from silofold.data.picture_refusals import CUT, MOST_PIXELS, bounded, deep, several

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_CHUNKS: Final = 30_000
_CHUNK: Final = struct.Struct(">I4s")
_SEAL: Final = struct.Struct(">I")
_HEAD: Final = struct.Struct(">IIBB3x")
_PALETTE: Final = 3
_CHANNELS: Final = {0: 1, 2: 3, _PALETTE: 1, 4: 2, 6: 4}
_KNOWN: Final = {b"PLTE", b"IDAT", b"IEND"}
"""Chunks behind the header that no picture can do without; others of their kind have a capital letter in front too."""
_PASSES: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of an interlaced picture: first column and row, and steps."""
_PIECE: Final = 2**18


def check(data: bytes, deepest: int = 8) -> None:
    """Walk the chunks, whose checksums the decoder does not look at where it matters most: of the pixels.

    Raises
    ------
    UnfitError
        The file is cut short, damaged, animated, too deep or of too many parts.
    """
    pixels: list[memoryview] = []
    colour, rows, palette = -1, 0, 0
    for kind, body in _chunks(data):
        if kind == b"IHDR" and colour < 0:
            colour, rows = _header(body, deepest)
        elif colour < 0 or (kind not in _KNOWN and not kind[0] & 0x20):
            raise UnfitError(
                f"found a {_word(kind)} chunk where none is expected: without it nobody understands the picture"
            )
        elif kind == b"PLTE":
            palette = len(body)
        elif kind == b"IDAT":
            if colour == _PALETTE and (not 0 < palette <= 768 or palette % 3):
                raise UnfitError(f"found {palette} bytes of palette ahead of the pixels, expected 3 to 768, three a colour")
            pixels.append(body)
        elif kind == b"acTL" and bytes(body[:4]) != b"\0\0\0\1":
            raise several("APNG")
    _inflated(pixels, rows)


def _header(body: memoryview, deepest: int) -> tuple[int, int]:
    """Return the kind of colours, and the bytes of all rows."""
    width, height, depth, colour = _HEAD.unpack(body)
    if depth > (8 if colour else deepest):  # of colours with more bits the decoder drops half
        raise deep(depth)
    bounded(width, height, MOST_PIXELS)  # before rows are looked for that nobody reads
    return colour, _size(width, height, depth * _CHANNELS.get(colour, 1), interlaced=body[12] == 1)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    at, view = 8, memoryview(data)
    for _ in range(_MOST_CHUNKS):
        size, kind = _CHUNK.unpack_from(data, at)
        end = at + 8 + size
        if zlib.crc32(view[at + 4 : end]) != _SEAL.unpack_from(data, end)[0]:
            raise UnfitError(f"found a damaged {_word(kind)} chunk: its checksum is another one")
        yield kind, view[at + 8 : end]
        if kind == b"IEND":
            return
        at = end + 4
    raise UnfitError(f"found more than {_MOST_CHUNKS} chunks, expected at most that")


def _size(width: int, height: int, bits: int, *, interlaced: bool) -> int:
    """Bytes of all rows, each behind the number of its filter."""
    found = 0
    for column, row, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((column - width) // across), -((row - height) // down)
        found += rows * (1 + (columns * bits + 7) // 8) if columns > 0 and rows > 0 else 0
    return found


def _inflated(pixels: list[memoryview], rows: int) -> None:
    """Look whether the pixels are all there, without keeping them."""
    stream, found = zlib.decompressobj(), 0
    try:
        for piece in pixels:
            rest: bytes | memoryview = piece
            while rest and found < rows and not stream.eof:
                found += len(stream.decompress(rest, _PIECE))
                rest = stream.unconsumed_tail
    except zlib.error as error:
        raise UnfitError(f"found damaged pixels: {error}") from None
    if found < rows:
        raise UnfitError(f"found {found} bytes of pixels, expected {rows}: it was cut short" if pixels else CUT)


def _word(kind: bytes) -> str:
    return kind.decode("ascii", "backslashreplace")
