"""Accuracy that can be defended: a share of n images and its interval."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def wilson(correct: int, examples: int, confidence: float = 0.95) -> tuple[float, float]:
    """Compute the score interval of a share.

    Parameters
    ----------
    correct
        Images that were right.
    examples
        Images in all, at least one.
    confidence
        Probability that such intervals hold the true share.

    Returns
    -------
    tuple of float
        Lower and upper bound.

    References
    ----------
    E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22 (1927).
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = correct / examples, z * z / examples
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / examples + spread / (4 * examples)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def chance(correct: int, examples: int, histogram: Sequence[int]) -> str:
    """Say that an accuracy cannot be told from always answering the commonest class; empty where it is better.

    Parameters
    ----------
    correct, examples
        Test images that were right, and all of them.
    histogram
        Test images of each class.

    Returns
    -------
    str
        Says so if the lower end of the 95 % interval does not lie above the share of the commonest class.
    """
    if not examples or not sum(histogram):
        return ""
    share = max(histogram) / sum(histogram)
    if wilson(correct, examples)[0] > share:
        return ""
    return f"which cannot be told from always answering the commonest class ({share:.2%})"
