"""What every rank of a run knows, and the few things that all roles do alike."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from silofold import topology
from silofold.aggregation import uplink
from silofold.comm import waiting
from silofold.coordination import window
from silofold.core.elements import Elements
from silofold.errors import RequeueError
from silofold.messages import (
    Alive,
    AnyMessage,
    Expel,
    Gone,
    Halt,
    Here,
    Over,
    Plan,
    Ready,
    Regroup,
    Replan,
    Settled,
    SiloSummary,
    Tally,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Iterable

    from silofold.aggregation.uplink import Uplink
    from silofold.comm.world import World
    from silofold.config import Settings
    from silofold.data.silo import Manifest
    from silofold.messages import Members, Summary
    from silofold.protocols import Strategy
    from silofold.record.rundir import RunFolder

GRACE = 2.0
"""Seconds beyond a window for messages that were sent within it."""
LEAST_RANKS = 3
"""A scheduler, a server and a worker."""

M = TypeVar("M", bound=AnyMessage)


class RankLost(Exception):  # noqa: N818  (no fault of the run: the survivors go on from the newest checkpoint)
    """A server or the scheduler is gone.

    Parameters
    ----------
    story
        What happened.
    suspects
        Ranks that live but do not answer: nobody waits for them.
    seconds
        How long the rank that leads waits for the others, where it has said so.
    """

    def __init__(self, story: str, suspects: Iterable[int] = (), seconds: float = 0.0) -> None:
        super().__init__(story)
        self.suspects, self.seconds = frozenset(suspects), seconds


class RunOver(Exception):  # noqa: N818  (likewise)
    """The run has ended without this rank."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Job:
    """The facts of a run, the same on every rank.

    Attributes
    ----------
    settings
        The resolved settings.
    layout
        Roles of the ranks.
    data
        Manifest of the silo folder.
    folder
        The run folder.
    strategy
        How updates are combined; its weights and needs concern every role.
    start_round
        First round to play, from 1.
    counted
        Rounds before it that count.
    voids
        Void rounds in a row right before it.
    script
        The recorded rounds that a replay follows; empty otherwise.
    reach
        Ranks that see the file of each silo, where silos are to be near their files; none: all ranks see all.
    elements
        What the flat vector is made of.
    """

    settings: Settings
    layout: topology.Layout
    data: Manifest
    folder: RunFolder
    strategy: Strategy
    start_round: int = 1
    counted: int = 0
    voids: int = 0
    script: dict[int, Summary] = field(default_factory=dict)
    reach: tuple[frozenset[int], ...] | None = None
    elements: Elements = field(default_factory=Elements)

    @functools.cached_property
    def examples(self) -> list[int]:
        """Training examples of each silo."""
        return [silo.train.examples for silo in self.data.silos]

    @functools.cached_property
    def untold(self) -> list[SiloSummary]:
        """What a round's record says of each silo that had no part in it."""
        return [
            SiloSummary(
                silo=index,
                name=silo.name,
                accuracy=None,
                test_examples=silo.test.examples,
                train_examples=silo.train.examples,
                train_loss=None,
                reason="",
                failed=False,
            )
            for index, silo in enumerate(self.data.silos)
        ]

    @property
    def near(self) -> list[frozenset[int]] | None:
        """Workers that may host each silo, by their index; none: all of them."""
        if self.reach is None:
            return None
        workers = {rank: index for index, rank in enumerate(self.layout.worker_ranks)}
        return [frozenset(workers[rank] for rank in ranks if rank in workers) for ranks in self.reach]

    @functools.cached_property
    def uplink(self) -> Uplink:
        """How updates come up."""
        return uplink.decide(self.settings, self.strategy)

    @property
    def silence(self) -> float:
        """Seconds without any word of the scheduler after which it is given up."""
        return self.settings.rounds.start_window + GRACE

    @property
    def deals(self) -> bool:
        """Whether a cohort is dealt out anew each round, whoever hosts its silos.

        Silos are then read when they are needed, none is tied to its host, and no bit rests on who trains which.
        """
        return bool(self.settings.data.memory) and not self.settings.roles.near and self.uplink.any_order

    def hosted(self) -> dict[int, tuple[int, ...]]:
        """Spread the silos over the workers, as a run begins."""
        ranks = self.layout.worker_ranks
        return dict(zip(ranks, topology.assign_silos(self.examples, len(ranks), self.near), strict=True))

    def counts(self, tally: Tally) -> list[int] | None:
        """Count the updates that each contributing worker sends, or none where it sends one sum."""
        return None if self.uplink.sums else list(tally.counts)


class StopNow(Exception):  # noqa: N818  (the user asked for it)
    """The job is to end at once, in the middle of its round."""


def is_member(world: World, job: Job, members: Members) -> bool:
    """Whether this rank moves model bytes with these members."""
    return world.rank in job.layout.server_ranks or world.rank in members.workers


def prepare_end(world: World, plan: Plan) -> None:
    """Before the last step of a run: end the ranks of this host that stopped, and remember that MPI may wait for them."""
    world.troubled |= plan.members.epoch > 0
    for rank in plan.expelled if world.survives else ():
        world.end_rank(rank)


