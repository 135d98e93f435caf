"""The plan of a round, as it follows from who is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from silofold import topology
from silofold.coordination import window
from silofold.messages import Members, Plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from silofold.coordination.facts import Facts
    from silofold.coordination.membership import Membership
    from silofold.coordination.window import Lap


def make(
    facts: Facts,
    members: Membership,
    number: int,
    cohort: Sequence[int],
    carried: tuple[int, ...],
    carried_from: int,
    laps: Sequence[Lap],
    *,
    checkpoint: bool,
    last: bool,
    exit_code: int,
) -> Plan:
    """Make the plan of a round, without what each receiver is told of its own silos; see `handed_out`."""
    present, _ = members.present()
    evaluate = number > 1 and (last or window.evaluates(number, facts.rounds.evaluate_every))
    return Plan(
        round=number,
        members=Members(tuple(present), members.epoch, members.losses),
        hosted=(),
        cohort=tuple(cohort),
        dealt=(),
        upcoming=(),
        total_weight=sum(facts.weight(facts.examples[silo]) for silo in cohort),
        window=window.resolve(facts.rounds.update_window, laps, evaluated=evaluate, evaluation=facts.evaluation),
        evaluate=evaluate,
        checkpoint=checkpoint,
        carried=carried,
        carried_from=carried_from,
        last=last,
        exit_code=exit_code,
        expelled=tuple(sorted(members.living - members.ready)) if last else (),
    )


def handed_out(facts: Facts, members: Membership, plan: Plan, upcoming: Sequence[int]) -> Iterator[tuple[int, Plan]]:
    """Yield each ready rank and its plan; who has the most to do comes first.

    Parameters
    ----------
    facts
        The job.
    members
        Its ranks.
    plan
        The plan.
    upcoming
        The cohort of the round after, as it would be now.
    """
    present, _ = members.present()
    dealt, then = _deal(facts, members, plan.cohort, present), _deal(facts, members, upcoming, present)
    burden = {rank: sum(facts.examples[silo] for silo in silos) for rank, silos in dealt.items()}
    for rank in sorted(members.ready, key=lambda rank: (-burden.get(rank, 0), rank)):
        yield (
            rank,
            msgspec.structs.replace(
                plan, hosted=members.hosting.silos_of(rank), dealt=dealt.get(rank, ()), upcoming=then.get(rank, ())
            ),
        )


def _deal(facts: Facts, members: Membership, silos: Sequence[int], present: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Tell who trains which of these silos: its host or, where nothing ties it there, who has the least to do."""
    hosts = {rank: members.hosting.silos_of(rank) for rank in present}
    if facts.deals:
        return topology.deal(silos, facts.examples, hosts)
    wanted = set(silos)
    return {rank: tuple(silo for silo in held if silo in wanted) for rank, held in hosts.items()}
