"""The tally of a round, and what of it each rank is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from silofold.core.messages import Members, Tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from silofold.coordination.facts import Facts
    from silofold.coordination.membership import Membership
    from silofold.coordination.quorum import Verdict
    from silofold.core.messages import Reports


def shares(verdict: Verdict, reports: Mapping[int, Reports]) -> dict[int, tuple[int, ...]]:
    """Return the accepted silos of each worker that has any, workers and silos ascending."""
    accepted = set(verdict.accepted)
    found = {
        rank: tuple(sorted([report.silo for report in reports[rank].reports if report.silo in accepted]))
        for rank in sorted(reports)
    }
    return {rank: silos for rank, silos in found.items() if silos}


def make(facts: Facts, members: Membership, number: int, attempt: int, workers: Iterable[int], *, quorum_met: bool) -> Tally:
    """Make the tally of a round, without what each receiver is told of its own; see `handed_out`.

    Parameters
    ----------
    facts
        The job.
    members
        Its ranks.
    number, attempt, quorum_met
        As in `Tally`.
    workers
        Those whose updates count, ascending.
    """
    who = Members.of(workers, members.epoch, members.losses)
    return Tally(number, attempt, who, (), (), (), quorum_met, certain=facts.certain(who))


def handed_out(
    facts: Facts,
    members: Membership,
    tally: Tally,
    verdict: Verdict,
    silos: Mapping[int, tuple[int, ...]],
    listeners: Iterable[int],
) -> Iterator[tuple[int, Tally]]:
    """Yield each rank that is told, and its tally: no worker hears of silos that it has not trained.

    Parameters
    ----------
    facts
        The job.
    members
        Its ranks.
    tally
        The tally.
    verdict
        What counts.
    silos
        See `shares`.
    listeners
        Ranks that are told.
    """
    for_servers = msgspec.structs.replace(tally, weights=verdict.weights)
    if facts.gathers:
        all_of_them = tuple(silo for mine in silos.values() for silo in mine)
        for_servers = msgspec.structs.replace(for_servers, silos=all_of_them, counts=tuple(map(len, silos.values())))
    for rank in listeners:
        if rank in members.servers:
            yield rank, for_servers
        else:
            yield rank, msgspec.structs.replace(tally, silos=silos[rank]) if rank in silos else tally
