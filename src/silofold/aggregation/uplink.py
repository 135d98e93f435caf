"""How updates come up to the servers, decided once when a job is put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from silofold.config import Settings
    from silofold.protocols import Strategy


class Uplink(NamedTuple):
    """What goes up.

    Attributes
    ----------
    sums
        Whether a worker sends the weighted sum of its silos' updates; else it sends each of them.
    dtype
        Of what is sent: int64 for sums that are exact, float32 for sums that round, and for single updates.
    shared
        Whether it may stay in memory that the ranks of a node share.
    """

    sums: bool
    dtype: np.dtype[np.int64] | np.dtype[np.float32]
    shared: bool

    @property
    def exact(self) -> bool:
        """Whether updates are added as integers: in any order to the same bits, and within a range that bounds them."""
        return self.dtype.kind == "i"

    @property
    def any_order(self) -> bool:
        """Whether no bit rests on who trains which silo: nothing is rounded on the way."""
        return self.exact or not self.sums

    def senders(self, workers: int, silos: int) -> int:
        """Count the vectors that go up from so many workers with the updates of so many silos."""
        return workers if self.sums else silos


def decide(settings: Settings, strategy: Strategy) -> Uplink:
    """Decide how a job's updates come up.

    Parameters
    ----------
    settings
        Of the run.
    strategy
        What it needs.
    """
    sums = strategy.needs == "sum"
    exact = sums and settings.reduction == "exact"
    return Uplink(sums, np.dtype(np.int64) if exact else np.dtype(np.float32), sums and settings.shared_memory)
