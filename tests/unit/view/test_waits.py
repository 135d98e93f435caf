"""Who waited for whom, from made-up traces."""

from __future__ import annotations

from silofold.core import messages, trace
from silofold.core.trace import Event
from silofold.view import waits

PLACES = {kind: place for place, kind in enumerate(messages.KINDS)}
SCHEDULER, SERVER, FAST, SLOW, DEAD = range(5)


def made(rank: int, *told: tuple[float, int, type | int, int]) -> list[Event]:
    return [
        Event(1e9 + at, index, peer, 3, rank, what, PLACES[kind] if isinstance(kind, type) else kind)
        for index, (at, what, kind, peer) in enumerate(told, 1)
    ]


def traces() -> dict[str, list[Event]]:
    plans = [(0.0, trace.SAYS, messages.Plan, rank) for rank in (SERVER, FAST, SLOW, DEAD)]
    heard = [(1.0, trace.HEARS, messages.Reports, FAST), (9.5, trace.HEARS, messages.Reports, SLOW)]
    tally = [(10.0, trace.SAYS, messages.Tally, rank) for rank in (SERVER, FAST, SLOW)]
    return {
        "scheduler": made(SCHEDULER, *plans, *heard, *tally, (10.25, trace.HEARS, messages.Applied, SERVER)),
        "worker_2": made(DEAD, (0.1, trace.HEARS, messages.Plan, SCHEDULER), (0.2, trace.MOVES, trace.MODEL, -1)),
        "worker_1": made(SLOW, (9.5, trace.SAYS, messages.Reports, SCHEDULER), (9.6, trace.WAITS, 0, -1)),
    }


def test_the_slowest_and_the_missing_are_named() -> None:
    reports, steps = waits.waits(traces()["scheduler"], 3)
    assert (reports.what, reports.answers, reports.missing) == ("reports", [(FAST, 1.0), (SLOW, 9.5)], [DEAD])
    assert (steps.what, steps.answers, steps.missing) == ("server steps", [(SERVER, 0.25)], [])


def test_the_lines_name_who_was_waited_for_and_what_each_did_last() -> None:
    head, reports, steps, *ranks = waits.lines(traces(), 3)
    assert head.startswith("round 3, as 3 ranks tell")
    assert reports == "  reports: 9.500 s; last: worker_1 9.500 s, rank 2 1.000 s; nothing of worker_2"
    assert steps == "  server steps: 0.250 s; last: rank 1 0.250 s"
    assert [line.split(":")[0].strip() for line in ranks] == ["scheduler", "worker_1", "worker_2"]
    assert "moves the model, 10.0 s before the newest event" in ranks[2]
    assert "waits for a message after it said Reports" in ranks[1]


def test_any_numbers_are_told() -> None:
    wild = [Event(float("nan"), 1, -7, 2, 9, 1, 255), Event(1e300, 2, 3, 2, 9, 250, 3), Event(-5.0, 3, 3, 2, 9, 2, 0)]
    assert list(waits.lines({"scheduler": wild, "worker_0": wild}, 2))
    assert waits.rounds({"scheduler": wild}) == [2]
