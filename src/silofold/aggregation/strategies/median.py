"""The median of the updates, coordinate by coordinate: up to half of the silos may send anything.

References
----------
D. Yin, Y. Chen, K. Ramchandran, P. Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
ICML 2018, arXiv:1803.01498.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from silofold.config import Section

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from silofold.protocols import Needs


class MedianSettings(Section, frozen=True):
    """Settings of the strategy ``median``: none of its own."""

    name: str = "median"


class Median:
    """Unweighted coordinate-wise median."""

    Settings = MedianSettings
    needs: Needs = "each"

    def __init__(self, settings: MedianSettings) -> None:
        del settings

    def weight(self, examples: int) -> int:  # noqa: ARG002  (a median has no weights)
        """Return 1."""
        return 1

    def combine(self, received: NDArray[np.float64], weights: NDArray[np.int64]) -> NDArray[np.float64]:  # noqa: ARG002
        """Take the median over the first axis of the (K, L) updates."""
        return np.median(received, axis=0)


plugin = Median
