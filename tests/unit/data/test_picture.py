"""The one reader of pictures: what it takes, what it refuses, and that each refusal is one line without delay."""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageOps

import pictures
from silofold.core.errors import SchemaError
from silofold.core.guarded import UnfitError
from silofold.data import picture, picture_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

COLOUR, GRAY = (16, 16, 3), (16, 16)
SAMPLES = dict(pictures.samples())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "picture"


def read(place: Path, data: bytes, shape: tuple[int, ...] = COLOUR) -> NDArray[np.uint8]:
    place.write_bytes(data)
    return picture.read(place, shape)


def refused(place: Path, data: bytes, *words: str) -> None:
    """Check that a picture is refused in one line that says these words and its name."""
    with pytest.raises(SchemaError) as caught:
        read(place, data)
    text = str(caught.value)
    assert text.startswith(f"{place}: ")
    assert "\n" not in text
    for word in words:
        assert word in text


@pytest.mark.parametrize("name", SAMPLES)
def test_every_format_is_read_and_refused_when_cut(place: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = SAMPLES[name]
    for shape in (COLOUR, GRAY):
        assert read(place, data, shape).shape == shape
    for cut in {*range(1, 41), len(data) // 2} & set(range(len(data))):
        refused(place, data[:-cut])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "webp"])
