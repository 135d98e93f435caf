"""How the survivors of a loss find each other, when the job cannot go on in its present shape: events in, actions out.

The lowest living rank leads: it calls all others, waits for those that answer, and tells them who goes on. Whoever answers
nobody in time is left behind, and ended where it still lives. Roles come in the order of the ranks: a server that is left
stays a server unless it must schedule.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from silofold.coordination.events import Died, Expel, GiveUp, Heard, Regrouped, Send, Tick
from silofold.coordination.facts import GRACE, OVERSLEPT
from silofold.coordination.member import Way
from silofold.messages import Halt, Here, Regroup

if TYPE_CHECKING:
    from collections.abc import Iterable

    from silofold.coordination.events import Event, Lost, MemberAction

LEAST_RANKS = 3
"""A scheduler, a server and a worker."""
LEADS, FOLLOWS, REGROUPED, GIVEN_UP = "leads", "follows", "regrouped", "given up"
WAYS = (
    Way(LEADS, Here, REGROUPED, "all have answered"),
    Way(LEADS, Died, REGROUPED, "all who live have answered"),
    Way(LEADS, Tick, REGROUPED, "who has not answered is left behind"),
    Way(LEADS, Here, GIVEN_UP, "too few are left"),
    Way(LEADS, Died, GIVEN_UP, "too few are left"),
    Way(LEADS, Tick, GIVEN_UP, "too few have answered"),
    Way(FOLLOWS, Regroup, REGROUPED, "the leader says who goes on"),
    Way(FOLLOWS, Died, LEADS, "the leader is dead, and this rank is the next one"),
    Way(FOLLOWS, Died, FOLLOWS, "the leader is dead, and another rank is the next one"),
    Way(FOLLOWS, Tick, GIVEN_UP, "the leader is silent"),
)
"""All that may come of an event while the survivors find each other; one that changes nothing stands nowhere."""


class Recovery:
    """The protocol of a survivor.

    Parameters
    ----------
    rank
        Its own.
    living
        Ranks that are not known to be dead.
    loss
        What happened.
    seconds
        How long the others may take to answer: one of them may be in the middle of its training.

    Attributes
    ----------
    wake_at : float
        When it must be told the time, at the latest.
    leader : int
        The lowest living rank.
    """

    def __init__(self, rank: int, living: Iterable[int], loss: Lost, seconds: float) -> None:
        self._rank, self._living, self._suspects = rank, set(living), set(loss.suspects)
        self._seconds = seconds
        self._patience = max(seconds, loss.seconds) + 2 * GRACE
        self._there = {rank}
        self.leader = -1
        self.wake_at = math.inf

    def begin(self, now: float) -> list[MemberAction]:
        """Turn to the lowest living rank, which may be this one.

        Parameters
        ----------
        now
            Seconds, on the clock of `handle`.
        """
        self.leader = min(self._living)
        if self.leader != self._rank:
            self.wake_at = now + self._patience
            return [Send(self.leader, Here())]
        self.wake_at = now + self._seconds
        called = self._living - self._suspects - {self._rank}
        ended = [Expel(rank, ()) for rank in sorted(self._suspects)]
        return [*ended, *(Send(rank, Halt(self._seconds)) for rank in sorted(called)), *self._decide(now)]

    def handle(self, event: Event, now: float) -> list[MemberAction]:
        """Take an event, and return what is to be done, in this order."""
        leads = self.leader == self._rank
        match event:
            case Died(rank):
                self._living.discard(rank)
                self._there.discard(rank)
                if rank == self.leader:
                    return self.begin(now)
            case Heard(rank, Here()) if leads:
                self._there.add(rank)
            case Heard(_, Regroup() as order) if not leads:
                return self._go_on(order)
            case Heard(_, Halt(seconds)) if not leads:  # the leader had not begun to listen when this rank spoke
                self._patience = max(self._patience, seconds + 2 * GRACE)  # its last plan may be a later one
                self.wake_at = now + self._patience
                return [Send(self.leader, Here())]
            case Tick() if now >= self.wake_at + OVERSLEPT:  # this rank was stopped itself: a word may be on its way
                self.wake_at = now + GRACE
            case Tick() if not leads and now >= self.wake_at:
                story = f"rank {self._rank} heard nothing of rank {self.leader}, which leads now; resume the run"
                return self._give_up("rank-silent", story)
        return self._decide(now) if leads else []

    def _decide(self, now: float) -> list[MemberAction]:
        """Tell who goes on, once all have answered that are waited for, or their time is over."""
        if now < self.wake_at and not self._there >= self._living - self._suspects:
            return []
        there = self._there & self._living
        if len(there) < LEAST_RANKS:
            return self._give_up(
                "rank-lost", f"{len(there)} ranks are left, expected at least {LEAST_RANKS}; resume the run"
            )
        order = Regroup(tuple(sorted(there)), tuple(sorted(self._living - there)))
        return [*(Send(rank, order) for rank in order.ranks if rank != self._rank), *self._go_on(order)]

    def _go_on(self, order: Regroup) -> list[MemberAction]:
        self.wake_at = math.inf
        return [*(Expel(rank, ()) for rank in order.expelled), Regrouped(order)]

    def _give_up(self, error: str, story: str) -> list[MemberAction]:
        self.wake_at = math.inf
        return [GiveUp(error, story)]


def shape(ranks: int, lost: int, servers: int, standby: int) -> tuple[int, int]:
    """Work out the roles of the survivors: as before if there are enough, with fewer standbys or servers if not.

    Parameters
    ----------
    ranks
        Survivors.
    lost
        Ranks that are no longer there.
    servers, standby
        How many there were.

    Returns
    -------
    tuple of int
        Servers and standbys of the survivors; what is left are workers, one at least.
    """
    kept = max(1, min(servers, ranks - 2))
    return kept, max(0, min(standby - lost, ranks - kept - 2))
