"""What a plug-in must offer. Every plug-in is built from its ``Settings`` alone, by `plugins.load`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from silofold.core.summary import Summary

Needs: TypeAlias = Literal["sum", "each"]


class Cohort(Protocol):
    """Chooses the silos that train in a round."""

    def draw(self, silos: Sequence[int], rng: np.random.Generator) -> list[int]:
        """Choose among the silos that are ready, by what is given alone: a round may be drawn more than once.

        Parameters
        ----------
        silos
            Indices of the silos that are ready, ascending.
        rng
            The round's generator.

        Returns
        -------
        list of int
            Those that train, ascending, at least one.
        """


class Strategy(Protocol):
    """Makes one update of the cohort's updates, elementwise on a shard.

    Attributes
    ----------
    needs
        ``sum``: the weighted sum of the updates, O(shard) memory. ``each``: every silo's update, O(silos × shard).
    """

    needs: Needs

    def weight(self, examples: int) -> int:
        """Return the weight of a silo with so many training examples, an integer of at least 1."""

    def combine(self, received: NDArray[np.float64], weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """Make one update.

        Parameters
        ----------
        received
            (L,) float64 sum of weight × update when `needs` is ``sum``; (K, L) updates by ascending silo when ``each``.
        weights
            (K,) int64 weights of the accepted silos.

        Returns
        -------
        numpy.ndarray
            (L,) float64.
        """


class ServerOptimizer(Protocol):
    """Moves the global model's trained elements by the combined update, elementwise on a shard, a block of it at a time."""

    def start(self, size: int) -> dict[str, NDArray[np.float64]]:
        """Make the state of a shard: by name, (size,) float64 each; written into checkpoints and read back on resume."""

    def step(
        self, model: NDArray[np.float32], update: NDArray[np.float64], state: Mapping[str, NDArray[np.float64]]
    ) -> None:
        """Move a block of the shard in place.

        Parameters
        ----------
        model
            (B,) float32 block.
        update
            (B,) float64 update of it.
        state
            The same block of each array of the state, moved in place as well.
        """


class Sink(Protocol):
    """Takes the summary of each round, on the scheduler."""

    def open(self, folder: Path, earlier: Sequence[Summary]) -> None:
        """Begin in a run folder; `earlier` are the rounds of the run that is resumed."""

    def write(self, summary: Summary) -> None:
        """Take one round."""

    def close(self) -> None:
        """End."""
