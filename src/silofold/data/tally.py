"""Digest, histogram and ranges of a split, from its pieces: one way for who writes, reads and verifies."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from silofold.data.schema import MANIFEST, SplitInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


class Tally:
    """What is known of a split whose pieces are seen one after the other.

    Parameters
    ----------
    classes
        Number of classes.
    """

    def __init__(self, classes: int) -> None:
        self._digest = hashlib.sha256()
        self._classes = classes
        self._labels = np.empty(0, np.int32)
        self._writer = np.empty(0, np.int32)

    def see_images(self, images: NDArray[np.uint8]) -> None:
        """Take the next piece (B, H, W[, C]) of the pictures."""
        self._digest.update(np.ascontiguousarray(images, "u1").data)

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
        return SplitInfo(len(self._labels), self._digest.hexdigest(), tuple(histogram))

    def faults(self, expected: SplitInfo, writers: int) -> Iterator[str]:
        """Compare with what the manifest says; the digest of other data is never told."""
        ranges = list(self.range_faults(writers))
        yield from ranges
        if self._digest.hexdigest() != expected.sha256:
            # not which digest it has: whoever sent the file would learn what else it might be made to show
            yield f"sha256 of the data: it is not that of {MANIFEST}"
        elif not ranges and self.info().histogram != expected.histogram:
            yield f"histogram: found {list(self.info().histogram)}, expected {list(expected.histogram)}"
