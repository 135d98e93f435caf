"""How the training of a silo begins, for whoever trains it: where it starts, what it draws, with which momentum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import msgspec
import numpy as np

from silofold.core import seeds
from silofold.training.local import Outcome, Samples, Training

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from numpy.typing import NDArray

    from silofold.config import Local
    from silofold.training.flat import FlatModel
    from silofold.training.local import Step


class Member(NamedTuple):
    """A silo of a group.

    Attributes
    ----------
    samples
        Its training split.
    momentum
        (T,) float32, updated in place; none: it starts at zero and nobody keeps it.
    key
        Seed, round and silo: all that is drawn in its training follows from them.
    start
        (P,) float32 from which it trains; none: the model of the whole group.
    pieces
        Of pooled silos, the examples of each; see `Pooled`. Empty: `samples` are those of one silo.
    """

    samples: Samples
    momentum: torch.Tensor | None
    key: tuple[int, int, int]
    start: NDArray[np.float32] | None = None
    pieces: tuple[int, ...] = ()


def begin(
    model: FlatModel, step: Step, settings: Local, member: Member, blank: torch.Tensor, deadline: float
) -> Training | Pooled:
    """Prepare a silo's training.

    Parameters
    ----------
    model
        Is trained in place; it holds what the silo starts from, unless the member brings that along.
    step
        Of this model with these settings; it is used again and again.
    settings
        Of local training.
    member
        The silo.
    blank
        (T,) float32, the momentum of a silo that brings none.
    deadline
        On the clock of `time.monotonic`; looked at before every step.
    """
    if member.start is not None:
        model.load(member.start)
    step.seed(seeds.torch_seed(member.key[0], "dropout", *member.key[1:]))
    rng = seeds.generator(member.key[0], "shuffle", *member.key[1:])
    momentum = blank.zero_() if member.momentum is None else member.momentum
    if len(member.pieces) < 2:
        return Training(model, member.samples, settings, momentum, rng, deadline, step)
    once = msgspec.structs.replace(settings, epochs=1)

    def train(piece: Samples) -> Training:
        return Training(model, piece, once, momentum, rng, deadline, step)

    return Pooled(train, member, settings.epochs, rng)


class Pooled:
    """Training on the examples of several silos together, in as many steps with as large batches as if each trained alone.

    Each epoch deals the examples out anew, into pieces of the silos' sizes, and trains on one piece after the other.

    Parameters
    ----------
    train
        Begins the training on a piece.
    member
        The silos together.
    epochs
        How often all examples are gone through.
    rng
        Deals out the examples.
    """

    def __init__(self, train: Callable[[Samples], Training], member: Member, epochs: int, rng: np.random.Generator) -> None:
        self._pieces: Iterator[Training] = (
            train(Samples(member.samples.images[piece], member.samples.labels[piece]))
            for _ in range(epochs)
            for piece in np.split(rng.permutation(len(member.samples.labels)), np.cumsum(member.pieces)[:-1])
        )
        self._current: Training | None = next(self._pieces)
        self._done: list[Outcome] = []

    def advance(self) -> bool:
        """Take a step; False if there is none left, no time for it, or a piece has failed."""
        while self._current and not self._current.advance():
            self._close(self._current)
        return self._current is not None

    def end(self) -> Outcome:
        """Wait for the device, and tell how it went."""
        if self._current:
            self._close(self._current)
        return _together(self._done)

    def _close(self, piece: Training) -> None:
        self._done.append(piece.end())
        self._current = None if self._done[-1].reason else next(self._pieces, None)


Underway: TypeAlias = Training | Pooled
"""What `begin` returns."""


def _together(done: Sequence[Outcome]) -> Outcome:
    """Add up the outcomes of pieces, of which the last one alone may have failed."""
    return Outcome(
        sum(one.steps for one in done),
        sum(one.seen for one in done),
        {name: math.fsum(one.sums[name] for one in done) for name in done[0].sums},
        math.fsum(one.seconds for one in done),
        done[-1].reason,
        done[-1].cause,
    )
