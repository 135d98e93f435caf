"""How a picture was held when it was taken: what its EXIF or XMP data says brings it upright."""

from __future__ import annotations

import re
import struct
import warnings
from typing import Final

from PIL import Image

_ORIENTATION: Final = 274
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Tell what brings a picture upright: its EXIF data says how the camera was held."""
    info = image.info
    exif = info.get("exif")
    if exif is None and "Raw profile type exif" in info:
        exif = bytes.fromhex("".join(info["Raw profile type exif"].split("\n")[3:]))
    orientation = None if exif is None else _orientation(exif)
    xmp = info.get("XML:com.adobe.xmp") or info.get("xmp")
    if orientation is None and xmp:
        found = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp.encode() if isinstance(xmp, str) else xmp)
        orientation = int(found[1]) if found else None
    if orientation is not None and not 0 <= orientation <= 8:
        warnings.warn(
            f"found the orientation {orientation} in EXIF data, expected 1 to 8; the picture was not turned", stacklevel=2
        )
    return _TURNS.get(orientation or 1)


def _orientation(exif: bytes) -> int | None:
    """Find the orientation in EXIF data without a look at any other entry, of which a hostile file may have many."""
    exif = exif.removeprefix(b"Exif\0\0")
    try:
        order = {b"II*\0": "<", b"MM\0*": ">"}[exif[:4]]
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, start)
        for place in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, place)
            if tag == _ORIENTATION:
                letter = {1: "B", 3: "H", 4: "I"}[kind]
                return int(struct.unpack_from(f"{order}{letter}", exif, place + 8)[0])
    except (struct.error, KeyError):
        warnings.warn("found damaged EXIF data; the picture was not turned", stacklevel=3)
    return None
