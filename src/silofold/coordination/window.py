"""How long a round's reports are waited for, where that follows from the rounds before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from silofold.core.summary import Summary

Setting: TypeAlias = float | Literal["auto"]
FIRST = 3600.0
"""Seconds, as long as no round has counted."""
LEAST, MOST = 60.0, 1e7
"""Seconds."""
FACTOR = 10
"""A window is so many times as long as the longest of the last rounds took to report."""
KEPT = 10
"""Counted rounds that are looked at."""


class Lap(NamedTuple):
    """What a counted round tells of the next one's length.

    Attributes
    ----------
    seconds
        From its plan to the last report that was accepted.
    examples
        Training examples of the accepted silos.
    evaluated
        Whether the arriving model was evaluated in it.
    """

    seconds: float
    examples: int
    evaluated: bool


def first(setting: Setting) -> float:
    """Return the seconds before any round has counted."""
    return FIRST if setting == "auto" else setting


def evaluates(number: int, every: int) -> bool:
    """Whether the model that arrives in a round is evaluated, unless it is the last one, which always is."""
    return number > 1 and (number - 1) % every == 0


def remember(laps: Sequence[Lap], lap: Lap) -> tuple[Lap, ...]:
    """Add a round; kept are the last ten, and the last one with an evaluation."""
    found = (*laps, lap)
    recent, before = found[-KEPT:], found[:-KEPT]
    if any(one.evaluated for one in recent):
        return recent
    return (*[one for one in before if one.evaluated][-1:], *recent)


def from_record(rounds: Iterable[Summary], evaluate_every: int, workers: int) -> tuple[Lap, ...]:
    """Read what the rounds of a record tell; those of versions that did not note it tell nothing.

    Parameters
    ----------
    rounds
        The record.
    evaluate_every
        Rounds from one evaluation to the next.
    workers
        How many the run goes on with. With fewer than before each has more to do, and a round takes longer.
    """
    laps: tuple[Lap, ...] = ()
    for one in rounds:
        if one.void or one.timed_out or one.last_report is None:
            continue
        accepted = set(one.accepted)
        examples = sum(silo.train_examples for silo in one.silos if silo.silo in accepted)
        before = sum(rank.role.startswith("worker") for rank in one.ranks)
        seconds = one.last_report * max(1.0, before / workers)
        laps = remember(laps, Lap(seconds, examples, evaluates(one.round, evaluate_every)))
    return laps


def resolve(setting: Setting, laps: Sequence[Lap], *, evaluated: bool, evaluation: float) -> float:
    """Return the seconds from a round's plan to its close.

    A round that its window closed is no lap: else each would make the next one longer.

    Parameters
    ----------
    setting
        Seconds, or ``"auto"``.
    laps
        Counted rounds, as `remember` keeps them.
    evaluated
        Whether the arriving model is evaluated in it.
    evaluation
        How much that is: as many test images as this number of training examples in a round. A first evaluation is
        foreseen by it.
    """
    if setting != "auto" or not laps:
        return first(setting)
    looked_at = list(laps[-KEPT:])
    known = [lap for lap in laps if lap.evaluated]
    if evaluated and known:
        looked_at.append(known[-1])
    seconds = FACTOR * max(lap.seconds for lap in looked_at)
    if evaluated and not known:
        guess = max(lap.seconds * (1 + evaluation / max(1, lap.examples)) for lap in looked_at)
        seconds = max(seconds, min(FACTOR * guess, FIRST))
    return min(max(seconds, LEAST), MOST)
