"""What the coordinator knows of a job before its first event."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from silofold.config import Rounds
    from silofold.coordination.window import Lap
    from silofold.messages import Members, StateOf
    from silofold.topology import Layout

GRACE = 2.0
"""Seconds beyond a window for messages that were sent within it."""
OVERSLEPT = 1.0
"""Seconds after which a rank that is told the time too late was stopped itself: what it waits for may be on its way."""
BEAT = 0.25
"""Share of the start window after which every rank hears that the scheduler is alive."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is there: its round, and the sha256 of each of its files."""

    round: int = 0
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """The job as the coordinator sees it.

    Attributes
    ----------
    layout
        Roles of the ranks.
    nodes
        Node of each rank.
    rounds
        Windows, quorums and limits.
    examples
        Training examples of each silo.
    hosted
        Silos of each worker as the run begins.
    elements
        Length of the model's vector.
    survives
        Whether the survivors of a rank's death can go on.
    tied
        Whether silos cannot move to another worker, since their files are not there.
    keeps_state
        Whether silos keep a state from one of their rounds to the next.
    deals
        Whether a cohort is dealt out anew each round, whoever hosts its silos.
    foresees
        Whether workers read silos when they need them, so that the next round's are told ahead.
    weight
        The strategy's weight for a number of examples.
    draw
        Draws the cohort of a round, by its number, among silos that are ready.
    certain
        Whether the sums of these members cannot fail on their way.
    gathers
        Whether servers receive each silo's update, and not a sum.
    script
        Of a replay: round → accepted silos, and whether it was void.
    start_round, counted, voids
        Where the rounds begin.
    failures
        Failures in a row of each silo so far.
    saved
        The checkpoint that the run goes on from.
    states
        What each silo keeps as the rounds begin.
    laps
        How long the rounds before it took to report.
    evaluation
        Test images of all silos, as a number of training examples in a round.
    """

    layout: Layout
    nodes: Sequence[str]
    rounds: Rounds
    examples: Sequence[int]
    hosted: Mapping[int, tuple[int, ...]]
    elements: int
    survives: bool
    tied: bool
    keeps_state: bool
    deals: bool
    foresees: bool
    weight: Callable[[int], int]
    draw: Callable[[list[int], int], list[int]]
    certain: Callable[[Members], bool]
    gathers: bool
    script: Mapping[int, tuple[list[int], bool]]
    start_round: int = 1
    counted: int = 0
    voids: int = 0
    failures: Mapping[int, int] = field(default_factory=dict)
    saved: Saved | None = None
    states: Mapping[int, StateOf] = field(default_factory=dict)
    laps: tuple[Lap, ...] = ()
    evaluation: float = 0.0

    @functools.cached_property
    def weights(self) -> tuple[int, ...]:
        """Weight of each silo's update."""
        return tuple(map(self.weight, self.examples))
