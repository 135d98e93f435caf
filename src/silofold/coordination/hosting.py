"""Who hosts which silo, as workers die, are late, come back, and standbys step in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofold.core import topology

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence


class Hosting:
    """The list of hosts.

    Parameters
    ----------
    hosted
        Silos of each worker at the beginning.
    standbys
        Ranks that host none yet.
    examples
        Training examples of each silo.
    tied
        Whether silos cannot move, because of their momentum or their files.
    """

    def __init__(
        self, hosted: Mapping[int, tuple[int, ...]], standbys: Iterable[int], examples: Sequence[int], *, tied: bool
    ) -> None:
        self._hosted = dict(hosted)
        self._standbys = set(standbys)
        self._examples, self._tied = examples, tied
        self._orphans: set[int] = set()
        self._lent: dict[int, tuple[int, ...]] = {}
        """Silos of ranks that are away, which others look after until they are back."""

    @property
    def hosts(self) -> set[int]:
        """Ranks that host silos, or will when they are back."""
        return set(self._hosted)

    @property
    def count(self) -> int:
        """How many hosts there are."""
        return len(self._hosted)

    @property
    def standbys(self) -> list[int]:
        """Ranks that wait for silos, ascending."""
        return sorted(self._standbys)

    def silos_of(self, rank: int) -> tuple[int, ...]:
        """Return the silos of a rank, ascending; none for a server or a standby."""
        return self._hosted.get(rank, ())

    def remove_dead(self, rank: int) -> None:
        """Take a dead rank off the list; its silos wait for another host."""
        self._orphans |= set(self._hosted.pop(rank, ()))
        self._lent.pop(rank, None)
        self._standbys.discard(rank)

    def lend(self, rank: int) -> None:
        """Let others look after the silos of a rank that is away."""
        if self._tied or not self._hosted.get(rank):
            return
        self._lent[rank] = self._hosted[rank]
        self._orphans |= set(self._hosted[rank])
        self._hosted[rank] = ()

    def give_back(self, rank: int) -> None:
        """Give a rank that is back the silos that it had."""
        own = set(self._lent.pop(rank, ()))
        for other, held in self._hosted.items():
            self._hosted[other] = tuple(silo for silo in held if silo not in own)
        self._orphans -= own
        if rank in self._hosted:
            self._hosted[rank] = tuple(sorted({*self._hosted[rank], *own}))

    def rehost(self, ready: Collection[int]) -> list[str]:
        """Give silos without a host to a standby that is ready, or else to the ready workers with the fewest examples.

        Returns
        -------
        list of str
            What was done, in words.
        """
        if not self._orphans or self._tied:
            return []
        if free := [rank for rank in self.standbys if rank in ready]:
            silos = tuple(sorted(self._orphans))
            self._standbys.remove(free[0])
            self._hosted[free[0]] = silos
            self._orphans.clear()
            return [f"standby rank {free[0]} takes over silos {list(silos)}"]
        loads = {rank: sum(self._examples[silo] for silo in held) for rank, held in self._hosted.items() if rank in ready}
        told = []
        for silo in topology.longest_first(self._orphans, self._examples) if loads else ():
            rank = min(loads, key=lambda rank: (loads[rank], rank))
            self._hosted[rank] = tuple(sorted((*self._hosted[rank], silo)))
            loads[rank] += self._examples[silo]
            self._orphans.discard(silo)
            told.append(f"rank {rank} takes over silo {silo}")
        return told

    def scale(self, change: int, ready: Collection[int]) -> int:
        """Turn standbys that are ready into workers, or workers into standbys, and spread the silos anew.

        Parameters
        ----------
        change
            Workers more, or fewer.
        ready
            Ranks that wait for the next plan.

        Returns
        -------
        int
            By how many the number of workers has changed: as far as there are standbys, silos and workers for it.
        """
        hosts = sorted(self._hosted)
        if change > 0:
            spare = len(self._examples) - len(hosts)
            chosen = [rank for rank in self.standbys if rank in ready][: min(change, max(spare, 0))]
            hosts = sorted([*hosts, *chosen])
            self._standbys -= set(chosen)
        else:
            leaving = hosts[max(1, len(hosts) + change) :]
            hosts = hosts[: len(hosts) - len(leaving)]
            self._standbys |= set(leaving)
        changed = len(hosts) - len(self._hosted)
        if changed:
            self._hosted = dict(zip(hosts, topology.assign_silos(self._examples, len(hosts)), strict=True))
            self._orphans.clear()
            self._lent.clear()
        return changed
