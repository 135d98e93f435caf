"""Plug-ins of users of every kind but models, sound and not."""

# mypy: disable-error-code="assignment"
# ruff: noqa: ARG002  (the signatures are those of the protocols)

from __future__ import annotations

import errno
from typing import Any, Never

import numpy as np

from silofold.config import Section


class Named(Section, frozen=True):
    name: str


class Bare:
    Settings = Named

    def __init__(self, settings: Named) -> None: ...


def _raise(*_: object) -> Never:
    raise KeyError("what\nand more")


class Strategy(Bare):
    """The mean."""

    needs = "sum"

    def weight(self, examples: int) -> Any:
        return examples

    def combine(self, received: Any, weights: Any) -> Any:
        return received / weights.sum()


class RaisesInit(Strategy):
    def __init__(self, settings: Named) -> None:
        raise SystemExit(3)


class RaisesCombining(Strategy):
    combine = _raise


class RaisesWeighing(Strategy):
    weight = _raise


class NoWeight(Strategy):
    def weight(self, examples: int) -> Any:
        return 0 * examples


class FloatWeight(Strategy):
    def weight(self, examples: int) -> Any:
        return examples / 2


class ShortSum(Strategy):
    def combine(self, received: Any, weights: Any) -> Any:
        return received[:1]


class ListSum(Strategy):
    def combine(self, received: Any, weights: Any) -> Any:
        return list(received)


class NanSum(Strategy):
    def combine(self, received: Any, weights: Any) -> Any:
        return received * np.nan


class NoNeeds(Strategy):
    needs = "all"


class HalfStrategy(Bare):
    needs = "sum"


class Cohort(Bare):
    def draw(self, silos: Any, rng: Any) -> Any:
        return [int(rng.choice(silos))]


class RaisesDrawing(Cohort):
    draw = _raise


class DrawsWords(Cohort):
    def draw(self, silos: Any, rng: Any) -> Any:
        return ["a"]


class DrawsStrangers(Cohort):
    def draw(self, silos: Any, rng: Any) -> Any:
        return [99]


class DrawsTwice(Cohort):
    def draw(self, silos: Any, rng: Any) -> Any:
        return [silos[0], silos[0]]


class DrawsNobody(Cohort):
    def draw(self, silos: Any, rng: Any) -> Any:
        return []


class DrawsNothing(Cohort):
    def draw(self, silos: Any, rng: Any) -> Any:
        return None


class Optimizer(Bare):
    def start(self, size: int) -> Any:
        return {"sum": np.zeros(size)}

    def step(self, model: Any, update: Any, state: Any) -> None:
        model += update


class RaisesStepping(Optimizer):
    step = _raise


class StartsWithList(Optimizer):
    def start(self, size: int) -> Any:
        return [np.zeros(size)]


class StartsShort(Optimizer):
    def start(self, size: int) -> Any:
        return {"sum": np.zeros(size - 1)}


class StartsWithModel(Optimizer):
    def start(self, size: int) -> Any:
        return {"model": np.zeros(size)}


class StepsToNan(Optimizer):
    def step(self, model: Any, update: Any, state: Any) -> None:
        model[:] = np.nan


class Sink(Bare):
    def open(self, folder: Any, earlier: Any) -> None: ...

    def write(self, summary: Any) -> None: ...

    def close(self) -> None: ...


class RaisesWriting(Sink):
    write = _raise


class RaisesClosing(Sink):
    close = _raise


class FillsDisk(Sink):
    def write(self, summary: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")
