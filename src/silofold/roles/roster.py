"""Who hosts which silo, as workers die and standbys step in."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from silofold import topology

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

logger = logging.getLogger(__name__)


class Roster:
    """The scheduler's list of hosts.

    Parameters
    ----------
    hosted
        Silos of each worker at the beginning.
    standbys
        Ranks that host none yet.
    examples
        Training examples of each silo.
    """

    def __init__(self, hosted: Mapping[int, tuple[int, ...]], standbys: Iterable[int], examples: Sequence[int]) -> None:
        self._hosted = dict(hosted)
        self._standbys = list(standbys)
        self._examples = examples
        self._orphans: set[int] = set()

    @property
    def hosts(self) -> set[int]:
        """Ranks that host silos."""
        return set(self._hosted)

    @property
    def standbys(self) -> list[int]:
        """Ranks that wait for silos, ascending."""
        return sorted(self._standbys)

    def silos_of(self, rank: int) -> tuple[int, ...]:
        """Return the silos of a rank, ascending; none for a server or a standby."""
        return self._hosted.get(rank, ())

    def bury(self, rank: int) -> None:
        """Take a dead rank off the list; its silos wait for another host."""
        self._orphans |= set(self._hosted.pop(rank, ()))
        if rank in self._standbys:
            self._standbys.remove(rank)

    def rehost(self, ready: Iterable[int], *, tied: bool) -> None:
        """Give silos without a host to a standby that is ready, or else to the workers with the fewest examples.

        Parameters
        ----------
        ready
            Ranks that wait for the next plan.
        tied
            Whether silos cannot move, because of their momentum or their files; then there is nothing to give.
        """
        if not self._orphans or tied:
            return
        free = [rank for rank in self.standbys if rank in set(ready)]
        if free:
            self._standbys.remove(free[0])
            self._hosted[free[0]] = tuple(sorted(self._orphans))
            logger.warning("standby rank %d takes over silos %s", free[0], sorted(self._orphans))
            self._orphans.clear()
            return
        for silo in sorted(self._orphans, key=lambda silo: (-self._examples[silo], silo)):
            loads = {rank: sum(self._examples[held] for held in silos) for rank, silos in self._hosted.items()}
            if not loads:
                return
            rank = min(loads, key=lambda rank: (loads[rank], rank))
            self._hosted[rank] = tuple(sorted((*self._hosted[rank], silo)))
            self._orphans.discard(silo)
            logger.warning("rank %d takes over silo %d", rank, silo)

    def scale(self, change: int, ready: Iterable[int]) -> int:
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
            chosen = [rank for rank in self.standbys if rank in set(ready)][: min(change, max(spare, 0))]
            hosts = sorted([*hosts, *chosen])
            self._standbys = [rank for rank in self._standbys if rank not in chosen]
        else:
            leaving = hosts[max(1, len(hosts) + change) :]
            hosts = hosts[: len(hosts) - len(leaving)]
            self._standbys += leaving
        changed = len(hosts) - len(self._hosted)
        if changed:
            self._hosted = dict(zip(hosts, topology.assign_silos(self._examples, len(hosts)), strict=True))
            self._orphans.clear()
        return changed
