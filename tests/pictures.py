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
