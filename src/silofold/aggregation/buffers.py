"""How buffers move: by the strategy's result as it is, whatever moves the parameters.

What a silo sends of a buffer is Δ = its value − the model's. Where no silo's value is negative, no Δ is below −model, for
float32 rounds a difference never past a number that it can hold. So the mean of the silos' values is not negative, but the
rounded sum of the Δ may miss it by the bound of `rounding`: a variance of 10⁻¹⁰ would turn negative.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from silofold.aggregation import exact

if TYPE_CHECKING:
    from numpy.typing import NDArray


def rounding(received: NDArray[Any], silos: int) -> tuple[float, float]:
    """Bound what rounding may add to the mean of updates that all equal −x, as a number and as a share of x.

    Parameters
    ----------
    received
        (L,) int64 or float32 sum, or (K, L) float32 updates, as a server has it.
    silos
        How many updates are in it.
    """
    steps = silos + 3  # so many roundings, at most, one after the other
    if received.dtype == np.int64:
        return 0.5 / exact.SCALE, steps * 2.0**-53
    return 0.0, steps * (2.0**-24 if received.ndim == 1 else 2.0**-52)


def add(buffers: NDArray[np.float32], change: NDArray[np.float64], slack: tuple[float, float]) -> None:
    """Add a change to buffers in place; what was not negative does not become so by rounding alone.

    Parameters
    ----------
    buffers
        (B,) float32.
    change
        (B,) float64, the strategy's result.
    slack
        See `rounding`.
    """
    moved = buffers + change
    rounded = (buffers >= 0) & (moved < 0) & (moved >= -(slack[0] + slack[1] * buffers.astype(np.float64)))
    moved[rounded] = 0
    buffers[:] = moved
