"""Waiting for ranks that are ready, until a round can be planned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofold.coordination import planning, quorum
from silofold.coordination.events import EndKind, Opened, Send
from silofold.coordination.facts import GRACE
from silofold.coordination.phases import Evaluating, Gathering, Training, Underway

if TYPE_CHECKING:
    from silofold.coordination.state import State


def advance(state: State, phase: Gathering, now: float, *, timed_out: bool) -> bool:
    """Plan the round once all are ready that are waited for; return whether another step may follow."""
    members, rounds = state.members, state.facts.rounds
    if not timed_out and not members.all_ready(late_too=phase.second):
        return False
    if state.scale:
        _rescale(state)
        return True
    for rank in members.give_up_waiting():
        state.warn(f"{state.facts.layout.title(rank)} is not ready: nobody waits for it until it is")
    for line in members.settle_hosts():
        state.warn(line)
    present, held = members.present()
    silos = sorted(held - state.benched - state.states.unwritten)
    wanted = quorum.start_quorum(rounds.start_quorum, len(state.facts.examples) - len(state.benched))
    # the last checkpoint must name what every silo keeps
    short = len(silos) < wanted or (bool(state.states.writers) and state.is_over)
    if short and not phase.second:  # late ones too get their chance before the job is given up
        state.phase = Gathering(now + rounds.start_window, second=True)
        return True
    if missing := members.servers - members.ready:
        return state.lose(missing, "are not ready for the next round")
    if short:
        return _give_up(state, len(silos), wanted)
    _open(state, present, silos, now)
    return True


def _give_up(state: State, found: int, wanted: int) -> bool:
    """End the job because too few silos are ready."""
    if away := state.states.writers:
        return state.lose(away, "did not write what their silos keep")
    members, number, window = state.members, state.progress.number, state.facts.rounds.start_window
    if len(state.benched) == len(state.facts.examples):
        why = f"round {number}: no silo is left that may train (rounds.bench_after)"
        return state.finish(EndKind.VOID, why=why)
    absent = ", ".join(map(state.facts.layout.title, sorted(members.hosting.hosts - members.ready))) or "no rank"
    return state.finish(
        EndKind.RESUMABLE, "start-quorum",
        f"round {number}: {found} silos were ready within rounds.start_window = {window} s, "
        f"rounds.start_quorum asks for {wanted}; missing: {absent}",
    )  # fmt: skip


def _rescale(state: State) -> None:
    change, state.scale = state.scale, 0
    if state.facts.tied:
        state.warn("not scaled: silos cannot leave their files (roles.near)")
        return
    hosting = state.members.hosting
    changed = hosting.scale(change, state.members.ready)
    state.warn(f"scaled by {changed:+d} of {change:+d} workers: now {len(hosting.hosts)}")


def _open(state: State, present: list[int], silos: list[int], now: float) -> None:
    """Plan the round, and tell everyone that is ready."""
    facts, members, progress = state.facts, state.members, state.progress
    last = state.is_over
    cohort = () if last else tuple(_draw(state, silos, progress.number))
    due, told = state.checkpoints.due(progress.number, last=last, complete=not state.states.writers)
    state.out += told
    plan = planning.make(
        facts, members, progress.number, present, cohort, progress.laps,
        checkpoint=due, last=last, exit_code=progress.ending[0].code if progress.ending else 0,
    )  # fmt: skip
    titles = map(facts.layout.title, members.servers)
    state.checkpoints.begin(plan, state.states, titles, progress.counted, progress.voids)
    upcoming = _draw(state, silos, progress.number + 1) if facts.foresees and not last and not facts.script else []
    state.out.append(Opened(plan, cohort))
    sent = list(planning.handed_out(facts, members, plan, cohort, upcoming, state.states))
    state.out += [Send(rank, mine) for rank, mine in sent]
    members.ready -= members.servers | set(plan.members.workers)
    under = Underway.begin(plan, cohort, {silo: rank for rank, mine in sent for silo in mine.dealt}, now)
    state.phase = (Evaluating if last else Training)(under, now + plan.window + GRACE)


def _draw(state: State, silos: list[int], number: int) -> list[int]:
    script = state.facts.script
    return script[number][0] if script else state.facts.draw(silos, number)
