"""What every rank of a run knows, and the few things that all roles do alike."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from silofold import topology
from silofold.comm import waiting
from silofold.errors import RequeueError
from silofold.messages import AnyMessage, Plan, Ready

if TYPE_CHECKING:
    from silofold.comm.world import World
    from silofold.config import Settings
    from silofold.data.silo import Manifest
    from silofold.messages import Summary, Tally
    from silofold.protocols import Strategy
    from silofold.record.rundir import RunFolder

GRACE = 2.0
"""Seconds beyond a window for messages that were sent within it."""

M = TypeVar("M", bound=AnyMessage)


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

    @property
    def examples(self) -> list[int]:
        """Training examples of each silo."""
        return [silo.train.examples for silo in self.data.silos]

    @property
    def hosted(self) -> list[tuple[int, ...]]:
        """Silos of each worker."""
        return topology.assign_silos(self.examples, len(self.layout.worker_ranks))

    def counts(self, tally: Tally) -> list[int] | None:
        """Count the updates that each contributing worker sends, or none where it sends one sum."""
        if self.strategy.needs == "sum":
            return None
        accepted = set(tally.accepted)
        mine = dict(zip(self.layout.worker_ranks, self.hosted, strict=True))
        return [sum(silo in accepted for silo in mine[rank]) for rank in tally.workers]


def await_plan(world: World, job: Job) -> Plan:
    """Tell the scheduler that this rank is ready, and wait for the plan of the next round."""
    world.say(Ready(job.layout.title(world.rank)), topology.SCHEDULER)
    rounds = job.settings.rounds
    return expect(world, Plan, rounds.update_window + 2 * rounds.start_window + GRACE)


def expect(world: World, kind: type[M], seconds: float) -> M:
    """Wait for the scheduler's next message, which must be of this kind.

    Raises
    ------
    RequeueError
        It has not come within so many seconds: the scheduler is gone.
    """
    try:
        _, message = world.hear(time.monotonic() + seconds)
    except waiting.Timeout:
        raise RequeueError(
            f"rank {world.rank} waited {seconds:.0f} s for the scheduler's {kind.__name__.lower()}; resume the run"
        ) from None
    if not isinstance(message, kind):
        raise RequeueError(f"rank {world.rank} expected a {kind.__name__} of the scheduler, found {message}")
    return message
