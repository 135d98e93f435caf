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
    cohort: tuple[int, ...]
    began: float
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    reports: dict[int, Reports] = field(default_factory=dict)
    unevaluated: set[int] = field(default_factory=set)
    """Living workers of the plan that have not told how the arriving model does. With each message one less: a message of
    ten thousand workers takes no longer than one of ten."""
    unreported: set[int] = field(default_factory=set)
    """Likewise, those that have not reported."""
    lost_evaluation: bool = False
    """Whether a worker of the plan died before it told how the arriving model does."""
    lost_report: bool = False
    """Likewise, or its report went with it."""
    finished: int = 0
    """Silos whose updates were finished in what has been reported."""
    evaluated: bool = False
    """Whether all that will be heard of the arriving model's evaluation has been told."""

    @classmethod
    def begin(cls, plan: Plan, cohort: tuple[int, ...], now: float) -> Underway:
        """Wait for all of the plan's workers."""
        workers = plan.members.workers
        return cls(plan, cohort, now, unevaluated=set(workers), unreported=set(workers))

    def hear_evaluation(self, rank: int, evaluation: Evaluation) -> None:
        """Take a worker's evaluation."""
        self.evaluations[rank] = evaluation
        self.unevaluated.discard(rank)

    def hear_reports(self, rank: int, reports: Reports) -> None:
        """Take a worker's reports."""
        self.reports[rank] = reports
        self.unreported.discard(rank)
        self.finished += sum(report.finished for report in reports.reports)

    def remove_dead(self, rank: int, *, training: bool) -> None:
        """Wait for a dead worker no longer; while others still train, its reports go, and its sum with them."""
        self.lost_evaluation |= rank in self.unevaluated
        self.unevaluated.discard(rank)
        if not training:
            return
        known = self.reports.pop(rank, None)
        self.lost_report |= known is not None or rank in self.unreported
        self.unreported.discard(rank)
        self.finished -= sum(report.finished for report in known.reports) if known else 0


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
    silent: set[int]
    """Living members of which nothing has been heard."""
    lacking: set[int]
    """Servers that have not told that they have their sum."""
    words: dict[int, Moved] = field(default_factory=dict)
    broken: bool = False
    grace: bool = False
    """Whether something broke, and a server's word that is on its way still counts."""

    def hear(self, rank: int, word: Moved) -> None:
        """Take what a member tells of its part."""
        self.words[rank] = word
        self.silent.discard(rank)
        self.broken |= bool(word.broken)
        if not word.broken:
            self.lacking.discard(rank)


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
WITH_ROUND = (Training, Reducing, Applying, Evaluating)
"""Those in which a round is under way."""
