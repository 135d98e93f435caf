"""How far silos differ in their classes: numbers out of counts (S, K), which are all that they need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def effective_classes(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Tell for each silo how many classes it would have if all had as many pictures: e to its entropy. 0 where it is empty.

    >>> effective_classes(np.array([[5, 5, 0], [7, 0, 0]])).round(3).tolist()
    [2.0, 1.0]
    """
    shares = _shares(counts)
    found = np.exp(-np.where(shares > 0, shares * np.log(np.where(shares > 0, shares, 1.0)), 0.0).sum(axis=1))
    return np.where(counts.sum(axis=1) > 0, found, 0.0)


def distance_to_pooled(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Tell for each silo the Jensen–Shannon divergence to the mix of all pooled, in bits: 0 where they are equal, 1 at most.

    >>> distance_to_pooled(np.array([[5, 5], [5, 5]])).tolist()
    [0.0, 0.0]
    """
    shares, pooled = _shares(counts), _shares(counts.sum(axis=0, keepdims=True))
    middle = (shares + pooled) / 2
    found = (_relative(shares, middle) + _relative(np.broadcast_to(pooled, shares.shape), middle)) / 2
    return np.where(counts.sum(axis=1) > 0, np.maximum(found, 0.0), 0.0)


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return found


def _relative(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kullback–Leibler divergence in bits, row by row."""
    there = one > 0
    ratio = np.where(there, one, 1.0) / np.where(there, other, 1.0)
    found: NDArray[np.float64] = np.where(there, one * np.log2(ratio), 0.0).sum(axis=1)
    return found
