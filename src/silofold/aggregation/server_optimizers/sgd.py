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
    from numpy.typing import NDArray


class SgdSettings(Section, frozen=True):
    """Settings of the server optimizer ``sgd``."""

    name: str = "sgd"
    lr: Rate = 1.0
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.0


class Sgd:
    """Adds lr × (momentum-averaged) update to the model."""

    Settings = SgdSettings

    def __init__(self, settings: SgdSettings) -> None:
        self._lr, self._momentum = settings.lr, settings.momentum
        self.state: dict[str, NDArray[np.float64]] = {}

    def start(self, size: int) -> None:
        """Make a zero momentum, if there is any."""
        self.state = {"momentum": np.zeros(size)} if self._momentum else {}

    def step(self, model: NDArray[np.float32], update: NDArray[np.float64]) -> None:
        """Move the (L,) float32 shard in place by an (L,) float64 update."""
        if self._momentum:
            self.state["momentum"] *= self._momentum
            self.state["momentum"] += update
            update = self.state["momentum"]
        model[:] = model + self._lr * update


plugin = Sgd
