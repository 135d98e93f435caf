"""What is said of picture files that are not read."""

from __future__ import annotations

from typing import Final

from silofold.core.guarded import UnfitError

CUT: Final = "found the end of the file before the end of the picture: it was cut short"
MOST_PIXELS: Final = 25_000_000
"""A decoded picture takes 4 bytes a pixel."""


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
