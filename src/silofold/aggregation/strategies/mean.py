"""The mean of the updates: federated averaging.

References
----------
H. B. McMahan, E. Moore, D. Ramage, S. Hampson, B. Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", AISTATS 2017, arXiv:1602.05629.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from silofold.config import Section

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from silofold.protocols import Needs


class MeanSettings(Section, frozen=True):
    """Settings of the strategy ``mean``."""

    name: str = "mean"
    weights: Literal["examples", "equal"] = "examples"
    """``examples``: a silo counts by its training images. ``equal``: each silo counts the same."""


class Mean:
    """Weighted mean of the updates."""

    Settings = MeanSettings
    needs: Needs = "sum"

    def __init__(self, settings: MeanSettings) -> None:
        self._by_examples = settings.weights == "examples"

    def weight(self, examples: int) -> int:
        """Return the silo's examples, or 1."""
        return examples if self._by_examples else 1

    def combine(self, received: NDArray[np.float64], weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """Divide the (L,) weighted sum by the sum of the weights."""
        return received / float(weights.sum())


plugin = Mean
