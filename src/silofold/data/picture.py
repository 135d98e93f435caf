"""One picture as a silo file holds it: the only place that says how pixels become an example."""

from __future__ import annotations

import io
import logging
import os
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from silofold.core import console, guarded
from silofold.core.errors import SchemaError
from silofold.data import picture_file, picture_jpeg, picture_refusals
from silofold.data.fitting import Fitting, to_eight_bits
from silofold.data.picture_turn import turn_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL.ImageFile import ImageFile

    from silofold.data.fitting import Fit

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else what Pillow logs goes to standard error
MOST_BYTES: Final = 128 * guarded.MIB
FEWER_PIXELS: Final = 12_500_000
"""Of progressive JPEG the coefficients are held too, and CMYK beside its colours: 8 to 12 bytes a pixel."""
_EIGHT_BIT: Final = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
_DEEP: Final = {"I;16", "I;16B", "I;16L", "I", "F"}
"""Gray of more than 8 bits, which is read where it is said what becomes black and white."""
_BITS_PER_SAMPLE: Final = 258
_OPENERS: Final[dict[str, Callable[[io.BytesIO], ImageFile]]] = {
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}
"""The formats that are read, and no other: some of Pillow's start programs. Image.open would take a third longer."""


def read(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read a picture file as an image of a silo's shape, and tell in one line what Pillow warns of.

    Raises
    ------
    SchemaError
        It cannot be read.
    """
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        image = load(path, shape)
    if told:
        console.say(f"warning: {path}: {_one_line(told[0].message)}")
    return image


def load(path: str | Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read a picture file as an image of a silo's shape, its aspect not kept; as `fitted` otherwise."""
    return fitted(path, Fitting(shape))


def fitted(path: str | Path, fitting: Fitting) -> NDArray[np.uint8]:
    """Read a picture file as an image of a silo; who calls it decides where Pillow's warnings go.

    Parameters
    ----------
    path
        Regular file of one picture, in a format of `picture_file.NAMES`.
    fitting
        Its shape, and how it is brought to that.

    Raises
    ------
    SchemaError
        It cannot be read.
    """
    try:
        data = guarded.read(path, MOST_BYTES)
    except (OSError, guarded.UnfitError) as error:
        raise SchemaError("picture-read", f"{path}: not a readable picture: {_reason(error)}") from error
    return decoded(data, str(path), fitting)


def decoded(data: bytes, name: str, fitting: Fitting) -> NDArray[np.uint8]:
    """Decode the bytes of a picture file; `name` says in messages where they come from.

    Raises
    ------
    SchemaError
        They are no picture that is read.
    """
    try:
        with _opened(data, deep=fitting.range is not None) as image:
            if image.format == "TIFF":
                with _muted():
                    image.load()
                _check_palette(image)
                return _fitted(image, fitting)  # Pillow turns TIFF by itself
            longer = _longer(image)
            image.load()
            _check_palette(image)
            _check_end(image, longer)
            return _fitted(image, fitting, turn_of(image))
    except picture_refusals.DeepError as fault:
        raise SchemaError("picture-depth", f"{name}: {fault}") from fault
    except Exception as error:  # decoders raise whatever hostile bytes lead them to: KeyError, struct.error, MemoryError …
        raise SchemaError("picture-read", f"{name}: not a readable picture: {_reason(error)}") from error


def _fitted(image: Image.Image, fitting: Fitting, turn: Image.Transpose | None = None) -> NDArray[np.uint8]:
    if fitting.range is not None:
        if image.mode not in _DEEP:
            raise guarded.UnfitError(
                "found 8 bits a channel, expected more, since --range is given; pack such pictures apart"
            )
        image = Image.fromarray(to_eight_bits(np.asarray(image), fitting.range))
    return pixels(image, fitting.shape, turn, fitting.fit)


def pixels(
    image: Image.Image, shape: tuple[int, ...], turn: Image.Transpose | None = None, fit: Fit = "squash"
) -> NDArray[np.uint8]:
    """Turn a picture to gray or colour, then upright, and bring it to size, by bilinear interpolation.

    Transparency is dropped: what counts is the colour that is stored.

    Parameters
    ----------
    image
        A picture of 8 bits a channel.
    shape
        (H, W), or (H, W, 3) for colour.
    turn
        What brings it upright.
    fit
        What becomes of its aspect.
    """
    image.info.pop("transparency", None)  # Pillow would warn that it is lost, or look for its colour in the new mode
    size, mode = (shape[1], shape[0]), "RGB" if len(shape) == 3 else "L"
    fitting = image if image.mode == mode or (mode, image.mode) == ("RGB", "RGBA") else image.convert(mode)
    if fitting.mode == "RGBA" or (mode == "RGB" and turn):
        # by channels, which gives the same: a second copy of four bytes a pixel would be too much memory
        fitting = Image.merge(mode, [_fit(fitting.getchannel(band), size, turn, fit) for band in range(3)])
    else:
        fitting = _fit(fitting, size, turn, fit)
    return np.frombuffer(fitting.tobytes(), np.uint8).reshape(shape)


def encode(image: NDArray[np.uint8]) -> bytes:
    """Encode an image of a silo, (H, W) or (H, W, C), as PNG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def _fit(image: Image.Image, size: tuple[int, int], turn: Image.Transpose | None, fit: Fit) -> Image.Image:
    upright = image if turn is None else image.transpose(turn)
    if fit == "squash" or upright.width * size[1] == upright.height * size[0]:
        return upright.resize(size, Image.Resampling.BILINEAR)
    ratios = size[0] / upright.width, size[1] / upright.height
    if fit == "crop":
        width, height = (side / max(ratios) for side in size)
        left, top = (upright.width - width) / 2, (upright.height - height) / 2
        return upright.resize(size, Image.Resampling.BILINEAR, (left, top, left + width, top + height))
    inner = max(1, round(upright.width * min(ratios))), max(1, round(upright.height * min(ratios)))
    whole = Image.new(upright.mode, size)
    whole.paste(upright.resize(inner, Image.Resampling.BILINEAR), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return whole


@contextmanager
def _muted() -> Iterator[None]:
    """Keep a C library from writing to standard error: libtiff tells there of every fault, beside what it returns."""
    try:
        kept = os.dup(2)
    except OSError:  # closed: nothing can be written
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _opened(data: bytes, *, deep: bool) -> ImageFile:
    """Open a picture of which every byte is there, and refuse what is not to be decoded; `deep`: beyond 8 bits."""
    kind = picture_file.check(data, 16 if deep else 8)
    image = _OPENERS[kind](io.BytesIO(data))
    costly = image.mode == "CMYK" or "progressive" in image.info or image.mode in _DEEP
    picture_refusals.bounded(*image.size, FEWER_PIXELS if costly else picture_refusals.MOST_PIXELS)
    if kind in {"TIFF", "WEBP"} and getattr(image, "is_animated", False):
        raise picture_refusals.several(str(image.format))
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))
        if bits > 8 and not (deep and image.mode in _DEEP):
            raise picture_refusals.deep(bits)
    if image.mode not in (_EIGHT_BIT | _DEEP if deep else _EIGHT_BIT):
        raise guarded.UnfitError(
            f"found pixels of mode {image.mode}, expected gray, RGB, CMYK or a palette of 8 bits a channel"
        )
    return image


def _longer(image: ImageFile) -> bytes | None:
    """Decode a JPEG with more bits than it has, and return its last rows; ahead of itself, for the sake of memory."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or not isinstance(image.fp, io.BytesIO):
        return None
    with JpegImagePlugin.JpegImageFile(io.BytesIO(picture_jpeg.lengthened(image.fp.getvalue()))) as other:
        other.load()
        return _end(other)


def _check_end(image: Image.Image, longer: bytes | None) -> None:
    """Refuse a JPEG that is another picture when it has more bits: it lacks some, and the decoder made them up."""
    if longer is not None and longer != _end(image):
        raise guarded.UnfitError(picture_refusals.CUT)


def _end(image: Image.Image) -> bytes:
    """Return the last rows, which are wrong wherever bits are missing: those of one block, of the largest that there are."""
    return image.crop((0, max(0, image.height - 32), image.width, image.height)).tobytes()


def _check_palette(image: Image.Image) -> None:
    """Refuse pixels of colours that the palette does not have: the decoder would make them black."""
    colours = len(image.getpalette() or ()) // 3 if image.mode in {"P", "PA"} else 256
    if colours < 256:
        most = image.getchannel(0).getextrema()[1]
        if isinstance(most, float | int) and most >= colours:
            raise guarded.UnfitError(f"found a pixel of colour {most}, expected less than the {colours} of its palette")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    plain = isinstance(error, OSError | ValueError | guarded.UnfitError)
    return _one_line(error) if plain else f"{type(error).__name__} {_one_line(error)}".strip()


def _one_line(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:197]}..."
