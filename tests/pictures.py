"""Picture files for tests: every format that is read, and the ways to damage them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator


def scene(seed: int = 0, mode: str = "RGB", size: tuple[int, int] = (40, 24)) -> Image.Image:
    """A smooth picture that no turn leaves as it is."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (6, 10, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    return image.convert(mode)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def samples() -> Iterator[tuple[str, bytes]]:
    """One file of every kind: name and bytes."""
    rgb, gray = scene(), scene(mode="L")
    rgba, palette = scene(mode="RGBA"), scene().quantize(16)
    rgba.putalpha(gray)
    yield "png", saved(rgb, "png")
    yield "gray.png", saved(gray, "png")
    yield "alpha.png", saved(rgba, "png")
    yield "palette.png", saved(palette, "png", transparency=bytes(range(16)))
    yield "text.png", saved(rgb, "png", icc_profile=b"profile" * 99, exif=orientation(6))
    yield "jpg", saved(rgb, "jpeg")
    yield "progressive.jpg", saved(rgb, "jpeg", progressive=True, exif=orientation(3))
    yield "cmyk.jpg", saved(scene(mode="CMYK"), "jpeg")
    yield "gif", saved(palette, "gif")
    yield "bmp", saved(rgb, "bmp")
    yield "palette.bmp", saved(palette, "bmp")
    yield "tif", saved(rgb, "tiff")
    for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
        yield f"{name}.tif", saved(rgb, "tiff", compression=name)
    yield "webp", saved(rgb, "webp")
    yield "lossless.webp", saved(rgba, "webp", lossless=True, exif=orientation(8))
    yield "ppm", saved(rgb, "ppm")
    yield "pgm", saved(gray, "ppm")
    yield "text.pgm", b"P2\n# as text\n3 2\n255\n0 1 2 3 4 255\n"


def orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[274] = value
    return exif.tobytes()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int = 8, colour: int = 0, between: bytes = b"", pixels: bytes = b"") -> bytes:
    """A PNG by its parts; pixels are compressed here."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + between + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def parts(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and body of each chunk of a PNG."""
    found, at = [], 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def of_parts(*found: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in found)


def multi_picture(kinds: tuple[int, ...], sizes: tuple[tuple[int, int], ...]) -> bytes:
    """A JPEG with other pictures behind the first, of these types of the multi-picture format."""
    first, *others = (scene(seed, size=size) for seed, size in enumerate(sizes))
    data = bytearray(saved(first, "mpo", save_all=True, append_images=others))
    index = data.find(b"MPF\0") + 4
    (offset,) = struct.unpack_from("<I", data, data.find(b"\x02\xb0", index) + 8)
    for number, kind in enumerate(kinds):
        struct.pack_into("<I", data, index + offset + 16 * number, kind)
    return bytes(data)


def tiff_with(data: bytes, tag: int, value: int) -> bytes:
    """A TIFF of Pillow's, little-endian, with another value of a tag; without the tag if the value is negative."""
    found = bytearray(data)
    (start,) = struct.unpack_from("<I", found, 4)
    (number,) = struct.unpack_from("<H", found, start)
    place = next(at for at in range(start + 2, start + 2 + 12 * number, 12) if found[at : at + 2] == struct.pack("<H", tag))
    if value < 0:
        del found[place : place + 12]
        return bytes(found[:start] + struct.pack("<H", number - 1) + found[start + 2 :])
    struct.pack_into("<HII", found, place + 2, 4, 1, value)
    return bytes(found)
