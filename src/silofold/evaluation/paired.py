"""Two models on the same test images: is one better, and by how much."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from silofold.evaluation.accuracy import wilson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Paired(msgspec.Struct, frozen=True, kw_only=True):
    """How two models differ on the same images."""

    examples: int
    only_first: int
    """Images that the first model alone gets right."""
    only_second: int
    """Images that the second model alone gets right."""
    difference: float
    """Accuracy of the second model minus that of the first."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    p: float
    """How probable so uneven a split of the images on which they differ is if both models are equally good."""


def compare(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Paired:
    """Compare two models by the images on which they differ.

    Parameters
    ----------
    first, second
        (M,) whether each model is right, on the same images in the same order; M at least 1.

    References
    ----------
    Q. McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12 (1947).
    """
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    gone, won = int((first & ~second).sum()), int((~first & second).sum())
    low, high = _newcombe(both, won, gone, neither)
    return Paired(
        examples=len(first), only_first=gone, only_second=won, difference=(won - gone) / len(first), low=low, high=high,
        p=mcnemar(gone, won),
    )  # fmt: skip


def mcnemar(only_first: int, only_second: int) -> float:
    """Compute the two-sided p of McNemar's exact test: a fair coin for each image on which the models differ."""
    flips, fewer = only_first + only_second, min(only_first, only_second)
    logs = [_log_choose(flips, k) - flips * math.log(2) for k in range(fewer + 1)]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _newcombe(both: int, won: int, gone: int, neither: int) -> tuple[float, float]:
    """Compute the 95 % interval of (won − gone) / n from the two Wilson intervals and their correlation.

    References
    ----------
    R. G. Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired data",
    Statistics in Medicine 17 (1998), method 10.
    """
    n = both + won + gone + neither
    second, first = (both + won) / n, (both + gone) / n
    (low2, high2), (low1, high1) = wilson(both + won, n), wilson(both + gone, n)
    margins = math.prod((both + won, gone + neither, both + gone, won + neither))
    cross = float(both * neither - won * gone)
    cross = max(cross - n / 2, 0.0) if cross > 0 else cross
    phi = cross / math.sqrt(margins) if margins else 0.0
    down, up = (second - low2, high1 - first), (high2 - second, first - low1)
    below, above = (math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b)) for a, b in (down, up))
    return second - first - below, second - first + above
