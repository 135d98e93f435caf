"""Which round's state each silo has, and which of them are not on disk yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofold.core.reports import StateOf

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from silofold.coordination.facts import Facts
    from silofold.core.messages import Reports


class SiloStates:
    """The states of silos that keep one; of others there is nothing.

    A worker writes the states of its silos when their updates count, and is ready for the next round only after that. So
    a state is on disk as soon as its writer is heard to be ready, and lost if it dies before.

    Parameters
    ----------
    facts
        The job.
    """

    def __init__(self, facts: Facts) -> None:
        self._keeps = facts.keeps_state
        self._of = dict(facts.states)
        self._unwritten: dict[int, tuple[int, ...]] = {}

    @property
    def writers(self) -> set[int]:
        """Ranks that have not written all of their states."""
        return set(self._unwritten)

    @property
    def unwritten(self) -> set[int]:
        """Silos whose state is not on disk: nobody can train them."""
        return {silo for silos in self._unwritten.values() for silo in silos}

    def rounds(self, silos: Iterable[int]) -> tuple[int, ...]:
        """Return the round of each silo's state; 0 for none. Nothing where no silo keeps one."""
        return tuple(self._of[silo].round if silo in self._of else 0 for silo in silos) if self._keeps else ()

    def snapshot(self) -> dict[int, StateOf]:
        """Return all states as they are now."""
        return dict(self._of)

    def count(self, number: int, silos: Mapping[int, tuple[int, ...]], reports: Mapping[int, Reports]) -> None:
        """Take note of updates that count: their silos' states are those of this round.

        Parameters
        ----------
        number
            The round.
        silos
            Accepted silos of each worker.
        reports
            What they reported.
        """
        if not self._keeps:
            return
        for rank, mine in silos.items():
            told = {report.silo: report.state for report in reports[rank].reports}
            self._of |= {silo: StateOf(number, told[silo]) for silo in mine}
            self._unwritten[rank] = mine

    def written(self, rank: int) -> None:
        """Take note of a rank that is ready: it has written what it had to."""
        self._unwritten.pop(rank, None)
