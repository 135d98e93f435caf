"""Waiting until every server has moved its shard, and closing the round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofold.coordination import quorum, window
from silofold.coordination.events import EndKind, RoundClosed
from silofold.coordination.phases import Gathering
from silofold.coordination.window import Lap

if TYPE_CHECKING:
    from silofold.coordination.phases import Applying
    from silofold.coordination.state import State


def advance(state: State, phase: Applying, now: float, *, timed_out: bool) -> bool:
    """Close the round once every shard has moved; return whether another step may follow."""
    ranks = state.facts.layout.server_ranks
    if len(phase.applied) == len(ranks):
        if not all(message.finite for message in phase.applied.values()):
            why = f"round {state.progress.number}: the global model is no longer finite after the servers' step"
            return state.finish(EndKind.NOT_FINITE, why=why)
        close_round(state, phase, now)
        return True
    if not timed_out:
        return False
    missing = {ranks[shard] for shard in set(range(len(ranks))) - set(phase.applied)}
    return state.lose(missing, "did not apply the update")


def close_round(state: State, phase: Applying, now: float) -> None:
    """Tell what a round has come to, which may be void, and wait for the next one."""
    under, tally, progress, rounds = phase.round, phase.tally, state.progress, state.facts.rounds
    accepted = set(phase.verdict.accepted)
    sent = {rank for rank, found in under.reports.items() if any(one.silo in accepted for one in found.reports)}
    last_report = max((under.arrived[rank] - under.began for rank in sent), default=None)
    dead = frozenset(under.dealt.values()) - state.members.living
    state.out.append(RoundClosed(
        under.plan, under.cohort, tally, phase.verdict, under.reports, under.evaluations, phase.applied, under.dealt,
        dead, under.began, phase.tallied, last_report, under.timed_out,
    ))  # fmt: skip
    if tally.quorum_met and last_report is not None and not under.timed_out:
        trained = sum(state.facts.examples[silo] for silo in accepted)
        lap = Lap(last_report, trained, under.plan.evaluate)
        progress.laps = window.remember(progress.laps, lap)
    progress.number += 1
    progress.voids = 0 if tally.quorum_met else progress.voids + 1
    progress.counted += tally.quorum_met or rounds.count_void
    _count_failures(state, phase)
    state.phase = Gathering(now + rounds.start_window)
    if progress.voids >= rounds.max_void and not state.facts.script:
        state.finish(EndKind.VOID, why=f"{progress.voids} void rounds in a row (rounds.max_void)")


def _count_failures(state: State, phase: Applying) -> None:
    failures = state.progress.failures
    if not phase.verdict.refused and not failures:
        return
    reports = {report.silo: report for sent in phase.round.reports.values() for report in sent.reports}
    failed = {silo for silo in phase.verdict.refused if quorum.own_fault(reports.get(silo))}
    before, limit = state.benched, state.facts.rounds.bench_after
    refused = set(phase.verdict.refused)
    failures = state.progress.failures = quorum.count_failures(failures, phase.round.cohort, refused, failed, limit)
    for silo in sorted(state.benched - before):
        state.warn(f"silo {silo} failed in {failures[silo]} rounds in a row and trains no more")
