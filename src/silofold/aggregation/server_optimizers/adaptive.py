"""Adaptive server optimizers: FedAdagrad, FedAdam and FedYogi.

References
----------
S. J. Reddi, Z. Charles, M. Zaheer, Z. Garrett, K. Rush, J. Konečný, S. Kumar, H. B. McMahan, "Adaptive Federated
Optimization", ICLR 2021, arXiv:2003.00295: Algorithm 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from msgspec import Meta

from silofold.config import Rate, Section

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


class AdaptiveSettings(Section, frozen=True):
    """Settings of the server optimizer ``adaptive``."""

    name: str = "adaptive"
    rule: Literal["adam", "yogi", "adagrad"] = "adam"
    """How the second moment moves."""
    lr: Rate = 0.01
    """Server learning rate."""
    beta1: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    """Decay of the first moment."""
    beta2: Annotated[float, Meta(ge=0, lt=1)] = 0.99
    """Decay of the second moment; not used by ``adagrad``."""
    tau: Annotated[float, Meta(gt=0, le=1e6)] = 1e-3
    """Degree of adaptivity: added to the root of the second moment, which starts at its square."""


class Adaptive:
    """Moves each coordinate by its first moment over the root of its second."""

    Settings = AdaptiveSettings

    def __init__(self, settings: AdaptiveSettings) -> None:
        self._settings = settings

    def start(self, size: int) -> dict[str, NDArray[np.float64]]:
        """Make zero first moments and second moments of tau²."""
        return {"first": np.zeros(size), "second": np.full(size, self._settings.tau**2)}

    def step(
        self, model: NDArray[np.float32], update: NDArray[np.float64], state: Mapping[str, NDArray[np.float64]]
    ) -> None:
        """Move a (B,) float32 block in place by a (B,) float64 update."""
        given, first, second = self._settings, state["first"], state["second"]
        square = update * update
        first *= given.beta1
        first += (1 - given.beta1) * update
        if given.rule == "adam":
            second *= given.beta2
            second += (1 - given.beta2) * square
        elif given.rule == "yogi":
            second -= (1 - given.beta2) * square * np.sign(second - square)
        else:
            second += square
        model[:] = model + given.lr * first / (np.sqrt(second) + given.tau)


plugin = Adaptive
