"""What every rank of a run knows, and the few things that all roles do alike."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from silofold import topology
from silofold.aggregation import uplink
from silofold.core.elements import Elements
from silofold.messages import (
    SiloSummary,
    Tally,
)  # fmt: skip

if TYPE_CHECKING:
    from silofold.aggregation.uplink import Uplink
    from silofold.config import Settings
    from silofold.data.silo import Manifest
    from silofold.messages import Summary
    from silofold.protocols import Strategy
    from silofold.record.rundir import RunFolder


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