def await_plan(world: World, job: Job) -> Plan:
    """Tell the scheduler that this rank is ready, and wait for the next plan that it is a member of."""
    world.say(Ready(job.layout.title(world.rank)), topology.SCHEDULER)
    while True:
        plan = expect(world, job, Plan)
        world.window = plan.window
        if is_member(world, job, plan.members):
            if plan.last:
                prepare_end(world, plan)
            return plan


def await_word(world: World, job: Job, tally: Tally) -> Tally:
    """Wait for what follows an attempt to bring the updates together: the same tally, settled, or another one."""
    word = expect(world, job, (Tally, Settled))
    return word if isinstance(word, Tally) else tally.as_settled()


def is_over(world: World, job: Job) -> bool:
    """Wait for the run's last word; False if its end is planned again."""
    message = expect(world, job, (Over, Replan))
    world.troubled |= isinstance(message, Over) and message.troubled
    return isinstance(message, Over)


def expect(world: World, job: Job, kind: type[M] | tuple[type[M], ...]) -> M:
    """Wait for the scheduler's next message of the round, which must be of this kind.

    Raises
    ------
    RankLost
        The scheduler died or is silent, or it tells that a server did.
    RunOver
        The run has ended.
    RequeueError
        The scheduler is silent and cannot be ended from here, or says something else.
    """
    expelled = False
    while True:
        try:
            rank, message = world.hear(time.monotonic() + job.silence)
        except waiting.Timeout:
            if world.survives and not expelled and world.end_rank(topology.SCHEDULER):
                expelled = True
                continue
            raise RequeueError(
                "rank-silent", f"rank {world.rank} heard nothing of the scheduler for {job.silence:.0f} s; resume the run"
            ) from None
        if isinstance(message, kind):
            return message
        _heed(world, rank, message, kind)


def _heed(world: World, rank: int, message: AnyMessage, kind: type[M] | tuple[type[M], ...]) -> None:
    """Do what a message asks for that is not the awaited one."""
    match message:
        case Gone() if rank == topology.SCHEDULER:
            raise RankLost("the scheduler is dead")
        case Halt():
            raise RankLost(f"rank {rank} calls the survivors together", seconds=message.seconds)
        case Here():  # it knows already that the ranks below this one are dead
            raise RankLost(f"rank {rank} expects rank {world.rank} to lead")
        case Over():
            world.troubled |= message.troubled
            raise RunOver(message.exit_code)
        case Expel():
            world.end_rank(message.rank)
        case Gone() | Alive():
            pass
        case _:
            expected = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
            raise RequeueError("rank-silent", f"rank {world.rank} expected a {expected} of the scheduler, found {message}")


def regroup(world: World, job: Job, loss: RankLost) -> Regroup:
    """Find out which ranks are still there and end those of this host that are not; every survivor calls this.

    The lowest living rank leads. Roles come in their order: a server that is left stays a server unless it must schedule.

    Parameters
    ----------
    world
        The ranks.
    job
        The run.
    loss
        What happened.

    Raises
    ------
    RequeueError
        Too few are left, or nobody leads.
    """
    waited = world.window or window.first(job.settings.rounds.update_window)
    seconds = waited + job.settings.rounds.start_window + GRACE  # a worker may be in the middle of its training
    order: Regroup | None = None
    while order is None:
        leader = world.living[0]
        if world.rank == leader:
            order = _call_together(world, loss.suspects, seconds)
        else:
            order = _hear_leader(world, leader, max(seconds, loss.seconds) + 2 * GRACE)
    for rank in order.expelled:
        world.end_rank(rank)
    return order


def _hear_leader(world: World, leader: int, seconds: float) -> Regroup | None:
    """Tell the leader that this rank is there, and return what it says; nothing if it dies."""
    world.say(Here(), leader)
    while True:
        try:
            rank, message = world.hear(time.monotonic() + seconds)
        except waiting.Timeout:
            raise RequeueError(
                "rank-silent", f"rank {world.rank} heard nothing of rank {leader}, which leads now; resume the run"
            ) from None
        if isinstance(message, Regroup):
            return message
        if isinstance(message, Halt):  # the leader had not begun to listen when this rank spoke
            world.say(Here(), leader)
            seconds = max(seconds, message.seconds + 2 * GRACE)  # its last plan may be a later one
        if isinstance(message, Gone) and rank == leader:
            return None


def _call_together(world: World, suspects: frozenset[int], seconds: float) -> Regroup:
    """Call every living rank, wait for the answers, and tell those that answered who goes on."""
    there = {world.rank}
    for rank in suspects:
        world.end_rank(rank)
    for rank in set(world.living[1:]) - suspects:
        world.say(Halt(seconds), rank)
    deadline = time.monotonic() + seconds
    while not there >= set(world.living) - suspects:
        try:
            rank, message = world.hear(deadline)
        except waiting.Timeout:
            break
        if isinstance(message, Here):
            there.add(rank)
    there &= set(world.living)
    if len(there) < LEAST_RANKS:
        raise RequeueError("rank-lost", f"{len(there)} ranks are left, expected at least {LEAST_RANKS}; resume the run")
    order = Regroup(tuple(sorted(there)), tuple(sorted(set(world.living) - there)))
    for rank in sorted(there - {world.rank}):
        world.say(order, rank)
    return order
