"""Digest, histogram and ranges of a split, from its pieces: one way for who writes, reads and verifies."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import numpy as np

from silofold.data.schema import MANIFEST, SplitInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_AT_ONCE: Final = 2**20
"""Pixels that are counted at once: counting takes eight bytes for each."""


class Tally:
    """What is known of a split whose pieces are seen one after the other.

    Parameters
    ----------
    classes
        Number of classes.
    channels
        Number of colours whose pixels are to be summed; 0 does without, which is faster.
    """

    def __init__(self, classes: int, channels: int = 0) -> None:
        self._digest = hashlib.sha256()
        self._classes = classes
        self._labels = np.empty(0, np.int32)
        self._writer = np.empty(0, np.int32)
        self._pixels = np.zeros((channels, 256), np.int64)

    def see_images(self, images: NDArray[np.uint8]) -> None:
        """Take the next piece (B, H, W[, C]) of the pictures."""
        images = np.ascontiguousarray(images, "u1")
        self._digest.update(images.data)
        flat = images.reshape(-1, max(1, len(self._pixels)))
        for start in range(0, len(flat) if len(self._pixels) else 0, _AT_ONCE):
            for channel, values in enumerate(flat[start : start + _AT_ONCE].T):
                self._pixels[channel] += np.bincount(values, minlength=256)

    def see_labels(self, labels: NDArray[np.int32], writer: NDArray[np.int32]) -> None:
        """Take all labels (M,) and writer indices (M,), once, after the pictures."""
        self._labels, self._writer = labels, writer
        self._digest.update(np.ascontiguousarray(labels, "<i4").data)
        self._digest.update(np.ascontiguousarray(writer, "<i4").data)

    def range_faults(self, writers: int) -> Iterator[str]:
        """Tell labels that are no class and writer indices that are no writer."""
        for name, values, count in (("labels", self._labels, self._classes), ("writer", self._writer, writers)):
            low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
            if low < 0 or high >= count:
                yield f"{name}: found values from {low} to {high}, expected 0 to {count - 1}"

    def info(self) -> SplitInfo:
        """Return what the manifest will say of the split; labels must be in range."""
        histogram = np.bincount(self._labels, minlength=self._classes).tolist()
        sums, squares = self.sums()
        return SplitInfo(len(self._labels), self._digest.hexdigest(), tuple(histogram), sums, squares)

    def sums(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Sum the pixels of each channel, and their squares."""
        rows = self._pixels.tolist()
        return (
            tuple(sum(value * number for value, number in enumerate(row)) for row in rows),
            tuple(sum(value * value * number for value, number in enumerate(row)) for row in rows),
        )

    def faults(self, expected: SplitInfo, writers: int) -> Iterator[str]:
        """Compare with what the manifest says; the digest of other data is never told."""
        ranges = list(self.range_faults(writers))
        yield from ranges
        if self._digest.hexdigest() != expected.sha256:
            # not which digest it has: whoever sent the file would learn what else it might be made to show
            yield f"sha256 of the data: it is not that of {MANIFEST}"
        elif not ranges and self.info().histogram != expected.histogram:
            yield f"histogram: found {list(self.info().histogram)}, expected {list(expected.histogram)}"
        elif not ranges and len(self._pixels):
            found = self.info()
            for name in ("sums", "squares"):
                if getattr(found, name) != getattr(expected, name):
                    yield f"{name}: found {list(getattr(found, name))}, expected {list(getattr(expected, name))}"
