"""What the bytes of a picture file say of themselves, looked at before a decoder sees them.

Decoders take much on trust: they stop at the last pixel, whether the file ends there or was cut; they allocate what a
header declares; they walk through as many parts as there are. So the parts are walked here first.
This module knows bytes alone, no library that decodes.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final
from zlib import crc32

from silofold.core.guarded import UnfitError

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES: Final = "PNG, JPEG, GIF, BMP, TIFF, WebP, PBM, PGM or PPM"
_MOST_CHUNKS: Final = 30_000
_MOST_SEGMENTS: Final = 1000
_MOST_HEADER: Final = 1 << 24
_MOST_SCANS: Final = 100
"""A progressive JPEG has some ten; each costs a pass over the whole picture, however short it is."""
_MOST_EXTENSIONS: Final = 4096
_MOST_NUMBERS: Final = 100_000
_MOST_SLOW: Final = 1 << 22
"""Bytes of a file that Pillow decodes in Python, one pixel at a time."""
_WEBP_PIXELS: Final = 8_000_000
"""The decoder of WebP holds a picture four times over."""
_CUT: Final = "found the end of the file before the end of the picture: it was cut short"
_CHUNK: Final = struct.Struct(">I4s")
_SEAL: Final = struct.Struct(">I")
_PNM: Final = re.compile(rb"P[14](?:\s+(?:#[^\n]*\n\s*)*[0-9]+){2}\s|P[2356](?:\s+(?:#[^\n]*\n\s*)*[0-9]+){3}\s")
_ONE_BYTE: Final = frozenset({1, 2, 6, 7})
"""Types of TIFF whose numbers have one byte: BYTE, ASCII, SBYTE, UNDEFINED."""
_PARAMETERLESS: Final = frozenset({0x01, *range(0xD0, 0xD9)})


def check(data: bytes) -> str:
    """Tell the format of a picture file and look whether it is whole, single, and of a bounded number of parts.

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
        look(data)
    except (struct.error, IndexError):
        raise UnfitError(_CUT) from None
    return name


def _unknown(data: bytes) -> None:
    del data
    raise UnfitError(f"found none of the formats that are read, expected {NAMES}")


def _png(data: bytes) -> None:
    """Walk the chunks, whose checksums the decoder does not look at where it matters most: of the pixels."""
    at = 8
    for _ in range(_MOST_CHUNKS):
        size, kind = _CHUNK.unpack_from(data, at)
        end = at + 8 + size
        if crc32(data[at + 4 : end]) != _SEAL.unpack_from(data, end)[0]:
            raise UnfitError(f"found a damaged {_word(kind)} chunk: its checksum is another one")
        if kind == b"IEND":
            return
        if kind == b"IHDR" and data[at + 16] > 8:
            raise deep(data[at + 16])
        if kind == b"acTL" and data[at + 8 : at + 12] != b"\0\0\0\1":
            raise several("APNG")
        at = end + 4
    raise UnfitError(f"found more than {_MOST_CHUNKS} chunks, expected at most that")


def _jpeg(data: bytes) -> None:
    """Walk the segments up to the first scan, then look for the end of the picture."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        while data[at] == data[at + 1] == 0xFF:
            at += 1
        if data[at] != 0xFF:
            raise UnfitError(f"found no marker of JPEG at byte {at}")
        marker = data[at + 1]
        if marker == 0xDA:
            break
        at += 2 if marker in _PARAMETERLESS else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if at > _MOST_HEADER:
            raise UnfitError(f"found more than {_MOST_HEADER} bytes ahead of the picture, expected at most that")
    else:
        raise UnfitError(f"found more than {_MOST_SEGMENTS} segments, expected at most that")
    end = data.find(b"\xff\xd9", at)
    if end < 0:
        raise UnfitError(_CUT)
    if data.count(b"\xff\xda", at, end) > _MOST_SCANS:
        raise UnfitError(f"found more than {_MOST_SCANS} scans, expected at most that")


def _gif(data: bytes) -> None:
    """Walk the blocks up to the trailer and count the pictures."""
    at = 13 + _colours(data[10])
    pictures = extensions = 0
    while data[at] != 0x3B:
        extension = data[at] == 0x21
        if data[at] == 0x2C:
            pictures += 1
            at += 11 + _colours(data[at + 9])
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
        raise UnfitError(_CUT)
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    bounded(width, height, _WEBP_PIXELS)


def _tiff(data: bytes) -> None:
    """Look at the first directory: each of its numbers becomes an object of Python."""
    order = "<" if data[0] == 0x49 else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (entries,) = struct.unpack_from(f"{order}H", data, start)
    for place in range(entries):
        tag, kind, numbers = struct.unpack_from(f"{order}HHI", data, start + 2 + 12 * place)
        if numbers > _MOST_NUMBERS and kind not in _ONE_BYTE:
            raise UnfitError(f"found {numbers} numbers in tag {tag}, expected at most {_MOST_NUMBERS}")


def _bmp(data: bytes) -> None:
    (compression,) = struct.unpack_from("<I", data, 30)
    if compression in {1, 2} and data[14] != 12:
        _slow(data, "a run-length encoded BMP")


def _pnm(data: bytes) -> None:
    head = _PNM.match(data[:4096])
    if head is None:
        raise UnfitError("found no width, height and greatest value in the first 4096 bytes")
    greatest = 255 if data[1] in b"14" else int(head[0].split()[-1])
    if greatest > 255:
        raise deep(greatest.bit_length())
    if data[1] in b"123" and not data[-1:].isspace():  # else the last number may have lost digits
        raise UnfitError(_CUT)
    if data[1] in b"123" or greatest < 255:
        _slow(data, "a PBM, PGM or PPM as text or of another greatest value than 255")


def _slow(data: bytes, what: str) -> None:
    if len(data) > _MOST_SLOW:
        raise UnfitError(f"found {what} of {len(data)} bytes, expected at most {_MOST_SLOW}; save it as PNG first")


def _word(kind: bytes) -> str:
    return kind.decode("ascii", "backslashreplace")


class DeepError(UnfitError):
    """Pixels have more than 8 bits a channel."""


def deep(bits: int) -> DeepError:
    """Say that pixels have too many bits, and the way round."""
    return DeepError(f"found {bits} bits a channel, expected 8; convert it to 8 bits first, over a range of your choice")


def several(what: str) -> UnfitError:
    """Say that a file holds several pictures, and the way round."""
    return UnfitError(f"found several pictures ({what}), expected one a file; save each as a file of its own first")


def bounded(width: int, height: int, most: int) -> None:
    """Refuse a picture of too many pixels.

    Raises
    ------
    UnfitError
        It has more than `most`.
    """
    if width * height > most:
        raise UnfitError(f"found {width}x{height} pixels, expected at most {most} in all; make it smaller first")


_KINDS: Final[dict[bytes, tuple[str, Callable[[bytes], None]]]] = {
    b"\x89P": ("PNG", _png),
    b"\xff\xd8": ("JPEG", _jpeg),
    b"GI": ("GIF", _gif),
    b"II": ("TIFF", _tiff),
    b"MM": ("TIFF", _tiff),
    b"RI": ("WEBP", _webp),
    b"BM": ("BMP", _bmp),
    **{b"P%d" % kind: ("PPM", _pnm) for kind in range(1, 7)},
}
"""By their first two bytes, which no two kinds share; the decoder looks at the others."""
