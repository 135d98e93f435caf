"""What a server or a worker waits for, and what it does about what it hears: events in, actions out.

What it does between two waits is its role's business. While it waits, the scheduler's every word is a sign of life; a
scheduler that is silent for too long is ended where that is possible, and then the survivors go on without it.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from silofold.coordination.events import Died, Dismissed, Expel, GiveUp, Heard, Lost, Send, Take, Tick
from silofold.coordination.facts import GRACE, OVERSLEPT
from silofold.messages import Alive, Gone, Halt, Here, Over, Plan, Ready, Replan, Settled, Tally
from silofold.messages import Expel as Expelled
from silofold.topology import SCHEDULER

if TYPE_CHECKING:
    from silofold.coordination.events import Event, MemberAction
    from silofold.messages import AnyMessage
    from silofold.topology import Layout


class Waits(enum.Enum):
    """What is waited for."""

    PLAN = "the round's plan"
    TALLY = "what counts of the round"
    WORD = "what follows an attempt to bring the updates together"
    END = "the run's last word"
    DISMISSAL = "the end of the job, which a fault of this rank has brought about"


AWAITED: dict[Waits, tuple[type[AnyMessage], ...]] = {
    Waits.PLAN: (Plan,),
    Waits.TALLY: (Tally,),
    Waits.WORD: (Tally, Settled),
    Waits.END: (Over, Replan),
    Waits.DISMISSAL: (Over,),
}
"""Messages that end each wait."""


class Way(NamedTuple):
    """What may come of a wait, or of a search for the survivors."""

    source: str
    event: type
    """Kind of the event that ends it: a message, a death, or time alone (`Tick`)."""
    target: str
    meaning: str


ANY, WORK, LOST, OVER, GIVEN_UP = "any wait", "at work", "lost", "over", "given up"
WAYS = (
    Way(Waits.PLAN.name, Plan, WORK, "it is in the round"),
    Way(Waits.TALLY.name, Tally, WORK, "what counts is decided"),
    Way(Waits.WORD.name, Settled, WORK, "every server has its sum"),
    Way(Waits.WORD.name, Tally, WORK, "a member was lost: once more without it"),
    Way(Waits.END.name, Replan, WORK, "somebody was lost: the end is planned again"),
    Way(Waits.END.name, Over, WORK, "the run is over"),
    Way(ANY, Over, OVER, "the run is over, and this rank had no part in its end"),
    Way(ANY, Died, LOST, "the scheduler is dead"),
    Way(ANY, Halt, LOST, "the lowest living rank calls"),
    Way(ANY, Here, LOST, "another rank knows already that this one leads now"),
    Way(ANY, Tick, ANY, "the scheduler is silent: it is ended"),
    Way(ANY, Tick, GIVEN_UP, "the scheduler is silent, and cannot be ended from here"),
)
"""All that may come of a wait. An event after which the same is waited for stands nowhere, but for the silence."""


@dataclass(frozen=True)
class MemberFacts:
    """The job as a member sees it.

    Attributes
    ----------
    rank
        Its own.
    layout
        Roles of the ranks.
    beside
        Ranks whose processes run on its host: it can end them.
    survives
        Whether the survivors of a rank's death can go on.
    silence
        Seconds without any word of the scheduler after which it is given up.
    """

    rank: int
    layout: Layout
    beside: frozenset[int]
    survives: bool
    silence: float

    @property
    def title(self) -> str:
        """Name of the rank."""
        return self.layout.title(self.rank)


class Member:
    """The protocol of a rank that is not the scheduler.

    Parameters
    ----------
    facts
        The job.

    Attributes
    ----------
    waits : Waits or None
        What is waited for; none while the rank is at work, and when its part is over.
    wake_at : float
        When it must be told the time, at the latest.
    window : float
        Seconds of the update window of the last plan that was heard; 0 before the first.
    troubled : bool
        Whether a rank died or was missed: MPI's own farewell may then wait for ever.
    """

    def __init__(self, facts: MemberFacts) -> None:
        self._facts = facts
        self.waits: Waits | None = None
        self.wake_at = math.inf
        self.window, self.troubled = 0.0, False
        self._next = Waits.PLAN
        self._suspects = False
        """Whether the scheduler has been silent for too long."""
        self._silent: tuple[int, ...] = ()
        """Ranks that do not answer when the run ends: MPI's farewell would wait for those of this host."""

    def wait(self, waits: Waits, now: float) -> list[MemberAction]:
        """Begin to wait.

        Parameters
        ----------
        waits
            What for; what was taken last decides what it may be.
        now
            Seconds, on the clock of `handle`.
        """
        if waits not in {self._next, Waits.DISMISSAL}:
            raise AssertionError(f"{self._facts.title} waits for {waits}, and is to wait for {self._next}")
        self.waits, self._suspects = waits, False
        self.wake_at = now + self._facts.silence
        return [Send(SCHEDULER, Ready(self._facts.title))] if waits is Waits.PLAN else []

    def handle(self, event: Event, now: float) -> list[MemberAction]:
        """Take an event, and return what is to be done, in this order."""
        if self.waits is None:
            return []
        match event:
            case Heard(rank, message):
                if rank == SCHEDULER:
                    self.wake_at, self._suspects = now + self._facts.silence, False
                return self._hear(rank, message, self.waits)
            case Died(rank) if rank == SCHEDULER:
                return self._leave(Lost("the scheduler is dead"))
            case Tick() if now >= self.wake_at + OVERSLEPT:  # this rank was stopped itself: a word may be on its way
                self.wake_at = now + GRACE
            case Tick() if now >= self.wake_at:
                return self._lose_patience(now)
        return []

    def _hear(self, rank: int, message: AnyMessage, waits: Waits) -> list[MemberAction]:
        if isinstance(message, AWAITED[waits]):
            return self._take(message)
        end: MemberAction
        match message:
            case Alive() | Gone():
                return []
            case Expelled(other):
                return [Expel(other, ())]
            case Plan() | Tally() | Settled() | Replan() if waits is Waits.DISMISSAL:
                return []  # on their way as this rank left the round
            case Over(code, troubled):
                self.troubled |= troubled
                end = Dismissed(code)
            case Halt(seconds):
                end = Lost(f"rank {rank} calls the survivors together", seconds=seconds)
            case Here():  # it knows already that the ranks below this one are dead
                end = Lost(f"rank {rank} expects rank {self._facts.rank} to lead")
            case _:
                expected = " or ".join(kind.__name__ for kind in AWAITED[waits])
                end = GiveUp(
                    "rank-silent", f"rank {self._facts.rank} expected a {expected} of the scheduler, found {message}"
                )
        return self._leave(end)

    def _take(self, message: AnyMessage) -> list[MemberAction]:
        match message:
            case Plan():
                self.window = message.window
                if not self._is_in(message):
                    return []
                self._next = Waits.END if message.last else Waits.TALLY
                self.troubled |= message.last and message.members.epoch > 0
                self._silent = message.expelled if self._facts.survives else ()
            case Tally():
                again = message.quorum_met and not (message.settled or message.certain)
                self._next = Waits.WORD if again else Waits.PLAN
            case Settled() | Replan():
                self._next = Waits.PLAN
            case Over():
                self.troubled |= message.troubled
                # not before: the end may have to be planned again, and who is merely slow is needed then
                return [*(Expel(rank, ()) for rank in self._silent), *self._leave(Take(message))]
        return self._leave(Take(message))

    def _is_in(self, plan: Plan) -> bool:
        """Whether this rank moves model bytes in a round."""
        return self._facts.rank in self._facts.layout.server_ranks or self._facts.rank in plan.members.workers

    def _lose_patience(self, now: float) -> list[MemberAction]:
        facts = self._facts
        if facts.survives and not self._suspects:
            # a rank beside it ends it; all others hear of that, a little later
            self._suspects = True
            self.wake_at = now + facts.silence
            return [Expel(SCHEDULER, ())] if SCHEDULER in facts.beside else []
        return self._leave(
            GiveUp(
                "rank-silent", f"rank {facts.rank} heard nothing of the scheduler for {facts.silence:.0f} s; resume the run"
            )
        )

    def _leave(self, action: MemberAction) -> list[MemberAction]:
        self.waits, self.wake_at = None, math.inf
        return [action]
