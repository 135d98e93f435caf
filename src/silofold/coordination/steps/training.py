"""Waiting for reports, until what counts of the round can be decided."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofold.coordination import quorum, tallying
from silofold.coordination.events import Send, Tallied
from silofold.coordination.facts import GRACE
from silofold.coordination.phases import Applying, Reducing
from silofold.coordination.steps import applying

if TYPE_CHECKING:
    from silofold.coordination.phases import Training, Underway
    from silofold.coordination.quorum import Verdict
    from silofold.coordination.state import State


def advance(state: State, phase: Training, now: float, *, timed_out: bool) -> bool:
    """Tally once all have reported that are waited for; return whether another step may follow."""
    under, plan, members = phase.round, phase.round.plan, state.members
    early = _is_enough(state, under)
    if under.unreported and not early and not timed_out:
        return False
    missing = set(under.unreported)
    under.timed_out = quorum.cut_short(under.reports.values()) or (bool(missing) and not early)
    if missing and not early:
        state.note_late(missing, plan.round)
    for rank in missing:
        members.late.setdefault(rank, 0)
    if missing or under.lost_report:
        members.epoch += 1
    verdict = state.judge(under)
    script = state.facts.script.get(plan.round)
    met = verdict.quorum_met and bool(under.cohort) if script is None else not script[1]
    state.tell_evaluation(under)
    say_tally(state, under, verdict, 1, now, now, met=met)
    return True


def _is_enough(state: State, under: Underway) -> bool:
    rounds = state.facts.rounds
    if rounds.close == "all" or state.facts.script:
        return False
    return under.finished >= quorum.needed(rounds.update_ratio, len(under.cohort))


def say_tally(
    state: State, under: Underway, verdict: Verdict, attempt: int, tallied: float, now: float, *, met: bool
) -> None:
    """Tell whose updates count to every rank that heard the plan; those that are late find it when they come.

    Parameters
    ----------
    state
        The job; its phase is set.
    under
        The round.
    verdict
        What counts.
    attempt
        Of the reduction, from 1.
    tallied
        When it was first decided, seconds.
    now
        Seconds.
    met
        Whether the round counts.
    """
    facts, members = state.facts, state.members
    silos = tallying.shares(verdict, under.reports)
    tally = tallying.make(facts, members, under.plan.round, attempt, silos, quorum_met=met)
    state.out.append(Tallied(tally, verdict))
    told = tallying.handed_out(facts, members, tally, verdict, silos, state.listeners(under))
    state.out += [Send(rank, mine) for rank, mine in told]
    deadline = now + under.plan.window + GRACE
    if not met:
        applying.close_round(state, Applying(under, tally, verdict, tallied, deadline), now)
    elif tally.certain:
        state.states.count(tally.round, silos, under.reports)
        state.phase = Applying(under, tally.as_settled(), verdict, tallied, deadline)
    else:
        everyone = members.living & {*members.servers, *silos}
        state.phase = Reducing(under, tally, verdict, tallied, deadline, everyone, silos, set(members.servers))
