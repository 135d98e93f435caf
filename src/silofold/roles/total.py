"""What a worker sends up: its updates' weighted sum, kept on the device until the silos are trained, or each update."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from silofold.aggregation import exact

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from silofold.roles.job import Job


class Updates:
    """The updates of a worker's silos in a round, as the run's servers want them.

    Parameters
    ----------
    job
        The run: how updates come up, and what they weigh.
    total
        Where they are added up.
    """

    def __init__(self, job: Job, total: Total) -> None:
        self._job, self.total = job, total
        self._rows: dict[int, NDArray[np.float32]] = {}

    def clear(self) -> None:
        """Begin a new round."""
        self.total.clear()
        self._rows.clear()

    def add(self, silo: int, examples: int, update: torch.Tensor, total_weight: int) -> str:
        """Take a silo's (P,) float32 update, which is used up, or say why it cannot be added.

        Parameters
        ----------
        silo, examples
            The silo, and how many training examples it has.
        update
            How the model has moved.
        total_weight
            Sum of the weights of the whole cohort.
        """
        if objection := self._objection(update, total_weight):
            return objection
        if self._job.uplink.sums:
            self.total.add(update, self._job.strategy.weight(examples))
        else:
            self._rows[silo] = update.cpu().numpy().copy()
        return ""

    def of(self, silos: Collection[int]) -> NDArray[Any]:
        """Return the weighted sum of all, or the (K, P) float32 updates of these silos."""
        if self._job.uplink.sums:
            return self.total.room
        rows = [self._rows[silo] for silo in sorted(self._rows) if silo in silos]
        return np.stack(rows) if rows else np.empty((0, self._job.elements.size), np.float32)

    def _objection(self, update: torch.Tensor, total_weight: int) -> str:
        extreme = largest(update)
        if math.isfinite(extreme) and (not self._job.uplink.exact or exact.in_range(extreme, total_weight)):
            return ""
        at = int(torch.nan_to_num(update, nan=math.inf).abs().argmax())
        element, moved = self._job.elements.at(at), float(update[at])
        if not math.isfinite(extreme):
            return f"the update is not finite: {element} moved by {moved:g}"
        return exact.out_of_range(element, moved, total_weight)


class Total:
    """A sum of updates times integer weights.

    Parameters
    ----------
    room
        (P,) int64 for an exact sum, float32 for one that rounds: where it is left for the servers.
    device
        Where the updates are.
    """

    def __init__(self, room: NDArray[Any], device: torch.device) -> None:
        self.room, self._empty = room, True
        self._exact = room.dtype.kind == "i"
        there = torch.from_numpy(room)
        self._sum = there if device.type == "cpu" else torch.empty_like(there, device=device)

    def clear(self) -> None:
        """Begin a new sum."""
        self._empty = True

    def add(self, update: torch.Tensor, weight: int) -> None:
        """Add weight × update; the (P,) float32 update, which must be in the range of an exact sum, is used up."""
        if self._exact and update.device.type == "cpu":
            exact.add(self.room, update.numpy(), weight, first=self._empty)
        else:
            term = fixed_point(update).mul_(weight) if self._exact else update.mul_(weight)
            if self._empty:
                self._sum.copy_(term)
            else:
                self._sum.add_(term)
        self._empty = False

    def to_host(self) -> NDArray[Any]:
        """Return the room with the sum in it."""
        if self._empty:
            self.room[:] = 0
        elif self._sum.device.type != "cpu":
            torch.from_numpy(self.room).copy_(self._sum)
        return self.room


def fixed_point(update: torch.Tensor) -> torch.Tensor:
    """Turn a (P,) float32 update into int64, to the last bit as `exact.add` does."""
    return update.double().mul_(exact.SCALE).round_().long()


def largest(update: torch.Tensor) -> float:
    """Find the largest magnitude in a (P,) float32 update; NaN if it holds one."""
    low, high = torch.aminmax(update)
    return float(torch.maximum(-low, high))
