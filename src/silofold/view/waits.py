"""Who waited for whom in a round: told from the traces of its ranks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from silofold.core import messages, trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from silofold.core.trace import Event

ANSWERS = {
    messages.Ready: "ready ranks",
    messages.Evaluation: "evaluations",
    messages.Reports: "reports",
    messages.Moved: "updates",
    messages.Applied: "server steps",
    messages.Saved: "checkpoint parts",
}
"""What the scheduler waits for in a round, in this order."""
NAMED = 3
"""Ranks that are named of each wait, the last ones first."""
DOES = {
    trace.SAYS: "said", trace.HEARS: "heard", trace.WAITS: "waits for a message", trace.MOVES: "moves",
    trace.MOVED: "has moved", trace.BROKE: "could not move",
}  # fmt: skip


class Wait(NamedTuple):
    """One wait of the scheduler.

    Attributes
    ----------
    what
        For what.
    began
        Seconds since 1970.
    answers
        Rank and seconds since `began` of each answer, the first one first.
    missing
        Ranks that had answered the round before, or were told of this one, and have not answered.
    """

    what: str
    began: float
    answers: list[tuple[int, float]]
    missing: list[int]


def rounds(traces: Mapping[str, Sequence[Event]]) -> list[int]:
    """List the rounds that the traces tell of, ascending."""
    return sorted({event.round for events in traces.values() for event in events if event.round})


def waits(scheduler: Sequence[Event], number: int) -> list[Wait]:
    """Find what the scheduler waited for in a round.

    Parameters
    ----------
    scheduler
        Its trace.
    number
        The round.
    """
    own = [event for event in scheduler if event.round == number]
    told = {_kind(event): event for event in reversed(own) if event.what == trace.SAYS}
    plan = told.get(messages.Plan)
    asked = {event.peer for event in own if event.what == trace.SAYS and _kind(event) is messages.Plan}
    found = []
    for kind, what in ANSWERS.items():
        heard = [event for event in own if event.what == trace.HEARS and _kind(event) is kind]
        begin = told.get({messages.Moved: messages.Tally, messages.Applied: messages.Tally}.get(kind, messages.Plan), plan)
        if not heard or begin is None or kind is messages.Ready:
            continue
        answered = {event.peer for event in heard}
        everyone = asked if kind is messages.Reports else set()
        servers = {event.peer for event in scheduler if event.what == trace.HEARS and _kind(event) is messages.Applied}
        missing = sorted(everyone - answered - servers)
        found.append(Wait(what, begin.at, [(event.peer, event.at - begin.at) for event in heard], missing))
    return found


def lines(traces: Mapping[str, Sequence[Event]], number: int) -> Iterator[str]:
    """Tell of a round: how long the scheduler waited for what, and what each rank did last.

    Parameters
    ----------
    traces
        Trace of each rank, by its title.
    number
        The round.
    """
    titles = {events[-1].rank: title for title, events in traces.items() if events}
    newest = max((events[-1].at for events in traces.values() if events), default=0.0)
    yield f"round {number}, as {len(titles)} ranks tell; times of {_clock(newest)} and before, each on its machine's clock"
    scheduler = traces.get("scheduler", ())
    for wait in waits(scheduler, number):
        slow = [f"{titles.get(rank, f'rank {rank}')} {seconds:.3f} s" for rank, seconds in reversed(wait.answers)]
        rest = f", {len(slow) - NAMED} more before" if len(slow) > NAMED else ""
        told = f"{wait.what}: {wait.answers[-1][1]:.3f} s; last: {', '.join(slow[:NAMED])}{rest}"
        workers = [title for rank in wait.missing if not (title := titles.get(rank, f"rank {rank}")).startswith("server")]
        lost = ", ".join(workers[:NAMED])
        yield f"  {told}{'; nothing of ' if lost else ''}{lost}"
    for title, events in sorted(traces.items(), key=lambda item: _order(item[0])):
        own = [event for event in events if event.round == number]
        if own:
            yield f"  {title}: {_last(own, titles, newest)}"


def _last(events: Sequence[Event], titles: Mapping[int, str], newest: float) -> str:
    """Tell the last thing that a rank did in a round, and for how long nothing followed."""
    last = events[-1]
    words = DOES[last.what]
    if last.what in {trace.SAYS, trace.HEARS}:
        kind = _kind(last)
        words += f" {kind.__name__ if kind else '?'} {'to' if last.what == trace.SAYS else 'of'} "
        words += titles.get(last.peer, f"rank {last.peer}")
    elif last.what != trace.WAITS:
        words += " the model" if last.kind == trace.MODEL else " updates"
    elif before := next((event for event in reversed(events) if event.what != trace.WAITS), None):
        kind = _kind(before) if before.what in {trace.SAYS, trace.HEARS} else None
        words += f" after it {DOES[before.what]}{f' {kind.__name__}' if kind else ''}"
    return f"{_clock(last.at)} {words}, {newest - last.at:.1f} s before the newest event"


def _kind(event: Event) -> type | None:
    return messages.KINDS[event.kind] if event.kind < len(messages.KINDS) else None


def _clock(at: float) -> str:
    if not 0 <= at < 2**33:  # a damaged trace
        return "??:??:??"
    return f"{time.strftime('%H:%M:%S', time.localtime(at))}.{int(at % 1 * 1000):03d}"


def _order(title: str) -> tuple[int, str, int]:
    role, _, index = title.partition("_")
    return ("scheduler", "server", "standby", "worker").index(role) if role else 9, role, int(index or 0)
