"""The processes of a baseline: each trains models of its own as a worker trains silos, and evaluates them."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from silofold.core import console, topology, warned
from silofold.core.errors import UserCodeError
from silofold.core.fingerprint import difference
from silofold.core.processes import Pool
from silofold.core.reports import Cause
from silofold.data import silo as silos
from silofold.record import log
from silofold.record.model_set import State
from silofold.training import build, device, instruction_set, local, session
from silofold.training.member import Member
from silofold.training.side_by_side import Trainer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from silofold.config import Settings
    from silofold.core.fingerprint import Fingerprint
    from silofold.core.reports import Score, Unscored


@dataclass(frozen=True)
class Work:
    """What is trained: the same in every process.

    Attributes
    ----------
    settings
        The resolved settings.
    folder, data
        The silos.
    groups
        Silos that each model trains on.
    """

    settings: Settings
    folder: Path
    data: silos.Manifest
    groups: tuple[tuple[int, ...], ...]

    @property
    def sizes(self) -> list[int]:
        """Training images of each silo."""
        return [silo.train.examples for silo in self.data.silos]

    @property
    def steps(self) -> list[int]:
        """Training steps of each silo in a round: those of the federated run, and of the models that it is part of."""
        return [local.steps_per_epoch(size, self.settings.local) * self.settings.local.epochs for size in self.sizes]

    @property
    def examples(self) -> list[int]:
        """Training images of each model."""
        return [sum(self.sizes[silo] for silo in group) for group in self.groups]


class Played(NamedTuple):
    """What a process says of a round.

    Attributes
    ----------
    states, outcomes
        Of each of its models.
    scores
        On the silos that are theirs, as far as an evaluation is due.
    train_seconds, evaluate_seconds
        How long it took.
    """

    states: list[State]
    outcomes: list[local.Outcome]
    scores: list[Score | Unscored]
    train_seconds: float
    evaluate_seconds: float


class Bench:
    """One process: the model on its device, and the images of the silos that it trains on.

    Parameters
    ----------
    work
        What is trained.
    index
        Number of the process: GPUs are dealt out in turn.
    models
        The models that are its own.
    """

    def __init__(self, work: Work, index: int, models: Sequence[int]) -> None:
        warnings = logging.StreamHandler()
        warnings.setLevel(logging.WARNING)
        warnings.setFormatter(log.OneLine("silofold: %(message)s"))
        logging.getLogger("silofold").addHandler(warnings)
        warned.settle(console.say if index == 0 else str)  # all build and try the same model: one of them tells
        settings, data = work.settings, work.data
        place = device.choose(settings.device, index, settings.local.threads)
        known = session.Data(data.classes, data.image_shape, work.sizes, [silo.test.examples for silo in data.silos])
        model, found = session.tried(settings, known, place, again=index == 0)
        self._at_once = min(settings.local.side_by_side, len(models))
        with build.building(settings.model["name"]):  # it may copy the model
            trainer = Trainer(model, msgspec.structs.replace(settings.local, side_by_side=self._at_once))
        self._session = session.Session(trainer, settings, draws=found.draws)
        self._work, self._models, self._place, self._found = work, models, place, found
        self._initial = model.host.copy()
        self._train, self._test = {}, {}
        for one in models:
            parts = [silos.read_split(work.folder, data.silos[silo], "train", data) for silo in work.groups[one]]
            images, labels = (np.concatenate([getattr(part, key) for part in parts]) for key in ("images", "labels"))
            self._train[one] = local.load(images, labels, place)
            for silo in work.groups[one]:
                part = silos.read_split(work.folder, data.silos[silo], "test", data)
                self._test[silo] = local.load(part.images, part.labels, place)
        warned.settle(console.say)

    def introduce(self) -> tuple[dict[str, str], int, Fingerprint]:
        """Say what decides the bits here, how many parameters a model has, and what the start check found."""
        found = self._found.fingerprint
        return device.describe(self._place) | {"model_structure": found.structure}, len(self._initial), found

    def play(self, number: int, states: Sequence[State | None]) -> Played:
        """Train the models for a round, and evaluate each on the silos that are its own; None: as the seed makes it."""
        rounds, done = self._work.settings.rounds, Played([], [], [], 0.0, 0.0)
        due = number % rounds.evaluate_every == 0 or number == rounds.count
        for first in range(0, len(self._models), self._at_once):
            span, began = slice(first, first + self._at_once), time.perf_counter()
            models, before = self._models[span], [one or State(self._initial, None) for one in states[span]]
            members = [self._member(number, *pair) for pair in zip(models, before, strict=True)]
            outcomes = self._session.train(members, math.inf)
            after = [self._after(*one) for one in zip(range(len(models)), members, before, outcomes, strict=True)]
            done.states.extend(state for state, _ in after)
            done.outcomes.extend(outcome for _, outcome in after)
            trained = time.perf_counter()
            for model, (state, _) in zip(models, after, strict=True) if due else ():
                self._session.model.load(state.vector)
                done.scores.extend(self._session.score(silo, number, self._test[silo]) for silo in self._work.groups[model])
            ended = time.perf_counter()
            done = done._replace(
                train_seconds=done.train_seconds + trained - began,
                evaluate_seconds=done.evaluate_seconds + ended - trained,
            )
        return done

    def encode(self, state: State) -> bytes:
        """Encode a model as a file for torch.load."""
        self._session.model.load(state.vector)
        return self._session.encode()

    def _member(self, number: int, model: int, before: State) -> Member:
        """Name all that a model's training in a round follows from."""
        keeps = self._work.settings.local.keep_momentum
        momentum = self._session.momentum(before.momentum) if keeps else None
        pieces = tuple(self._work.sizes[silo] for silo in self._work.groups[model])
        return Member(self._train[model], momentum, (self._work.settings.seed, number, model), before.vector, pieces)

    def _after(self, index: int, member: Member, before: State, outcome: local.Outcome) -> tuple[State, local.Outcome]:
        """Find out what a model has become; one that failed stays as it was."""
        if not outcome.reason:
            self._session.take(index)
            self._session.model.to_host()
            if np.isfinite(self._session.model.host).all():
                momentum = None if member.momentum is None else member.momentum.cpu().numpy()
                return State(self._session.model.host.copy(), momentum), outcome
            outcome = outcome._replace(reason="the model is no longer finite", cause=Cause.DIVERGED)
        return before, outcome


