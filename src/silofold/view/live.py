"""A run at a glance, in a few lines of any width: what a terminal shows while a run goes on, and after it."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, NamedTuple

from silofold.core.console import shown
from silofold.view import text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from silofold.core.summary import Summary

RECENT = 5
"""Rounds that the estimate of the time that is left rests on."""
NAME = 9


class State(NamedTuple):
    """What is known of a run.

    Attributes
    ----------
    rounds
        The rounds that are recorded.
    wanted
        Rounds that must succeed.
    elapsed
        Seconds since the start of this job.
    since
        Seconds since the last round was recorded, or since the start.
    late
        Who is waited for right now, where that is known.
    now
        What the ranks are about, in words; said before the first round is recorded.
    """

    rounds: Sequence[Summary]
    wanted: int
    elapsed: float
    since: float
    late: Sequence[str] = ()
    now: str = ""


def lines(state: State, width: int) -> list[str]:
    """Write a state in lines of at most `width` columns."""
    found = [_progress(state, width)]
    if state.rounds:
        last = state.rounds[-1]
        found += [_accuracy(state.rounds, width), _loss(state.rounds, width), _seconds(last), _bytes(state.rounds)]
        found += _refused(last)
    elif state.now:
        found.append(f"{'now':{NAME}}{state.now}")
    if state.late:
        found.append(f"{'late':{NAME}}{', '.join(state.late)}")
    plain = [shown(line) for line in found if line]  # names of silos come from elsewhere
    return [line if len(line) <= width else f"{line[: width - 1]}…" for line in plain]


def left(state: State) -> float | None:
    """Estimate the seconds that the rest takes; None before the first round."""
    if not state.rounds:
        return None
    done = sum(not one.void for one in state.rounds)
    usual = statistics.median(one.seconds.total for one in state.rounds[-RECENT:])
    return max(0.0, (state.wanted - done) * usual - min(state.since, usual))


def _progress(state: State, width: int) -> str:
    done = min(sum(not one.void for one in state.rounds), state.wanted)
    rest = left(state)
    tail = f" {done / state.wanted:4.0%}  {text.span(state.elapsed)}"
    tail += f", about {text.span(rest)} left" if rest else ""
    head = f"{'rounds':{NAME}}{done}/{state.wanted} "
    room = max(0, min(60, width - len(head) - len(tail)))
    full = round(room * done / state.wanted)
    return f"{head}{'━' * full}{'─' * (room - full)}{tail}"


def _accuracy(rounds: Sequence[Summary], width: int) -> str:
    known = [one for one in rounds if one.accuracy is not None]
    if not known:
        return ""
    last, best = known[-1], max(known, key=lambda one: (one.accuracy or 0.0, -one.round))
    story = f"{'accuracy':{NAME}}{text.percent(last.accuracy)} {text.interval(last.accuracy_low, last.accuracy_high)}"
    story += f" of {last.test_examples}, best {text.percent(best.accuracy)} in round {best.round}"
    return f"{story}  {text.sparkline([one.accuracy for one in known], max(0, min(60, width - len(story) - 2)))}".rstrip()


def _loss(rounds: Sequence[Summary], width: int) -> str:
    parts = []
    room = max(4, min(40, (width - NAME - 30) // 2))
    for name, values in (("train", [one.train_loss for one in rounds]), ("test", [one.test_loss for one in rounds])):
        known = [value for value in values if value is not None]
        if known:
            parts.append(f"{name} {known[-1]:.4f} {text.sparkline(known, room)}")
    return f"{'loss':{NAME}}{'  '.join(parts)}" if parts else ""


def _seconds(last: Summary) -> str:
    seconds = last.seconds
    named = ("train", "evaluate", "broadcast", "wait", "reduce", "apply")
    parts = [f"{name} {getattr(seconds, name):.2f}" for name in named if getattr(seconds, name) >= 0.005]
    return f"{'seconds':{NAME}}{seconds.total:.2f}: {'  '.join(parts)}"


def _bytes(rounds: Sequence[Summary]) -> str:
    down, up = sum(one.bytes_down for one in rounds), sum(one.bytes_up for one in rounds)
    if not down:
        return ""
    last = rounds[-1]
    return (
        f"{'bytes':{NAME}}{text.size(last.bytes_down)} down, {text.size(last.bytes_up)} up in the last round, "
        f"{text.size(down + up)} in all"
    )


def _refused(last: Summary) -> list[str]:
    """Name the silos whose updates did not count in the last round, and the worker that the others waited for."""
    refused = [f"{silo.name} ({silo.reason})" for silo in last.silos if silo.reason]
    workers = [rank for rank in last.ranks if rank.train]
    found = []
    if len(workers) > 1:
        slow, fast = (pick(workers, key=lambda rank: rank.train) for pick in (max, min))
        found.append(f"{'slowest':{NAME}}{slow.role} {slow.train:.2f} s, fastest {fast.role} {fast.train:.2f} s")
    if refused:
        found.append(f"{'left out':{NAME}}round {last.round}: {', '.join(refused)}")
    return found
