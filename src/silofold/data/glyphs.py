"""Shapes of the 62 FEMNIST characters in several typefaces, as fields of distance to the ink.

A field is a picture of how far each point is from the pen's path (or from the edge of a printed letter), so that one
field gives thin and bold strokes alike and can be bent before it is drawn.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from silofold.data.sources.tree import FEMNIST

if TYPE_CHECKING:
    from numpy.typing import NDArray

GRID: Final = 64
REACH: Final = 0.8
"""A field covers -REACH to REACH in both directions; a capital is 1 high."""

# One letter: strokes separated by ";". A stroke is points on a grid, each two hex digits x and y (y down, capitals from
# 0 to C, small letters from 4), drawn straight after "-" and as a smooth curve after "~".
_STROKES: Final = {
    "0": "~40 22 16 2A 4C 6A 76 62 40",
    "1": "-23 50 5C",
    "2": "~12 30 60 73 57 0C;-0C 8C",
    "3": "~11 40 72 55 35;~35 66 79 5C 2C 0A",
    "4": "-60 08 88;-60 6C",
    "5": "-70 10 15;~15 44 76 79 5C 2C 0A",
    "6": "~61 23 08 1B 4C 7B 78 56 27 09",
    "7": "-00 80 3C",
    "8": "~72 40 12 25 67 8A 4C 0A 27 65 72",
    "9": "~72 40 13 26 56 72;~72 78 5C",
    "A": "-0C 40 8C;-18 78",
    "B": "-10 1C;~10 50 73 55 16;~16 66 89 6C 1C",
    "C": "~82 50 12 06 1A 5C 8A",
    "D": "-10 1C;~10 50 83 89 5C 1C",
    "E": "-80 10 1C 8C;-16 66",
    "F": "-80 10 1C;-16 66",
    "G": "~82 50 12 06 1A 5C 8A 87;-57 87",
    "H": "-10 1C;-70 7C;-16 76",
    "I": "-40 4C;-20 60;-2C 6C",
    "J": "~60 69 4C 1C 0A",
    "K": "-10 1C;-80 17 8C",
    "L": "-10 1C 8C",
    "M": "-0C 10 48 70 8C",
    "N": "-0C 00 8C 80",
    "O": "~40 12 06 1A 4C 7A 86 72 40",
    "P": "-10 1C;~10 60 83 66 16",
    "Q": "~40 12 06 1A 4C 7A 86 72 40;-59 8D",
    "R": "-10 1C;~10 60 83 66 16;-46 8C",
    "S": "~71 40 12 25 67 7A 4C 0A",
    "T": "-00 80;-40 4C",
    "U": "~00 09 2C 6C 89 80",
    "V": "-00 4C 80",
    "W": "-00 2C 43 6C 80",
    "X": "-00 8C;-80 0C",
    "Y": "-00 46 80;-46 4C",
    "Z": "-00 80 0C 8C",
    "a": "~75 44 16 1A 4C 7A;-74 7C",
    "b": "-10 1C;~16 44 76 7A 4C 1A",
    "c": "~75 44 16 1A 4C 7B",
    "d": "-70 7C;~76 44 16 1A 4C 7A",
    "e": "~18 78 75 44 16 1A 4C 7B",
    "f": "~70 50 33 3C;-15 65",
    "g": "~76 44 16 19 4B 79;~74 7D 5F 2F 1E",
    "h": "-10 1C;~17 44 66 7C",
    "i": "-44 4C;-41 42",
    "j": "~44 4D 2F 0E;-41 42",
    "k": "-10 1C;-64 18 6C",
    "l": "-40 4C",
    "m": "-04 0C;~07 24 46 4C;~47 64 86 8C",
    "n": "-14 1C;~17 44 76 7C",
    "o": "~44 16 1A 4C 7A 76 44",
    "p": "-14 1F;~16 44 76 7A 4C 1A",
    "q": "-74 7F;~76 44 16 1A 4C 7A",
    "r": "-24 2C;~27 44 65",
    "s": "~75 44 16 37 58 6A 4C 1B",
    "t": "~41 4A 5C 7B;-15 75",
    "u": "~14 1A 3C 5C 79;-74 7C",
    "v": "-14 4C 74",
    "w": "-04 2C 45 6C 84",
    "x": "-14 7C;-74 1C",
    "y": "-14 4C;-74 2F",
    "z": "-14 74 1C 7C",
}
_OTHER_HAND: Final = {
    "1": "-40 4C",
    "2": "~12 30 60 73 57 1B;~1B 2A 4B 6C 8B",
    "4": "-10 17 77;-60 6C",
    "7": "-00 80 3C;-26 66",
    "9": "~72 40 13 26 56 72;-71 6C",
    "B": "-10 1C;~10 50 73 55 36;~36 66 89 6C 1C",
    "E": "~71 40 12 35;~35 17 0A 4C 8A",
    "I": "-40 4C",
    "J": "~60 69 4C 1C 0A;-30 80",
    "M": "-0C 00 48 80 8C",
    "Y": "~00 04 46 73;~80 7A 4C 1A",
    "Z": "-00 80 0C 8C;-26 66",
    "a": "~15 44 76 7C;~77 37 19 1B 4C 7A",
    "f": "~70 50 33 3F;-15 65",
    "l": "~30 3A 5C 6B",
    "q": "-74 7E 8D;~76 44 16 1A 4C 7A",
    "r": "~14 25 2C;~27 44 65",
    "t": "-40 4C;-15 75",
    "y": "~14 18 4A 78;~74 7D 5F 2F 1E",
    "z": "-14 74 1C 7C;-28 68",
}
TYPEFACES: Final = ("round", "angular", "other hand", "serif", "printed")


@cache
def fields() -> NDArray[np.float32]:
    """Return the distance of every grid point from the ink's middle or edge, (typeface, class, GRID, GRID) float32."""
    paths = [_strokes(_STROKES[char], smooth=True) for char in FEMNIST]
    usual = [_path_field(strokes) for strokes in paths]
    angular = [_path_field(_strokes(_STROKES[char], smooth=False)) for char in FEMNIST]
    other = {char: _path_field(_strokes(text, smooth=True)) for char, text in _OTHER_HAND.items()}
    other_hand = [other.get(char, field) for char, field in zip(FEMNIST, usual, strict=True)]
    serif = [_path_field([*strokes, *_serifs(strokes)]) for strokes in paths]
    faces = [usual, angular, other_hand, serif, [_printed_field(char) for char in FEMNIST]]
    return np.array(faces, np.float32)