class Crew(NamedTuple):
    """Processes that train the models, each its own ones.

    Attributes
    ----------
    pool
        The processes.
    homes
        Models of each process.
    places
        Device, hardware, torch and threads of each process.
    parameters
        Of one model.
    """

    pool: Pool
    homes: list[tuple[int, ...]]
    places: list[dict[str, str]]
    parameters: int


@contextlib.contextmanager
def crew_of(work: Work, workers: int) -> Iterator[Crew]:
    """Start the processes, and see that all have built the same model."""
    instruction_set.pin(work.settings.local.cpu_isa, for_children=True)
    os.environ.setdefault("PYTHONHASHSEED", "0")  # for the processes: a model may go through a set of names
    homes = topology.assign_silos(work.examples, workers)
    with Pool(Bench, [(work, index, models) for index, models in enumerate(homes)]) as pool:
        found = pool.ask_all("introduce")
        if differs := difference([fingerprint for *_, fingerprint in found], [0] * workers):
            raise UserCodeError(
                "model-unequal",
                f"model {work.settings.model['name']}: processes {differs[0]} and {differs[1]} built different models of "
                f"one seed: they differ in {differs[2]}; expected all randomness from torch, numpy.random or random",
            )
        yield Crew(pool, homes, [place for place, *_ in found], found[0][1])
