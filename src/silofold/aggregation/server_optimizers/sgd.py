"""Server SGD with momentum; at its defaults (lr 1, momentum 0) the update is added as it is: FedAvg.

References
----------
T.-M. H. Hsu, H. Qi, M. Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification", 2019, arXiv:1909.06335: FedAvgM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from msgspec import Meta

from silofold.config import Rate, Section

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


class SgdSettings(Section, frozen=True):
    """Settings of the server optimizer ``sgd``."""

    name: str = "sgd"
    lr: Rate = 1.0
    """Factor on the update."""
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Momentum of the updates over the rounds."""


class Sgd:
    """Adds lr × (momentum-averaged) update to the model."""

    Settings = SgdSettings

    def __init__(self, settings: SgdSettings) -> None:
        self._lr, self._momentum = settings.lr, settings.momentum

    def start(self, size: int) -> dict[str, NDArray[np.float64]]:
        """Make a zero momentum, if there is any."""
        return {"momentum": np.zeros(size)} if self._momentum else {}

    def step(
        self, model: NDArray[np.float32], update: NDArray[np.float64], state: Mapping[str, NDArray[np.float64]]
    ) -> None:
        """Move a (B,) float32 block in place by a (B,) float64 update."""
        if self._momentum:
            momentum = state["momentum"]
            momentum *= self._momentum
            momentum += update
            update = momentum
        model[:] = model + self._lr * update


plugin = Sgd
