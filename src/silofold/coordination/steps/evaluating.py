"""Waiting for the evaluation of the last model, and for its checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofold.coordination.events import Again, EndKind, Send
from silofold.coordination.phases import Gathering
from silofold.core.messages import Replan

if TYPE_CHECKING:
    from silofold.coordination.phases import Evaluating, Underway
    from silofold.coordination.state import State


def advance(state: State, phase: Evaluating, now: float, *, timed_out: bool) -> bool:
    """End the run once the last model is evaluated and saved; return whether another step may follow."""
    under = phase.round
    if not under.evaluated:
        if under.unevaluated and not timed_out:
            return False
        return plan_again(state, under, now)
    if state.checkpoints.pending:
        why = "the last model was not saved in time; resume the run"
        return timed_out and state.finish(EndKind.RESUMABLE, "rank-silent", why)
    return state.finish(EndKind.OVER, code=under.plan.exit_code)


def plan_again(state: State, under: Underway, now: float) -> bool:
    """Send the last model again, without who was lost before it had been evaluated everywhere."""
    progress, members = state.progress, state.members
    progress.replans += 1
    if progress.replans > len(state.facts.layout.worker_ranks) + 1:
        why = f"the last model did not arrive in {progress.replans - 1} attempts; resume the run"
        return state.finish(EndKind.RESUMABLE, "rank-silent", why)
    workers = members.living & set(under.plan.members.workers)
    state.note_late(under.unevaluated, under.plan.round)
    members.epoch += 1
    state.out.append(Again())
    state.out += [Send(rank, Replan(under.plan.round)) for rank in sorted(workers | (members.living & members.servers))]
    state.phase = Gathering(now + state.facts.rounds.start_window)
    return True
