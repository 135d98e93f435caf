"""The momentum that silos keep from one of their rounds to the next, as far as a worker knows of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from silofold.core.errors import CheckpointError
from silofold.record import silo_state

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy as np
    from numpy.typing import NDArray

    from silofold.record.rundir import RunFolder

NAME = "momentum"
"""Name of it in a silo's state."""


class Momenta:
    """Momentum of the silos that a worker trains: held here, and on disk for the worker that trains them next.

    Parameters
    ----------
    folder
        The run folder, in which silos' states lie.
    like
        (T,) float32 on the device: as large as a momentum.
    """

    def __init__(self, folder: RunFolder, like: torch.Tensor) -> None:
        self._folder, self._like = folder, like
        self._kept: dict[int, tuple[int, torch.Tensor]] = {}
        """Round and momentum of silos, as far as they were trained here."""
        self._new: dict[int, torch.Tensor] = {}
        """Of silos that were trained in this round: it is theirs if their updates count."""

    def begin(self, silos: Collection[int]) -> None:
        """Begin a round, in which these silos may be trained here."""
        self._new.clear()
        self._kept = {silo: kept for silo, kept in self._kept.items() if silo in silos}

    def of(self, silo: int, number: int) -> torch.Tensor:
        """Make the (T,) float32 momentum with which a silo begins.

        Parameters
        ----------
        silo
            Its index.
        number
            Round after which it kept one, whoever trained it then; 0: it has none yet.

        Raises
        ------
        CheckpointError
            Its file cannot be read.
        """
        if not number:
            return torch.zeros_like(self._like)
        known, kept = self._kept.get(silo, (0, self._like))
        if known == number:
            return kept.clone()
        found = silo_state.read(self._folder.states, silo, number, len(self._like))
        if set(found) != {NAME}:
            raise CheckpointError("checkpoint-read", f"silo {silo}: found {sorted(found)} in its state, expected {NAME}")
        return torch.from_numpy(found[NAME]).to(self._like.device)

    def add(self, silo: int, momentum: torch.Tensor) -> str:
        """Take what a silo keeps if its update counts, and return its digest."""
        self._new[silo] = momentum
        return silo_state.digest(_arrays(momentum))

    def settle(self, silos: Collection[int], number: int) -> None:
        """Keep that of the silos whose updates count in a round, on disk too."""
        for silo in silos if self._new else ():
            self._kept[silo] = number, self._new[silo]
            silo_state.write(self._folder.states, silo, number, _arrays(self._new[silo]))


def _arrays(momentum: torch.Tensor) -> dict[str, NDArray[np.float32]]:
    return {NAME: momentum.cpu().numpy()}
