"""How a picture of any size and depth is brought to the shape that all pictures of a folder have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

import numpy as np

from silofold.core.errors import SchemaError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Fit = Literal["squash", "pad", "crop"]
FITS: Final = cast("tuple[Fit, ...]", get_args(Fit))
LARGEST: Final = 16_384
"""Of a side."""


@dataclass(frozen=True)
class Fitting:
    """What is done with a picture.

    Parameters
    ----------
    shape
        (H, W), or (H, W, 3) for colour.
    fit
        squash: the aspect is not kept. pad: the whole picture, black beside it. crop: its middle.
    range
        Values that become 0 and 255, for pictures of more than 8 bits a channel; what lies beyond becomes these.
    """

    shape: tuple[int, ...]
    fit: Fit = "squash"
    range: tuple[float, float] | None = None

    @property
    def words(self) -> str:
        """What ``silos.json`` says of it."""
        fit = "" if self.fit == "squash" else f", {self.fit}"
        return f"bilinear{fit}" + (f", range {self.range[0]:g} to {self.range[1]:g}" if self.range else "")


def of_words(words: str, shape: tuple[int, ...]) -> Fitting:
    """Read back what `Fitting.words` says; words of others mean that pictures are squashed."""
    fit: Fit = next((name for name in FITS if f"bilinear, {name}" == words.partition(", range ")[0]), "squash")
    try:
        low, high = (float(number) for number in words.partition(", range ")[2].split(" to "))
    except ValueError:
        return Fitting(shape, fit)
    return Fitting(shape, fit, (low, high) if low < high else None)


def size_of(text: str) -> tuple[int, int]:
    """Read ``32`` or ``240x320``: height and width.

    Raises
    ------
    SchemaError
        It is neither.
    """
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and 0 < int(part[:9]) <= LARGEST for part in parts):
        raise SchemaError("tool-option", f"--size {text}: expected N or HxW, each from 1 to {LARGEST}: 32, 240x320")
    return int(parts[0]), int(parts[-1])


def range_of(text: str) -> tuple[float, float]:
    """Read ``0,4095``: the values that become black and white.

    Raises
    ------
    SchemaError
        It is no pair of numbers, or the first is not less than the second.
    """
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise SchemaError("tool-option", f"--range {text}: expected two numbers with a comma: 0,4095") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise SchemaError("tool-option", f"--range {text}: expected the smaller of two finite numbers first")
    return low, high


def to_eight_bits(values: NDArray[Any], span: tuple[float, float]) -> NDArray[np.uint8]:
    """Bring values to 0 … 255: the first of `span` becomes 0, the second 255, in even steps, rounded.

    Raises
    ------
    ValueError
        A value is not finite.
    """
    low, high = span
    scaled = (values.astype(np.float64) - low) * (255.0 / (high - low))
    if not np.isfinite(scaled).all():
        raise ValueError("found a value that is not finite, expected numbers")
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
