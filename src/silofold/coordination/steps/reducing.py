"""Waiting until every server has its sum; if a member is lost meanwhile, tallying again without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofold.coordination import quorum
from silofold.coordination.events import EndKind, Send, Tallied
from silofold.coordination.facts import GRACE
from silofold.coordination.phases import Applying
from silofold.coordination.steps.training import say_tally
from silofold.core.messages import Settled

if TYPE_CHECKING:
    from silofold.coordination.phases import Reducing
    from silofold.coordination.state import State


def advance(state: State, phase: Reducing, now: float, *, timed_out: bool) -> bool:
    """Settle the round once every server has its sum; return whether another step may follow."""
    members, under, tally = state.members, phase.round, phase.tally
    # what a dead member's silos keep would be lost if its sum counted
    lost = state.facts.keeps_state and not members.living.issuperset(phase.silos)
    whole = not phase.lacking and not lost
    if not whole and not phase.grace:
        if timed_out or phase.broken or lost:
            # a server's word that comes only now still counts: what is added up in workers' memory is not there twice
            phase.deadline, phase.grace = now + GRACE, True
            return True
        return False
    if not whole and phase.silent and not timed_out:
        return False
    members.epoch += phase.broken
    if unsound := next((word.unsound for word in phase.words.values() if word.unsound), ""):
        verdict = quorum.Verdict((), (), dict.fromkeys(phase.verdict.accepted, unsound), quorum_met=False)
        say_tally(state, under, verdict, tally.attempt + 1, phase.tallied, now, met=False)
        return True
    if whole:
        settled = tally.as_settled()
        state.states.count(tally.round, phase.silos, under.reports)
        state.out.append(Tallied(settled, phase.verdict))
        state.out += [Send(rank, Settled(tally.round, tally.attempt)) for rank in state.listeners(under)]
        deadline = now + under.plan.window + GRACE
        state.phase = Applying(under, settled, phase.verdict, phase.tallied, deadline)
        return True
    return _tally_again(state, phase, set(phase.silent), now)


def _tally_again(state: State, phase: Reducing, silent: set[int], now: float) -> bool:
    """Tally without the members that were lost in the reduction: nothing has moved yet."""
    members, under, tally = state.members, phase.round, phase.tally
    members.epoch += 1
    if lost := silent & members.servers:
        return state.lose(lost, "did not answer after the reduction")
    if tally.attempt > len(tally.members.workers):
        why = f"round {tally.round}: the reduction broke {tally.attempt} times; resume the run"
        return state.finish(EndKind.RESUMABLE, "rank-lost", why)
    state.note_late(silent, tally.round)
    under.reports = {rank: sent for rank, sent in under.reports.items() if rank in members.living and rank in phase.words}
    verdict = state.judge(under)
    say_tally(state, under, verdict, tally.attempt + 1, phase.tallied, now, met=verdict.quorum_met)
    return True
