"""The plan of a round, as it follows from who is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from silofold.coordination import window
from silofold.core import topology
from silofold.core.messages import Members, Plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from silofold.coordination.facts import Facts
    from silofold.coordination.membership import Membership
    from silofold.coordination.states import SiloStates
    from silofold.coordination.window import Lap


def make(
    facts: Facts,
    members: Membership,
    number: int,
    present: Sequence[int],
    cohort: Sequence[int],
    laps: Sequence[Lap],
    *,
    checkpoint: bool,
    last: bool,
    exit_code: int,
) -> Plan:
    """Make the plan of a round, without what each receiver is told of its own; see `handed_out`.

    Parameters
    ----------
    facts
        The job.
    members
        Its ranks.
    number
        Of the round.
    present
        Workers that are ready, ascending.
    cohort
        Silos that are asked to train.
    laps
        How long the rounds before took to report.
    checkpoint, last, exit_code
        As in `Plan`.
    """
    evaluate = number > 1 and (last or window.evaluates(number, facts.rounds.evaluate_every))
    return Plan(
        round=number,
        members=Members.of(present, members.epoch, members.losses),
        hosted=(),
        dealt=(),
        upcoming=(),
        states=(),
        total_weight=sum(facts.weights[silo] for silo in cohort),
        window=window.resolve(facts.rounds.update_window, laps, evaluated=evaluate, evaluation=facts.evaluation),
        evaluate=evaluate,
        checkpoint=checkpoint,
        last=last,
        exit_code=exit_code,
        expelled=tuple(sorted(members.living - members.ready)) if last else (),
    )


def handed_out(
    facts: Facts,
    members: Membership,
    plan: Plan,
    cohort: Sequence[int],
    upcoming: Sequence[int],
    states: SiloStates,
) -> Iterator[tuple[int, Plan]]:
    """Yield each ready rank and its plan; who has the most to do comes first.

    Parameters
    ----------
    facts
        The job.
    members
        Its ranks.
    plan
        The plan.
    cohort
        Silos that are asked to train.
    upcoming
        The cohort of the round after, as it would be now.
    states
        What silos keep.
    """
    present = plan.members.workers
    dealt, then = _deal(facts, members, cohort, present), _deal(facts, members, upcoming, present)
    burden = {rank: sum(facts.examples[silo] for silo in silos) for rank, silos in dealt.items()}
    for rank in sorted(members.ready, key=lambda rank: (-burden.get(rank, 0), rank)):
        hosted, mine, next_ = members.hosting.silos_of(rank), dealt.get(rank, ()), then.get(rank, ())
        told = states.rounds(mine)
        yield rank, msgspec.structs.replace(plan, hosted=hosted, dealt=mine, upcoming=next_, states=told)


def _deal(facts: Facts, members: Membership, silos: Sequence[int], present: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Tell who trains which of these silos: its host or, where nothing ties it there, who has the least to do."""
    if not silos:
        return {}
    hosts = {rank: members.hosting.silos_of(rank) for rank in present}
    if facts.deals:
        return topology.deal(silos, facts.examples, hosts)
    wanted = set(silos)
    return {
        rank: held if wanted.issuperset(held) else tuple(silo for silo in held if silo in wanted)
        for rank, held in hosts.items()
    }
