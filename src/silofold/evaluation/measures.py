"""Measures of predictions: pooled, per silo, worst silo, top-5, merged classes, confusion, calibration.

What no image tells of is None, never a number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from silofold.core.predictions import TOP
from silofold.evaluation.accuracy import wilson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from silofold.core.predictions import Predictions

BINS = 10
"""Bins of confidence in the calibration."""
ALIKE = "CIJKLMOPSUVWXYZ"
"""Letters whose upper and lower case cannot be told apart without a neighbour to compare their size with."""


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """A share of test images that are right, with its 95 % Wilson interval; None where there is no image."""

    correct: int
    examples: int
    accuracy: float | None
    low: float | None
    high: float | None


class Bin(msgspec.Struct, frozen=True, kw_only=True):
    """Images of like confidence."""

    low: float
    high: float
    examples: int
    confidence: float | None
    """Their mean confidence."""
    accuracy: float | None
    """How many of them are right."""


class Measures(msgspec.Struct, frozen=True, kw_only=True):
    """All measures of one model's predictions."""

    pooled: Share
    silos: list[Share]
    """By silo, in the order of ``silos.json``."""
    worst: int | None
    """Index of the silo with the lowest accuracy; silos without a test image have none."""
    mean: float | None
    """Mean of the silos' accuracies: each silo with a test image counts the same."""
    top5: Share | None
    """Whose true class is among the five likeliest; none where there are no more classes than that."""
    merged: Share | None
    """With classes that differ by case alone and look alike taken for one; none where there are no such classes."""
    merged_classes: int
    """How many classes are left then."""
    loss: float | None
    """Mean cross entropy."""
    calibration: list[Bin]
    calibration_error: float | None
    """Mean distance of confidence and accuracy over the bins, each weighted by its images."""
    confusion: list[list[int]]
    """Images by true class (row) and answer (column)."""


def share(right: NDArray[np.bool_]) -> Share:
    """Count an (M,) array of right answers."""
    return count(int(right.sum()), len(right))


def shares(right: NDArray[np.int64], examples: Sequence[int]) -> list[list[Share]]:
    """Turn (K, L) right answers on test splits of L sizes into shares."""
    return [[count(int(correct), size) for correct, size in zip(row, examples, strict=True)] for row in right]


def count(correct: int, examples: int) -> Share:
    """Make a share of its numbers."""
    if not examples:
        return Share(correct=0, examples=0, accuracy=None, low=None, high=None)
    low, high = wilson(correct, examples)
    return Share(correct=correct, examples=examples, accuracy=correct / examples, low=low, high=high)


def measure(found: Predictions, classes: Sequence[str], silos: int) -> Measures:
    """Compute all measures.

    Parameters
    ----------
    found
        The predictions.
    classes
        Names of the classes.
    silos
        Number of silos.
    """
    shares = [share(found.right[found.silo == silo]) for silo in range(silos)]
    known = {index: one.accuracy for index, one in enumerate(shares) if one.accuracy is not None}
    into = merge(classes)
    kinds = len(set(into))
    table = np.asarray(into)
    confusion = np.bincount(found.label * len(classes) + found.predicted, minlength=len(classes) ** 2)
    bins = calibrate(found.confidence, found.right)
    gaps = [one.examples * abs((one.confidence or 0.0) - (one.accuracy or 0.0)) for one in bins]
    return Measures(
        pooled=share(found.right),
        silos=shares,
        worst=min(known, key=lambda index: (known[index], index)) if known else None,
        mean=float(np.mean(list(known.values()))) if known else None,
        top5=share((found.top == found.label[:, None]).any(axis=1)) if len(classes) > TOP else None,
        merged=share(table[found.predicted] == table[found.label]) if kinds < len(classes) else None,
        merged_classes=kinds,
        loss=float(found.loss.mean()) if len(found.loss) else None,
        calibration=bins,
        calibration_error=sum(gaps) / len(found.label) if len(found.label) else None,
        confusion=confusion.reshape(len(classes), len(classes)).tolist(),
    )


def merge(classes: Sequence[str]) -> list[int]:
    """Give each class the index of the class that it is merged into: itself, or its capital where both look alike.

    Of the 62 classes of digits and letters 47 are left.

    References
    ----------
    G. Cohen, S. Afshar, J. Tapson, A. van Schaik, "EMNIST: an extension of MNIST to handwritten letters", arXiv:1702.05373.
    """
    place = {name: index for index, name in enumerate(classes)}
    return [
        place[name.upper()] if name.islower() and name.upper() in ALIKE and name.upper() in place else index
        for index, name in enumerate(classes)
    ]


def calibrate(confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> list[Bin]:
    """Sort (M,) images by confidence into `BINS` bins of equal width.

    References
    ----------
    C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On Calibration of Modern Neural Networks", arXiv:1706.04599.
    """
    places = np.clip((confidence * BINS).astype(np.int64), 0, BINS - 1)
    bins = []
    for index in range(BINS):
        inside = places == index
        some = bool(inside.any())
        bins.append(
            Bin(
                low=index / BINS,
                high=(index + 1) / BINS,
                examples=int(inside.sum()),
                confidence=float(confidence[inside].astype(np.float64).mean()) if some else None,
                accuracy=float(right[inside].mean()) if some else None,
            )
        )
    return bins
