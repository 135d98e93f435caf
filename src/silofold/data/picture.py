"""One picture as a silo file holds it: the only place that says how pixels become an example."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from silofold.errors import SchemaError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FAULTS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""What PIL raises on a file that is no picture, or a broken one."""
_EIGHT_BIT = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}


def pixels(image: Image.Image, shape: tuple[int, ...], name: str) -> NDArray[np.uint8]:
    """Turn a picture to gray or colour and bring it to size, by bilinear interpolation.

    Parameters
    ----------
    shape
        (H, W), or (H, W, 3) for colour.
    name
        What to call the picture in errors.

    Raises
    ------
    SchemaError
        Its pixels have more than 8 bits a channel.
    """
    if image.mode not in _EIGHT_BIT:
        raise SchemaError("picture-depth", f"{name}: found pixels of mode {image.mode}, expected 8 bits a channel")
    mode = "RGB" if len(shape) == 3 else "L"
    fitting = image if image.mode == mode else image.convert(mode)
    fitting = fitting.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.frombuffer(fitting.tobytes(), np.uint8).reshape(shape)


def opened(path: str | Path) -> Image.Image:
    """Open a picture file, of which every byte is read: PIL's many small reads are faster in memory.

    Raises
    ------
    OSError
        The file cannot be read, or is no picture.
    """
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123  (a third of the time of Path's way for a small picture)
        content = io.BytesIO(file.read())
    try:
        return Image.open(content)
    except UnidentifiedImageError:
        raise OSError("found no format of pictures that PIL knows") from None


def read(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read a picture file as an image of a silo's shape.

    Raises
    ------
    SchemaError
        It cannot be read.
    """
    try:
        with opened(path) as image:
            return pixels(image, shape, str(path))
    except FAULTS as error:
        raise SchemaError("picture-read", f"{path}: not a readable picture: {' '.join(str(error).split())}") from error


def encode(image: NDArray[np.uint8]) -> bytes:
    """Encode an image of a silo, (H, W) or (H, W, C), as PNG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()
