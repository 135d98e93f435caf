"""The weighted sum of a worker's updates, kept on the device on which they come up until the round's silos are trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from silofold.aggregation import exact

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
