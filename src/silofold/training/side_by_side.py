"""Training the silos of a worker: one by one, or several at once on a GPU, each on a stream of its own."""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING

import torch

from silofold.core.errors import ConfigError
from silofold.training import local
from silofold.training.flat import FlatModel
from silofold.training.graph import GraphStep
from silofold.training.member import begin

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from silofold.config import Local
    from silofold.training.member import Member, Underway


TURN = 16
"""Steps that a lane takes before the next one's turn comes: enough to keep it at work meanwhile, and so few that a device's
queue takes those of all lanes."""


class Lane:
    """What one silo of a group is trained with.

    Parameters
    ----------
    model
        The lane's own.
    settings
        Of local training.
    alone
        Whether there is no other lane: then it works on the current stream, else on the stream of its step.
    """

    def __init__(self, model: FlatModel, settings: Local, *, alone: bool) -> None:
        self.model, self._settings = model, settings
        self._step = (GraphStep if settings.cuda_graph else local.Step)(model, settings)
        self._blank = torch.empty_like(model.gradient)
        self._stream = None if alone else self._step.stream

    def here(self) -> AbstractContextManager[object]:
        """Make the context in which the lane works."""
        return torch.cuda.stream(self._stream) if self._stream else contextlib.nullcontext()

    def start(self, model: FlatModel, member: Member, deadline: float) -> Underway:
        """Start to train in a silo, from a model that may be the lane's own."""
        if self._stream:
            self._stream.wait_stream(torch.cuda.current_stream())
        with self.here():
            if model is not self.model and member.start is None:
                self.model.load(model.vector)
            return begin(self.model, self._step, self._settings, member, self._blank, deadline)

    def advance(self, training: Underway) -> bool:
        """Take the lane's turn; False if it needs no other."""
        with self.here():
            return all(training.advance() for _ in range(TURN))

    def end(self, training: Underway) -> local.Outcome:
        """Wait for the device, and tell how it went."""
        with self.here():
            return training.end()


class Trainer:
    """Trains groups of silos from the same model, each with the same outcome as one by one.

    Parameters
    ----------
    model
        Holds the model that a group starts from, and afterwards that of one silo after the other.
    settings
        ``side_by_side`` is the size of the largest group: so many models and momenta are held, and no more.

    Raises
    ------
    ConfigError
        A CUDA graph is asked for where there is no GPU.
    """

    def __init__(self, model: FlatModel, settings: Local) -> None:
        self.model, size = model, settings.side_by_side
        device = model.vector.device
        if settings.cuda_graph and device.type != "cuda":
            raise ConfigError(
                "device-none",
                f"local.cuda_graph = true: this worker trains on the device {device}; expected a GPU, or "
                "local.cuda_graph = false",
            )
        models = [FlatModel(copy.deepcopy(model.module), device, model.task) for _ in range(size)] if size > 1 else [model]
        self._lanes = [Lane(one, settings, alone=size == 1) for one in models]

    def train(self, group: Sequence[Member], deadline: float) -> list[local.Outcome]:
        """Train the silos of a group, at most ``side_by_side``, and say how it went with each; see `take`.

        Parameters
        ----------
        group
            The silos.
        deadline
            On the clock of `time.monotonic`; looked at before every step. Silos that have steps left are out of time.
        """
        underway = []
        for lane, member in zip(self._lanes[: len(group)], group, strict=True):
            training = lane.start(self.model, member, deadline)
            underway.append((lane, training, lane.advance(training)))  # a GPU is at work while the next one is prepared
        going = underway
        while going := [(lane, training, lane.advance(training)) for lane, training, more in going if more]:
            pass
        return [lane.end(training) for lane, training, _ in underway]

    def take(self, index: int) -> None:
        """Let the model be that of a member of the group that was trained last."""
        trained = self._lanes[index].model
        if trained is not self.model:
            self.model.vector.copy_(trained.vector)
