"""What the bytes of a picture file say of themselves, looked at before a decoder sees them.

Decoders take much on trust: they stop at the last pixel, whether the file ends there or was cut; they allocate what a
header declares; they walk through as many parts as there are. So the parts are walked here first.
This module knows bytes alone, no library that decodes.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final

from silofold.core.guarded import UnfitError
from silofold.data import picture_jpeg, picture_png, picture_tiff
from silofold.data.picture_refusals import CUT, bounded, deep, several

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES: Final = "PNG, JPEG, GIF, BMP, TIFF, WebP, PBM, PGM or PPM"
_MOST_EXTENSIONS: Final = 4096
_MOST_SLOW: Final = 1 << 22
"""Bytes of a file that Pillow decodes in Python, one pixel at a time."""
_WEBP_PIXELS: Final = 8_000_000
"""The decoder of WebP holds a picture four times over."""
_PNM: Final = re.compile(rb"P[14](?:\s+(?:#[^\n]*\n\s*)*[0-9]+){2}\s|P[2356](?:\s+(?:#[^\n]*\n\s*)*[0-9]+){3}\s")


def check(data: bytes, deepest: int = 8) -> str:
    """Tell the format of a picture file and look whether it is whole, single, and of a bounded number of parts.

    Parameters
    ----------
    deepest
        Bits a channel that gray pictures may have.

    Returns
    -------
    str
        Pillow's name of the format.

    Raises
    ------
    UnfitError
        It is none of `NAMES`, or it is cut short, damaged, animated, too deep or of too many parts.
    """
    name, look = _KINDS.get(data[:2], ("", _unknown))
    try:
        if name == "PNG":
            picture_png.check(data, deepest)
        elif name == "PPM":
            _pnm(data, deepest)
        else:
            look(data)
    except (struct.error, IndexError):
        raise UnfitError(CUT) from None
    return name


def _unknown(data: bytes) -> None:
    del data
    raise UnfitError(f"found none of the formats that are read, expected {NAMES}")


def _gif(data: bytes) -> None:
    """Walk the blocks up to the trailer and count the pictures."""
    at = 13 + _colours(data[10])
    shared = at > 13
    pictures = extensions = 0
    while data[at] != 0x3B:
        extension = data[at] == 0x21
        if data[at] == 0x2C:
            pictures += 1
            own = _colours(data[at + 9])
            if not shared and not own:
                raise UnfitError("found no table of colours, expected one")
            at += 11 + own
        elif extension:
            at += 2
        else:
            raise UnfitError(f"found no block of GIF at byte {at}")
        if pictures > 1:
            raise several("GIF")
        while data[at]:
            at += 1 + data[at]
            extensions += extension
            if extensions > _MOST_EXTENSIONS:
                raise UnfitError(f"found more than {_MOST_EXTENSIONS} blocks of extensions, expected at most that")
        at += 1


def _colours(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _webp(data: bytes) -> None:
    if data[8:12] != b"WEBP":
        _unknown(data)
    if len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise UnfitError(CUT)
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    bounded(width, height, _WEBP_PIXELS)


def _bmp(data: bytes) -> None:
    (compression,) = struct.unpack_from("<I", data, 30)
    if compression in {1, 2} and data[14] != 12:
        _slow(data, "a run-length encoded BMP")


def _pnm(data: bytes, deepest: int = 8) -> None:
    head = _PNM.match(data[:4096])
    if head is None:
        raise UnfitError("found no width, height and greatest value in the first 4096 bytes")
    greatest = 255 if data[1] in b"14" else int(head[0].split()[-1])
    if greatest > 255 and not (deepest > 8 and data[1] in b"5" and greatest == 65535):  # others the decoder would stretch
        raise deep(greatest.bit_length())
    if data[1] in b"123" and not data[-1:].isspace():  # else the last number may have lost digits
        raise UnfitError(CUT)
    if data[1] in b"56" and greatest < 255 and max(data[head.end() :], default=0) > greatest:
        raise UnfitError(f"found a value above {greatest}, the greatest that the file tells of")
    if data[1] in b"123" or greatest < 255:
        _slow(data, "a PBM, PGM or PPM as text or of another greatest value than 255")


def _slow(data: bytes, what: str) -> None:
    if len(data) > _MOST_SLOW:
        raise UnfitError(f"found {what} of {len(data)} bytes, expected at most {_MOST_SLOW}; save it as PNG first")


_KINDS: Final[dict[bytes, tuple[str, Callable[[bytes], None]]]] = {
    b"\x89P": ("PNG", picture_png.check),
    b"\xff\xd8": ("JPEG", picture_jpeg.check),
    b"GI": ("GIF", _gif),
    b"II": ("TIFF", picture_tiff.check),
    b"MM": ("TIFF", picture_tiff.check),
    b"RI": ("WEBP", _webp),
    b"BM": ("BMP", _bmp),
    **{b"P%d" % kind: ("PPM", _pnm) for kind in range(1, 7)},
}
"""By their first two bytes, which no two kinds share; the decoder looks at the others."""
