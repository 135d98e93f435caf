"""Which ranks live, are ready or late, and who hosts which silo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofold.coordination.hosting import Hosting

if TYPE_CHECKING:
    from collections.abc import Iterable

    from silofold.coordination.facts import Facts


class Membership:
    """The ranks of a job, as the coordinator knows them.

    Parameters
    ----------
    facts
        The job.

    Attributes
    ----------
    servers : set of int
        Ranks of the servers.
    living : set of int
        Ranks that are not known to be dead, but for the scheduler.
    ready : set of int
        Ranks that wait for the next plan.
    late : dict of int to int
        Ranks that nobody waits for, and how many windows in a row each has missed.
    hosting : Hosting
        Who hosts which silo.
    epoch : int
        Grows when a collective broke or a member was missing.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self.servers = set(facts.layout.server_ranks)
        self.living = set(range(1, facts.layout.size))
        self.ready: set[int] = set()
        self.late: dict[int, int] = {}
        self.hosting = Hosting(facts.hosted, facts.layout.standby_ranks, facts.examples, tied=facts.tied)
        self.epoch = 0

    @property
    def losses(self) -> int:
        """How many ranks are dead."""
        return self._facts.layout.size - 1 - len(self.living)

    def awaited(self, *, late_too: bool = False) -> set[int]:
        """Return the ranks that must be ready for a round, the late ones among them where they get a last chance."""
        return self.servers | (self.hosting.hosts - (set() if late_too else set(self.late)))

    def all_ready(self, *, late_too: bool = False) -> bool:
        """Whether all that `awaited` names are ready; asked with every rank that comes, of ten thousand."""
        least = len(self.servers) + self.hosting.count - (0 if late_too else len(self.late))
        return len(self.ready) >= least and self.ready >= self.awaited(late_too=late_too)

    def heard_ready(self, rank: int) -> None:
        """Take note of a rank that is ready; one that was late gets its silos back."""
        self.ready.add(rank)
        if self.late.pop(rank, None) is not None:
            self.hosting.give_back(rank)

    def remove_dead(self, rank: int) -> None:
        """Take note of a death; collectives with this rank are not used again."""
        self.living.discard(rank)
        self.ready.discard(rank)
        self.late.pop(rank, None)
        self.epoch += 1
        self.hosting.remove_dead(rank)

    def miss(self, ranks: Iterable[int]) -> list[int]:
        """Count a window that these ranks missed; return those that have missed too many in a row."""
        expelled = []
        for rank in ranks:
            self.late[rank] = self.late.get(rank, 0) + 1
            if self._facts.survives and self.late[rank] >= self._facts.rounds.bench_after:
                expelled.append(rank)
        return expelled

    def give_up_waiting(self) -> list[int]:
        """Go on without the hosts that are not ready: return those that are late for the first time."""
        absent = sorted(self.hosting.hosts - self.ready - set(self.late))
        self.late |= dict.fromkeys(absent, 0)
        return absent

    def settle_hosts(self) -> list[str]:
        """Let ranks that are ready look after the silos of those that are dead or away; say what was done."""
        for rank in sorted(set(self.late) - self.ready):
            self.hosting.lend(rank)
        return self.hosting.rehost(self.ready & self.living)

    def present(self) -> tuple[list[int], set[int]]:
        """List the workers that are ready, and the silos that they host."""
        workers = sorted(self.ready & self.hosting.hosts)
        return workers, {silo for rank in workers for silo in self.hosting.silos_of(rank)}

    def beside(self, rank: int) -> tuple[int, ...]:
        """Return the living ranks on the node of a rank, which can end it."""
        nodes = self._facts.nodes
        return tuple(sorted(other for other in self.living if nodes[other] == nodes[rank] and other != rank))
