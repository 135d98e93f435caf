"""What the coordinator and the members hear of, and what they want done."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from silofold.coordination.quorum import Verdict
    from silofold.messages import AnyMessage, Applied, Evaluation, Plan, Regroup, Reports, StateOf, Tally


@dataclass(frozen=True)
class Heard:
    """A message of a rank has arrived."""

    rank: int
    message: AnyMessage


@dataclass(frozen=True)
class Died:
    """A rank is dead."""

    rank: int


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True)
class Asked:
    """The user asks for something."""

    stop: Literal["", "round", "now"] = ""
    scale: int = 0


@dataclass(frozen=True)
class TimeIsShort:
    """The allocation ends before another round would be over."""

    story: str


Event: TypeAlias = Heard | Died | Tick | Asked | TimeIsShort


class EndKind(enum.Enum):
    """How the coordinator's work ends."""

    OVER = "over"
    """The run has ended as planned: done, stopped or saved."""
    LOST = "lost"
    """Servers are gone: the survivors go on from the newest checkpoint."""
    RESUMABLE = "resumable"
    VOID = "void"
    """Too many void rounds in a row; the verdicts say why."""
    NOT_FINITE = "not finite"
    """The global model holds numbers that are not finite."""
    STOP_NOW = "stop now"


@dataclass(frozen=True)
class Send:
    """Send a message to a rank."""

    to: int
    message: AnyMessage


@dataclass(frozen=True)
class Expel:
    """End a rank that has missed too many windows; `neighbour` can do so where it runs on another host."""

    rank: int
    neighbours: tuple[int, ...]


@dataclass(frozen=True)
class Warn:
    """Tell the user."""

    text: str


@dataclass(frozen=True)
class Opened:
    """A round, or the end, has been planned."""

    plan: Plan
    cohort: tuple[int, ...]
    """Silos that are asked to train, ascending."""


@dataclass(frozen=True)
class Tallied:
    """What counts of a round was decided, or decided again."""

    tally: Tally
    verdict: Verdict


@dataclass(frozen=True)
class Evaluated:
    """All that will be heard of how the model of the round before does has been heard."""

    evaluations: dict[int, Evaluation]


@dataclass(frozen=True)
class RoundClosed:
    """A round is over."""

    plan: Plan
    cohort: tuple[int, ...]
    tally: Tally
    verdict: Verdict
    reports: dict[int, Reports]
    evaluations: dict[int, Evaluation]
    applied: dict[int, Applied]
    dealt: dict[int, int]
    """Worker that was to train each silo."""
    dead: frozenset[int]
    """Those of these workers that have died."""
    began: float
    tallied: float
    last_report: float | None
    """Seconds from the plan to the last report that was accepted; none if none was."""
    timed_out: bool
    """Whether the window closed it, or cut a worker's training short."""


@dataclass(frozen=True)
class CommitCheckpoint:
    """Every part of a checkpoint is on disk and its round is on record."""

    round: int
    counted: int
    voids: int
    model_sha256: str
    files: dict[str, str]
    """sha256 of each file."""
    states: dict[int, StateOf]
    """What each silo keeps."""
    seconds: float
    """Of the slowest rank."""


@dataclass(frozen=True)
class Again:
    """The end was planned, and somebody was lost before it was over: it is planned anew."""


@dataclass(frozen=True)
class Finished:
    """Nothing more is to be done."""

    kind: EndKind
    error: str = ""
    """Id of the error, where it is one."""
    why: str = ""
    code: int = 0
    suspects: tuple[int, ...] = ()
    """Ranks that live but do not answer."""
    silent: tuple[int, ...] = ()
    """Living ranks that were late when the run ended."""


Action: TypeAlias = (
    Send | Expel | Warn | Opened | Tallied | Evaluated | RoundClosed | CommitCheckpoint | Again | Finished
)  # fmt: skip


@dataclass(frozen=True)
class Take:
    """What a member waits for is here: it goes on."""

    message: AnyMessage


@dataclass(frozen=True)
class Lost:
    """The job cannot go on in its present shape: its survivors find each other."""

    story: str
    suspects: tuple[int, ...] = ()
    """Ranks that live but do not answer: nobody waits for them."""
    seconds: float = 0.0
    """How long the rank that leads waits for the others, where it has said so."""


@dataclass(frozen=True)
class Dismissed:
    """The run has ended without this rank."""

    code: int


@dataclass(frozen=True)
class GiveUp:
    """The job must end, and can be resumed."""

    error: str
    """Id of the error."""
    story: str


@dataclass(frozen=True)
class Regrouped:
    """The survivors have found each other."""

    order: Regroup


MemberAction: TypeAlias = Send | Expel | Take | Lost | Dismissed | GiveUp | Regrouped
