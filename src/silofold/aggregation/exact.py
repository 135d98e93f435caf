"""Sums that do not depend on order: fixed-point integers.

Each coordinate of an update becomes q = rint(Δ·2³²) as int64, times the silo's integer weight. Adding integers is
associative, so any tree of any number of ranks gives the same bits. One coordinate is off by at most 2⁻³³, which is below
float32's own rounding wherever |Δ| > 2⁻⁹.

The sum of a round cannot leave int64 while max|Δ| · (sum of all weights) < 2³¹, and no coordinate of an update reaches 2¹⁹:
`in_range` asks both of each update before it is added, since a wrapped sum could not be told from a right one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FRACTION_BITS = 32
SCALE = float(2**FRACTION_BITS)
LIMIT = float(2 ** (63 - FRACTION_BITS))
LARGEST = float(2 ** (51 - FRACTION_BITS))
ROUNDER = 1.5 * 2.0 ** (52 - FRACTION_BITS)
"""float64 has steps of 2⁻³² there: adding it to a number of less than 2¹⁹ rounds that to a multiple of them, halves to even
as rint does, and which multiple it is stands in the last bits. numpy turns float64 into int64 one by one, and this goes by
vectors."""
_BIAS = int(np.float64(ROUNDER).view(np.int64))
BLOCK = 2**15
"""Elements worked on at a time: the temporaries stay in the cache."""


def in_range(largest: float, total_weight: int) -> bool:
    """Say whether an update can be part of an exact sum.

    Parameters
    ----------
    largest
        Largest magnitude of its elements; NaN if one is.
    total_weight
        Sum of the weights of all updates that may be added, this one included.

    Returns
    -------
    bool
        False if an element is not finite, 2¹⁹ or larger, or so large that the sum could wrap.
    """
    # NaN fails both comparisons; one unit of rounding for each weight is part of the bound: |rint(x)| <= |x| + 1/2
    return largest < LARGEST and (largest + 1 / SCALE) * total_weight < LIMIT


def limit(total_weight: int) -> float:
    """Return the magnitude below which an update is `in_range`."""
    return min(LARGEST, LIMIT / total_weight - 1 / SCALE)


def out_of_range(element: str, moved: float, total_weight: int) -> str:
    """Say of an update that is not `in_range` why, and what to do.

    Parameters
    ----------
    element
        Name of its largest element.
    moved
        That element.
    total_weight
        As for `in_range`.
    """
    return (
        f"the update is out of the range of exact sums: {element} moved by {moved:.6g}, "
        f"the limit is {limit(total_weight):,.6g} (2^31 over the sum of weights, {total_weight:,}); "
        'reduction = "float32" has none, equal weights a higher one; inputs of about 1 or group norm keep values small'
    )


def add(total: NDArray[np.int64], update: NDArray[np.float32], weight: int, *, first: bool = False) -> None:
    """Add weight × update to a fixed-point sum, in place.

    Parameters
    ----------
    total
        (P,) int64 sum so far.
    update
        (P,) float32; its largest magnitude is `in_range`.
    weight
        Integer weight of the update.
    first
        Whether this update is the first: what `total` held is overwritten.
    """
    for start in range(0, len(total), BLOCK):
        sums = total[start : start + BLOCK]
        fixed = sums if first else np.empty_like(sums)
        block = fixed.view(np.float64)  # the same memory
        block[:] = update[start : start + BLOCK]
        block += ROUNDER
        fixed -= _BIAS
        fixed *= weight
        if not first:
            sums += fixed


def value(total: NDArray[np.int64]) -> NDArray[np.float64]:
    """Turn a (L,) int64 fixed-point sum back into (L,) float64."""
    result = total.astype(np.float64)
    result *= 1 / SCALE  # a power of two: no rounding, and faster than dividing
    return result
