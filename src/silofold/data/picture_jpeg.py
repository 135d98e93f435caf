"""What the bytes of a JPEG say of themselves: its segments, its scans, and the other pictures that lie behind it.

The decoder fills in what no scan brings, and takes the first picture of several.
"""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple

from silofold.core.guarded import UnfitError
from silofold.data.picture_refusals import CUT, several

_MOST_SEGMENTS: Final = 1000
_MOST_HEADER: Final = 1 << 24
_MOST_SCANS: Final = 100
"""A progressive JPEG has some ten; each costs a pass over the whole picture, however short it is."""
_MOST_PICTURES: Final = 1000
_PARAMETERLESS: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_SCAN, _END, _APP2, _DNL = 0xDA, 0xD9, 0xE2, 0xDC
_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""What ends the bits of a scan: neither a byte of them nor a restart."""
_OTHER_BITS: Final = bytes.fromhex("6b359ac553ac1771") * 8
_PIXELS_A_PIECE: Final = 1024
_ENTRIES: Final = 0xB002
"""Tag of a multi-picture file: what is known of each picture, 16 bytes."""
_SET: Final = 0x02
"""First byte of the type of a picture that is one of a panorama, a stereo pair or several angles."""


class _Head(NamedTuple):
    """What stands ahead of the first scan: where that begins, the frame, and the list of other pictures, or 0."""

    scan: int
    frame: tuple[int, bytes]
    listed: int


def check(data: bytes) -> None:
    """Walk the segments and scans, and tell whether other pictures stand beside the first.

    A gain map, a depth map, a thumbnail or a preserved original is no picture of its own.

    Raises
    ------
    UnfitError
        The file is cut short, damaged, of too many parts, or holds several pictures.
    """
    head = _head(data, 0)
    _scans(data, head)
    if head.listed:
        _others(data, head)


def lengthened(data: bytes) -> bytes:
    """Put other bits behind those of the last scan: a decoder that gives another picture then lacked some, and made them up.

    Where all bits are there it passes over these.
    """
    head = _head(data, 0)
    height, width = struct.unpack(">HH", head.frame[1][1:5])
    bits = _OTHER_BITS * (1 + height * width // _PIXELS_A_PIECE)
    return b"".join((memoryview(data)[: _scans(data, head)], bits, b"\xff\xd9"))


def _head(data: bytes, begin: int) -> _Head:
    """Walk the segments up to the first scan."""
    at, frame, index = begin + 2, (0, b""), 0
    for _ in range(_MOST_SEGMENTS):
        while data[at] == data[at + 1] == 0xFF:
            at += 1
        if data[at] != 0xFF:
            raise UnfitError(f"found no marker of JPEG at byte {at}")
        marker = data[at + 1]
        if marker == _SCAN:
            return _Head(at, frame, index)
        if marker == _END:
            raise UnfitError(CUT)
        if marker in _FRAMES:
            frame = marker, data[at + 4 : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]
        if marker == _APP2 and data[at + 4 : at + 8] == b"MPF\0":
            index = index or at + 8
        at += 2 if marker in _PARAMETERLESS else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if at - begin > _MOST_HEADER:
            raise UnfitError(f"found more than {_MOST_HEADER} bytes ahead of the picture, expected at most that")
    raise UnfitError(f"found more than {_MOST_SEGMENTS} segments, expected at most that")


def _scans(data: bytes, head: _Head) -> int:
    """Walk the scans up to the end of the picture, which is returned, and look whether they bring all of the frame."""
    marker, frame = head.frame
    if len(frame) < 6 or len(frame) < 6 + 3 * frame[5]:
        raise UnfitError("found no frame ahead of the first scan, expected one")
    progressive = marker in _PROGRESSIVE
    missing = {(frame[6 + 3 * place], number) for place in range(frame[5]) for number in range(64 if progressive else 1)}
    at, scans = head.scan, 0
    while data[at + 1] != _END:
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == _SCAN:
            scans += 1
            missing -= _brought(data[at + 4 : at + 2 + size], progressive=progressive)
            if scans > _MOST_SCANS:
                raise UnfitError(f"found more than {_MOST_SCANS} scans, expected at most that")
        found = _MARKER.search(data, at + 2 + size)
        if found is None:
            raise UnfitError(CUT)
        at = found.start()
    if missing:
        raise UnfitError(f"found {scans} scans that do not bring all of the picture: it was cut short")
    return at


def _brought(scan: bytes, *, progressive: bool) -> set[tuple[int, int]]:
    """Tell the component and the coefficients of which a scan brings the last bit."""
    components = [scan[1 + 2 * place] for place in range(scan[0])]
    first, last, bits = scan[1 + 2 * scan[0] : 4 + 2 * scan[0]]
    if not progressive:
        return {(component, 0) for component in components}
    return {(component, number) for component in components for number in range(first, last + 1) if not bits & 15}


def _others(data: bytes, head: _Head) -> None:
    """Look at the index of the pictures that lie in the file."""
    order = {b"II": "<", b"MM": ">"}.get(data[head.listed : head.listed + 2])
    if order is None:
        raise UnfitError("found a damaged index of several pictures")
    (start,) = struct.unpack_from(f"{order}I", data, head.listed + 4)
    (tags,) = struct.unpack_from(f"{order}H", data, head.listed + start)
    for place in range(head.listed + start + 2, head.listed + start + 2 + 12 * tags, 12):
        tag, _, size, offset = struct.unpack_from(f"{order}HHII", data, place)
        if tag == _ENTRIES:
            first, *others = _rows(data, order, head.listed + offset, min(size // 16, _MOST_PICTURES)) or [(0, 0)]
            for kind, at in others:
                if any(each >> 16 & 0xFF == _SET for each in (kind, first[0])) or (
                    not kind & 0xFFFFFF and _frame_size(data, head.listed + at) == head.frame[1][1:5]
                ):
                    raise several("MPO")


def _frame_size(data: bytes, begin: int) -> bytes:
    """Tell height and width of another picture; nothing where none lies: programs drop it, and leave it in the list."""
    try:
        return _head(data, begin).frame[1][1:5] if data[begin : begin + 2] == b"\xff\xd8" else b""
    except (IndexError, UnfitError):
        return b""


def _rows(data: bytes, order: str, at: int, number: int) -> list[tuple[int, int]]:
    """Read type and place of each picture."""
    return [struct.unpack_from(f"{order}I4xI4x", data, at + 16 * place) for place in range(number)]
