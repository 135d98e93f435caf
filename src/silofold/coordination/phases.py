"""The phases of the coordinator: an attribute exists only in the phase in which it has a meaning."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from silofold.coordination.events import Asked, Died, Heard, Tick
from silofold.core.messages import Applied, Evaluation, Moved, Ready, Reports, Saved

if TYPE_CHECKING:
    from silofold.coordination.events import Event
    from silofold.coordination.quorum import Verdict
    from silofold.core.messages import Plan, Tally


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
    dealt: dict[int, int]
    """Worker that was to train each silo."""
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
    arrived: dict[int, float] = field(default_factory=dict)
    """When each worker's report came."""
    timed_out: bool = False
    """Whether a report was still awaited as the window ended."""
    evaluated: bool = False
    """Whether all that will be heard of the arriving model's evaluation has been told."""

    @classmethod
    def begin(cls, plan: Plan, cohort: tuple[int, ...], dealt: dict[int, int], now: float) -> Underway:
        """Wait for all of the plan's workers."""
        workers = plan.members.workers
        return cls(plan, cohort, now, dealt, unevaluated=set(workers), unreported=set(workers))

    def hear_evaluation(self, rank: int, evaluation: Evaluation) -> None:
        """Take a worker's evaluation."""
        self.evaluations[rank] = evaluation
        self.unevaluated.discard(rank)

    def hear_reports(self, rank: int, reports: Reports) -> None:
        """Take a worker's reports."""
        self.reports[rank] = reports
        self.unreported.discard(rank)
        self.finished += sum([report.finished for report in reports.reports])

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
    silos: dict[int, tuple[int, ...]]
    """Accepted silos of each member worker."""
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


class Transition(NamedTuple):
    """A way from one phase to the next."""

    source: type[Phase]
    event: type
    """Kind of the event that is taken last: a message, a death, a wish, or time alone (`Tick`)."""
    target: type[Phase]
    meaning: str


TRANSITIONS = (
    Transition(Gathering, Ready, Training, "all are ready"),
    Transition(Gathering, Died, Training, "all who live are ready"),
    Transition(Gathering, Tick, Training, "enough are ready"),
    Transition(Gathering, Ready, Gathering, "too few silos: a late rank gets its last chance"),
    Transition(Gathering, Died, Gathering, "too few silos: a late rank gets its last chance"),
    Transition(Gathering, Tick, Gathering, "too few silos: a late rank gets its last chance"),
    Transition(Gathering, Ready, Evaluating, "all are ready, and it is the end"),
    Transition(Gathering, Died, Evaluating, "all who live are ready, and it is the end"),
    Transition(Gathering, Tick, Evaluating, "enough are ready, and it is the end"),
    Transition(Gathering, Ready, Closed, "too few silos"),
    Transition(Gathering, Died, Closed, "a server is lost"),
    Transition(Gathering, Tick, Closed, "too few silos, or a server does not answer"),
    Transition(Gathering, Asked, Closed, "stop now"),
    Transition(Training, Reports, Reducing, "all have reported, or enough have"),
    Transition(Training, Died, Reducing, "all who live have reported"),
    Transition(Training, Tick, Reducing, "the window is over"),
    Transition(Training, Reports, Applying, "all have reported, and nothing has to be sent"),
    Transition(Training, Died, Applying, "all who live have reported, and nothing has to be sent"),
    Transition(Training, Tick, Applying, "the window is over, and nothing has to be sent"),
    Transition(Training, Reports, Gathering, "the round is void"),
    Transition(Training, Died, Gathering, "the round is void"),
    Transition(Training, Tick, Gathering, "the window is over, and the round is void"),
    Transition(Training, Reports, Closed, "too many void rounds in a row"),
    Transition(Training, Died, Closed, "a server is lost, or too many void rounds in a row"),
    Transition(Training, Tick, Closed, "too many void rounds in a row"),
    Transition(Training, Asked, Closed, "stop now"),
    Transition(Reducing, Moved, Applying, "every server has its sum"),
    Transition(Reducing, Moved, Reducing, "a member was lost: tallied again"),
    Transition(Reducing, Died, Reducing, "a member was lost: tallied again"),
    Transition(Reducing, Tick, Reducing, "a member is silent: tallied again"),
    Transition(Reducing, Moved, Gathering, "without a lost member the round is void, or a sum is unsound"),
    Transition(Reducing, Died, Gathering, "without a lost member the round is void"),
    Transition(Reducing, Tick, Gathering, "without a silent member the round is void"),
    Transition(Reducing, Moved, Closed, "too many void rounds in a row"),
    Transition(Reducing, Died, Closed, "a server is lost, or too many void rounds in a row"),
    Transition(Reducing, Tick, Closed, "a server does not answer, or too many void rounds in a row"),
    Transition(Reducing, Asked, Closed, "stop now"),
    Transition(Applying, Applied, Gathering, "every shard has moved"),
    Transition(Applying, Applied, Closed, "the model is not finite"),
    Transition(Applying, Died, Closed, "a server is lost"),
    Transition(Applying, Tick, Closed, "a server does not answer"),
    Transition(Applying, Asked, Closed, "stop now"),
    Transition(Evaluating, Evaluation, Closed, "the last model is evaluated and saved"),
    Transition(Evaluating, Saved, Closed, "the last model is evaluated and saved"),
    Transition(Evaluating, Evaluation, Gathering, "a worker was lost: the end is planned again"),
    Transition(Evaluating, Died, Gathering, "a worker is lost: the end is planned again"),
    Transition(Evaluating, Tick, Gathering, "a worker is silent: the end is planned again"),
    Transition(Evaluating, Died, Closed, "a server is lost"),
    Transition(Evaluating, Tick, Closed, "the last model was not saved in time"),
    Transition(Evaluating, Asked, Closed, "stop now"),
)
"""Every way from phase to phase; an event that leaves the phase as it is stands nowhere."""


def kind_of(event: Event) -> type:
    """Return the kind by which `TRANSITIONS` names an event."""
    return type(event.message) if isinstance(event, Heard) else type(event)