@pytest.mark.parametrize("value", range(1, 9))
def test_pictures_are_turned_upright(place: Path, kind: str, value: int) -> None:
    data = pictures.saved(pictures.scene(), kind, exif=pictures.orientation(value))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    for shape, mode in ((COLOUR, "RGB"), (GRAY, "L")):
        expected = np.asarray(upright.convert(mode).resize((16, 16), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(read(place, data, shape), expected)


def test_orientation_of_xmp(place: Path) -> None:
    text = b'XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    pixels = b"\0\0\xff\0\xff\xff"
    turned = pictures.png(2, 2, between=pictures.chunk(b"iTXt", text), pixels=pixels)
    plain = read(place, pictures.png(2, 2, pixels=pixels), (2, 2))
    np.testing.assert_array_equal(read(place, turned, (2, 2)), plain[::-1, ::-1])


@pytest.mark.parametrize(
    "exif",
    [
        b"nonsense",
        b"II*\0\x08\0\0\0\xff\xff" + bytes(40),
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0",
        b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x01\0\x06\0\0",
    ],
)
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_damaged_exif_is_told_in_one_line(place: Path, kind: str, exif: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    data = pictures.saved(pictures.scene(), kind, exif=b"Exif\0\0" + exif)
    np.testing.assert_array_equal(read(place, data), read(place, pictures.saved(pictures.scene(), kind)))
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"silofold: warning: {place}: ")


@pytest.mark.parametrize("kind", ["gif", "png", "tiff", "webp", "mpo"])
def test_several_pictures_in_one_file_are_refused(place: Path, kind: str) -> None:
    first, *others = (pictures.scene(seed) for seed in range(3))
    refused(
        place, pictures.saved(first, kind, save_all=True, append_images=others), "found several pictures", "expected one"
    )
    assert read(place, pictures.saved(first, kind, save_all=True)).shape == COLOUR


DEEP = {
    "gray": pictures.png(2, 2, 16, 0, pixels=bytes(10)),
    "gray and alpha": pictures.png(2, 2, 16, 4, pixels=bytes(18)),
    "rgb": pictures.png(2, 2, 16, 2, pixels=bytes(26)),
    "rgba": pictures.png(2, 2, 16, 6, pixels=bytes(34)),
    "tiff": pictures.saved(Image.fromarray(np.zeros((4, 4), np.uint16)), "tiff"),
    "float tiff": pictures.saved(Image.fromarray(np.zeros((4, 4), np.float32)), "tiff"),
    "ppm": b"P6 2 2 65535\n" + bytes(24),
    "pgm": b"P5 2 2 65535\n" + bytes(8),
    "ten bits": b"P5 2 2 1023\n" + bytes(8),
}


@pytest.mark.parametrize("name", DEEP)
def test_more_than_8_bits_are_refused_with_the_way_round(place: Path, name: str) -> None:
    with pytest.raises(SchemaError, match="bits a channel, expected 8; convert it to 8 bits first") as caught:
        read(place, DEEP[name])
    assert caught.value.id == "picture-depth"


ALONE = {
    "gain map": ((0x030000, 0), ((40, 24), (20, 12))),
    "two gain maps": ((0x030000, 0, 0), ((40, 24), (20, 12), (10, 6))),
    "thumbnail of equal size": ((0x030000, 0x010001), ((40, 24), (40, 24))),
    "gain map by its type": ((0x030000, 0x050000), ((40, 24), (40, 24))),
    "preserved original": ((0x20030000, 0x040000), ((40, 24), (40, 24))),
}
SETS = {
    "equal sizes": ((0x030000, 0), ((40, 24), (40, 24))),
    "panorama": ((0x020001, 0x020001), ((40, 24), (40, 24))),
    "stereo": ((0x20020002, 0x40020002), ((40, 24), (40, 24))),
    "angles beside a primary picture": ((0x030000, 0x020003), ((40, 24), (20, 12))),
    "a gain map and a picture": ((0x030000, 0, 0), ((40, 24), (20, 12), (40, 24))),
}


@pytest.mark.parametrize("name", ALONE)
def test_what_phones_write_beside_a_picture_is_none(place: Path, name: str) -> None:
    data = pictures.multi_picture(*ALONE[name])
    expected = read(place, pictures.saved(pictures.scene(), "jpeg"))
    np.testing.assert_array_equal(read(place, data), expected)
    np.testing.assert_array_equal(read(place, data[: data.find(b"\xff\xd9") + 2]), expected)  # a program has dropped it
    refused(place, data[: data.find(b"\xff\xd9") - 20], "cut short")


@pytest.mark.parametrize("name", SETS)
def test_pictures_of_one_file_that_belong_together_are_refused(place: Path, name: str) -> None:
    refused(place, pictures.multi_picture(*SETS[name]), "found several pictures (MPO)")


PNG, PALETTE = pictures.parts(SAMPLES["png"]), pictures.parts(SAMPLES["palette.png"])
ROWS = zlib.decompress(b"".join(body for kind, body in PNG if kind == b"IDAT"))


def _rows(rows: bytes, head: bytes = PNG[0][1]) -> bytes:
    return pictures.of_parts((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


def _palette(colours: bytes) -> bytes:
    return pictures.of_parts(*((kind, colours if kind == b"PLTE" else body) for kind, body in PALETTE))


def _scans(number: int) -> bytes:
    """A progressive JPEG of its first scans alone."""
    data = SAMPLES["progressive.jpg"]
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    return data[: data.rfind(b"\xff\xc4", 0, scans[number])] + b"\xff\xd9"


FILLED_IN = {
    "png: rows missing": _rows(ROWS[: len(ROWS) // 2]),
    "png: a byte missing": _rows(ROWS[:-1]),
    "png: interlaced, rows missing": _rows(ROWS, PNG[0][1][:12] + b"\1"),
    "png: no pixels": pictures.of_parts(PNG[0], PNG[-1]),
    "png: no end": pictures.of_parts(*PNG[:-1]),
    "png: no palette": pictures.of_parts(*(part for part in PALETTE if part[0] != b"PLTE")),
    "png: an empty palette": _palette(b""),
    "png: half a colour": _palette(PALETTE[1][1][:7]),
    "png: colours missing": _palette(PALETTE[1][1][:6]),
    "png: palette behind the pixels": pictures.of_parts(PALETTE[0], *PALETTE[2:-1], PALETTE[1], PALETTE[-1]),
    "png: two headers": pictures.of_parts(PNG[0], *PNG),
    "png: of Apple's own": pictures.of_parts((b"CgBI", bytes(4)), *PNG),
    "png: a chunk that nobody knows": pictures.of_parts(PNG[0], (b"ABCD", b""), *PNG[1:]),
    "gif: no table of colours": SAMPLES["gif"][:10] + b"\0" + SAMPLES["gif"][11:13] + SAMPLES["gif"][13 + 48 :],
    **{
        f"{name}: {cut} bytes missing ahead of the end": SAMPLES[name][: -cut - 2] + b"\xff\xd9"
        for name in ("jpg", "progressive.jpg", "cmyk.jpg")
        for cut in (10, 20, 100)
    },
    "jpeg: no bits": SAMPLES["jpg"][: SAMPLES["jpg"].find(b"\xff\xda") + 14] + b"\xff\xd9",
    "jpeg: first scan": _scans(1),
    "jpeg: all scans but the last": _scans(-1),
    "bmp: colours missing": SAMPLES["palette.bmp"][:46] + struct.pack("<I", 2) + SAMPLES["palette.bmp"][50:],
    "pgm: above the greatest value": b"P5 3 2 9\n" + bytes([0, 1, 2, 3, 4, 255]),
    **{
        f"{name}: {what}": pictures.tiff_with(SAMPLES[name], tag, value)
        for name in SAMPLES
        if name.endswith("tif")
        for what, tag, value in (
            ("no strip", 273, 0),
            ("no sizes", 279, -1),
            ("size 0", 279, 0),
            ("half of the size", 279, 376),
            ("one strip of five", 278, 5),
            ("twice as high", 257, 48),
        )
    },
}


@pytest.mark.parametrize("name", FILLED_IN)
def test_what_a_decoder_would_fill_in_is_refused(place: Path, name: str) -> None:
    refused(place, FILLED_IN[name])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 7), (8, 8), (9, 17)])
def test_rows_of_every_size_are_counted(place: Path, bits: int, interlaced: int, size: tuple[int, int]) -> None:
    """Of an interlaced picture, by the definition: each pixel belongs to one pass."""
    passes = [
        [(x, y) for y in range(size[1]) for x in range(size[0]) if _pass(x, y) == number or not interlaced]
        for number in range(7 if interlaced else 1)
    ]
    rows = sum(1 + (sum(y == row for _, y in each) * bits + 7) // 8 for each in passes for row in {y for _, y in each})
    head = struct.pack(">IIBBBBB", *size, bits, 0, 0, 0, interlaced)
    assert read(place, _rows(bytes(rows), head), GRAY).max() == 0
    refused(place, _rows(bytes(rows - 1), head), "cut short")


def _pass(x: int, y: int) -> int:
    rows = ("16462646", "77777777", "56565656", "77777777", "36463646", "77777777", "56565656", "77777777")
    return int(rows[y % 8][x % 8]) - 1


def bomb(kind: bytes) -> bytes:
    return pictures.png(2, 2, between=pictures.chunk(kind, b"a\0\0" + zlib.compress(bytes(10**8))), pixels=bytes(6))


HOSTILE = {
    "169 megapixels": (pictures.png(13000, 13000, pixels=bytes(13001 * 1300)), "found 13000x13000 pixels, expected at most"),
    "webp of many pixels": (
        b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\xff" * 2 + bytes(8),
        "16777216x16777216",
    ),
    "gif of many pixels": (
        b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\x08\x01\0\0;",
        "65535x65535",
    ),
    "bmp of many pixels": (
        b"BM" + struct.pack("<IIIIiiHHI", 54, 0, 54, 40, 50000, 50000, 1, 24, 0) + bytes(20),
        "50000x50000",
    ),
    "text": (bomb(b"zTXt"), "too large"),
    "profile": (bomb(b"iCCP"), "too large"),
    "chunks": (
        pictures.png(2, 2, between=pictures.chunk(b"tEXt", b"a\0b") * 40000, pixels=bytes(6)),
        "more than 30000 chunks",
    ),
    "segments": (b"\xff\xd8" + b"\xff\xe0\0\x02" * 2000 + SAMPLES["jpg"][2:], "more than 1000 segments"),
    "exif of 20 MB": (b"\xff\xd8" + (b"\xff\xe1\xff\xff" + bytes(65533)) * 320 + SAMPLES["jpg"][2:], "ahead of the picture"),
    "comment": (b"P6\n#" + b"x" * 5000 + b"\n2 2 255\n" + bytes(12), "first 4096 bytes"),
    "slow text": (b"P2 1400 1400 255\n" + b"0 " * 2500000, "expected at most"),
    "scans": (
        SAMPLES["progressive.jpg"][:-2] + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" * 200 + b"\xff\xd9",
        "more than 100 scans",
    ),
    "gif's comments": (SAMPLES["gif"][:-1] + b"!\xfe" + b"\x01x" * 5000 + b"\0;", "more than 4096 blocks"),
    "tiff's numbers": (b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 273, 4, 10**7, 8) + bytes(4), "10000000 numbers"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "expected PNG, JPEG"),
    "icon": (pictures.saved(pictures.scene(), "ico"), "expected PNG, JPEG"),
    "nothing": (b"", "expected PNG, JPEG"),
    "flipped pixels": (SAMPLES["png"][:200] + b"\0\1\2" + SAMPLES["png"][203:], "damaged IDAT chunk"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.timeout(30)
def test_hostile_files_are_refused(place: Path, name: str) -> None:
    data, words = HOSTILE[name]
    refused(place, data, words)


def test_what_is_no_regular_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "device").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for name in ("fifo", "folder", "device", "socket", "absent"):
            with pytest.raises(SchemaError, match=f"{name}: not a readable picture: "):
                picture.read(tmp_path / name, GRAY)


def test_a_file_larger_than_the_limit_is_refused(place: Path) -> None:
    with place.open("wb") as file:
        file.truncate(10 * picture.MOST_BYTES)
    with pytest.raises(SchemaError, match="found more than 128 MiB"):
        picture.read(place, GRAY)


def test_the_most_pixels_are_read(place: Path) -> None:
    assert read(place, pictures.png(5000, 5000, pixels=bytes(5001 * 5000)), (2, 2)).max() == 0
    refused(place, pictures.png(5000, 5001, pixels=b""), "found 5000x5001 pixels")


def test_transparency_is_dropped(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever says that pixels are transparent, their colour counts."""
    image, gray = pictures.scene(), pictures.scene(mode="L")
    clear = Image.new("L", image.size)
    colour, pale = image.copy(), gray.copy()
    colour.putalpha(clear)
    pale.putalpha(clear)
    flat = image.quantize(16)
    for shape in (COLOUR, GRAY):
        np.testing.assert_array_equal(
            read(place, pictures.saved(colour, "png"), shape), read(place, pictures.saved(image, "png"), shape)
        )
        np.testing.assert_array_equal(
            read(place, pictures.saved(pale, "png"), shape), read(place, pictures.saved(gray, "png"), shape)
        )
        for transparency in (bytes(16), 3):
            np.testing.assert_array_equal(
                read(place, pictures.saved(flat, "png", transparency=transparency), shape),
                read(place, pictures.saved(flat, "png"), shape),
            )
    assert capfd.readouterr() == ("", "")


def test_check_knows_bytes_alone() -> None:
    assert {picture_file.check(data) for data in SAMPLES.values()} == {"PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"}
    for start in (b"\x89P", b"\xff\xd8", b"GI", b"II", b"MM", b"RI", b"BM", b"P6"):
        with pytest.raises(UnfitError):
            picture_file.check(start)