def _strokes(text: str, *, smooth: bool) -> list[NDArray[np.float64]]:
    """Read a letter; each stroke is a path (P, 2) of x and y, the letter's box is centred."""
    strokes = [
        np.array([[int(digit, 16) for digit in point] for point in stroke[1:].split()], np.float64) / 12
        for stroke in text.split(";")
    ]
    points = np.concatenate(strokes)
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    curved = [smooth and stroke[0] == "~" for stroke in text.split(";")]
    return [_curve(path - middle) if bend else path - middle for path, bend in zip(strokes, curved, strict=True)]


def _curve(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draw a Catmull-Rom spline through points (P, 2), closed when the last is the first."""
    closed = bool((points[0] == points[-1]).all())
    before, after = (points[-2], points[1]) if closed else (points[0], points[-1])
    p = np.concatenate([[before], points, [after]])
    t = np.linspace(0, 1, 6)[:-1, None, None]
    a, b, c, d = p[:-3], p[1:-2], p[2:-1], p[3:]
    spline = (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3) / 2
    return np.concatenate([spline.transpose(1, 0, 2).reshape(-1, 2), points[-1:]])


def _serifs(strokes: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Put a short level bar on the open ends of strokes."""
    ends = [end for path in strokes if (path[0] != path[-1]).any() for end in (path[0], path[-1])]
    half = np.array([0.09, 0])
    return [np.array([end - half, end + half]) for end in ends]


def _grid() -> NDArray[np.float32]:
    axis = np.linspace(-REACH, REACH, GRID, dtype=np.float32)
    return np.stack(np.meshgrid(axis, axis), axis=-1)


def _path_field(strokes: list[NDArray[np.float64]]) -> NDArray[np.float32]:
    """Measure the distance to the nearest segment of any stroke."""
    start = np.concatenate([path[:-1] for path in strokes])
    along = np.concatenate([np.diff(path, axis=0) for path in strokes])
    length = np.maximum((along**2).sum(axis=1), 1e-12)
    x, y = (_grid()[:, :, None, axis] - start[:, axis].astype(np.float32) for axis in (0, 1))
    along_x, along_y = along.T.astype(np.float32)
    foot = np.clip((x * along_x + y * along_y) / length.astype(np.float32), 0, 1)
    square = (x - foot * along_x) ** 2 + (y - foot * along_y) ** 2
    gap: NDArray[np.float32] = np.sqrt(square.min(axis=-1))
    return gap


def _printed_field(char: str) -> NDArray[np.float32]:
    """Measure the signed distance to the edge of a letter of Pillow's own font, thinned to a pen's stroke."""
    font = ImageFont.load_default(size=56)
    left, top, right, bottom = font.getbbox(char)
    picture = Image.new("L", (GRID, GRID))
    middle = ((GRID - left - right) / 2, (GRID - top - bottom) / 2)
    ImageDraw.Draw(picture).text(middle, char, fill=255, font=font)
    ink = np.asarray(picture) > 127
    rows = np.argwhere(ink[:, 1:] != ink[:, :-1]) + np.array([0, 0.5])
    columns = np.argwhere(ink[1:] != ink[:-1]) + np.array([0.5, 0])
    edge = np.concatenate([rows, columns])
    row, column = edge.T.astype(np.float32)
    axis = np.arange(GRID, dtype=np.float32)[:, None]
    gap = np.sqrt(((axis - row) ** 2)[:, None] + ((axis - column) ** 2)[None]).min(axis=-1)
    signed: NDArray[np.float32] = np.where(ink, -gap, gap) * (2 * REACH / GRID) + 0.05
    return signed
