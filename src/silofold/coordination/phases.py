"""The phases of the coordinator: an attribute exists only in the phase in which it has a meaning."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from silofold.coordination.quorum import Verdict
    from silofold.messages import Applied, Evaluation, Moved, Plan, Reports, Tally


@dataclass
class Gathering:
    """Waiting for ranks that are ready for the next round."""

    deadline: float
    second: bool = False
    """Whether late ranks get their last chance."""


@dataclass
class Underway:
    """What is known of the round under way."""

    plan: Plan
    began: float
    dealt: dict[int, int]
    """Worker that was to train each silo."""
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    reports: dict[int, Reports] = field(default_factory=dict)
    arrived: dict[int, float] = field(default_factory=dict)
    """When each worker's report came."""
    timed_out: bool = False
    """Whether a report was still awaited as the window ended."""
    evaluated: bool = False
    """Whether all that will be heard of the arriving model's evaluation has been told."""


@dataclass
class Training:
    """Waiting for reports."""

    round: Underway
    deadline: float


@dataclass
class Reducing:
    """Waiting until every server has its sum."""

    round: Underway
    tally: Tally
    verdict: Verdict
    tallied: float
    deadline: float
    words: dict[int, Moved] = field(default_factory=dict)
    grace: bool = False
    """Whether something broke, and a server's word that is on its way still counts."""


@dataclass
class Applying:
    """Waiting until every server has moved its shard."""

    round: Underway
    tally: Tally
    verdict: Verdict
    tallied: float
    deadline: float
    applied: dict[int, Applied] = field(default_factory=dict)


@dataclass
class Evaluating:
    """Waiting for the evaluation of the last model, and for its checkpoint."""

    round: Underway
    deadline: float


@dataclass
class Closed:
    """Nothing is waited for."""

    deadline: float = math.inf


Phase: TypeAlias = Gathering | Training | Reducing | Applying | Evaluating | Closed
