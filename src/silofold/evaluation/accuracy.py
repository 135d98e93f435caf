"""Accuracy that can be defended: a share of n images and its interval."""

from __future__ import annotations

import math
from statistics import NormalDist


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
