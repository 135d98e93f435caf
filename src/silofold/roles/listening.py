"""How a rank that is told what to do waits for it: it hears, hands on to its machine, and does what that says."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from silofold.comm import waiting
from silofold.coordination import events, window
from silofold.coordination.events import Dismissed, Expel, GiveUp, Lost, Regrouped, Send, Take
from silofold.coordination.facts import GRACE
from silofold.coordination.member import Member, MemberFacts, Waits
from silofold.coordination.recovery import Recovery
from silofold.errors import RequeueError
from silofold.messages import AnyMessage, Gone, Over, Plan, Replan, Settled, Tally

if TYPE_CHECKING:
    from silofold.comm.world import World
    from silofold.coordination.events import Event, MemberAction
    from silofold.messages import Regroup
    from silofold.roles.job import Job

M = TypeVar("M", bound=AnyMessage)


class RankLost(Exception):  # noqa: N818  (no fault of the run: the survivors go on from the newest checkpoint)
    """A server or the scheduler is gone."""

    def __init__(self, loss: Lost) -> None:
        super().__init__(loss.story)
        self.loss = loss


class RunOver(Exception):  # noqa: N818  (likewise)
    """The run has ended without this rank."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class Listener:
    """What a server or a worker hears of the scheduler.

    Parameters
    ----------
    world
        The ranks.
    job
        The run.
    """

    def __init__(self, world: World, job: Job) -> None:
        host = world.places[world.rank][0]
        beside = frozenset(rank for rank, (place, _) in enumerate(world.places) if place == host)
        self._world = world
        self._member = Member(
            MemberFacts(world.rank, job.layout, beside, world.survives, job.settings.rounds.start_window + GRACE)
        )

    def plan(self) -> Plan:
        """Say ready, and wait for the next plan that this rank is a member of."""
        return self._wait(Waits.PLAN, Plan)

    def tally(self) -> Tally:
        """Wait for what counts of the round."""
        return self._wait(Waits.TALLY, Tally)

    def word(self, tally: Tally) -> Tally:
        """Wait for what follows an attempt to bring the updates together: the same tally, settled, or another one."""
        word = self._wait(Waits.WORD, (Tally, Settled))
        return word if isinstance(word, Tally) else tally.as_settled()

    def is_over(self) -> bool:
        """Wait for the run's last word; False if its end is planned again."""
        return isinstance(self._wait(Waits.END, (Over, Replan)), Over)

    def dismissal(self) -> int:
        """Wait for the end of a job that a fault of this rank has brought about, and return the exit code."""
        return self._wait(Waits.DISMISSAL, Over).exit_code

    def _wait(self, waits: Waits, kind: type[M] | tuple[type[M], ...]) -> M:
        """Wait for a message of this kind.

        Raises
        ------
        RankLost
            The scheduler died or is silent, or it tells that a server did.
        RunOver
            The run has ended.
        RequeueError
            The scheduler is silent and cannot be ended from here, or says something else.
        """
        member, world = self._member, self._world
        actions = member.wait(waits, time.monotonic())
        while not (taken := perform(world, actions)):
            event = next_event(world, member.wake_at)
            actions = member.handle(event, time.monotonic())
            world.window, world.troubled = member.window or world.window, world.troubled or member.troubled
        match taken:
            case Take(message) if isinstance(message, kind):
                return message
            case Lost():
                raise RankLost(taken)
            case Dismissed(code):
                raise RunOver(code)
        raise AssertionError


def next_event(world: World, deadline: float) -> Event:
    """Wait for a message, the news of a death, or the time."""
    try:
        rank, message = world.hear(deadline)
    except waiting.Timeout:
        return events.Tick()
    return events.Died(rank) if isinstance(message, Gone) else events.Heard(rank, message)


def perform(world: World, actions: list[MemberAction]) -> Take | Lost | Dismissed | Regrouped | None:
    """Do what a machine says, and return what its rank goes on with.

    Raises
    ------
    RequeueError
        The job must end.
    """
    for action in actions:
        match action:
            case Send(to, message):
                world.say(message, to)
            case Expel(rank):
                world.end_rank(rank)
            case GiveUp(error, story):
                raise RequeueError(error, story)
            case _:
                return action
    return None


def regroup(world: World, job: Job, loss: Lost) -> Regroup:
    """Find out which ranks are still there and end those of this host that are not; every survivor calls this.

    Raises
    ------
    RequeueError
        Too few are left, or nobody leads.
    """
    rounds = job.settings.rounds
    waited = world.window or window.first(rounds.update_window)
    recovery = Recovery(world.rank, world.living, loss, waited + rounds.start_window + GRACE)
    actions = recovery.begin(time.monotonic())
    while not (found := perform(world, actions)):
        actions = recovery.handle(next_event(world, recovery.wake_at), time.monotonic())
    if not isinstance(found, Regrouped):
        raise AssertionError  # noqa: TRY004  (no fault of a type: a machine says what it must not)
    return found.order
