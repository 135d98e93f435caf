"""All that is small and crosses ranks: plan, evaluation, reports, tally, moved, applied, saved, and what follows a loss.

Each message is a typed struct, encoded as MessagePack with its types checked on arrival; nothing is pickled. Model bytes
never travel this way. `Summary` is the line a round leaves in the run's record.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import math
from typing import TYPE_CHECKING, TypeAlias, get_args

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable


class Cause(enum.Enum):
    """Why a silo's update does not count: what follows from it is decided by this, and never by the words beside it."""

    NONE = ""
    LATE = "late"
    """No report, or no time left."""
    DEAD = "dead"
    """The worker that was to train it died."""
    ABSENT = "absent"
    """The global model did not arrive."""
    DATA = "data"
    """The silo's file cannot be read."""
    MEMORY = "memory"
    """The machine's memory was full."""
    RAISED = "raised"
    """The model raised."""
    DIVERGED = "diverged"
    """Loss or update is not finite, or out of range."""
    FALSE = "false"
    """A report that cannot be true, or one that came in one sum with such a report."""

    @property
    def of_the_silo(self) -> bool:
        """Whether the silo's own data or model is at fault, and not the rank it runs on."""
        return self in {Cause.DATA, Cause.MEMORY, Cause.RAISED, Cause.DIVERGED}


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """What one rank tells another; small, typed, without model bytes. A tree: the garbage collector need not look at it."""


class Ready(Message, frozen=True):
    """A rank tells the scheduler that it can start a round."""

    title: str


class Members(msgspec.Struct, frozen=True, array_like=True, dict=True):
    """Who moves model bytes together: the servers and these workers."""

    spans: tuple[tuple[int, int], ...]
    """The workers' ranks, ascending, as ranges: the first rank of each, and the one after its last. Ten thousand ranks in a
    row are two numbers; whatever is told to each rank must not list all of them."""
    epoch: int
    """Grows when a collective broke or a member was missing: communicators of an earlier epoch are not used again."""
    losses: int
    """Ranks of the job that have died: some MPI libraries then need another way to make communicators."""

    @classmethod
    def of(cls, workers: Iterable[int], epoch: int, losses: int) -> Members:
        """Make it of the workers' ranks, ascending."""
        spans: list[tuple[int, int]] = []
        for rank in workers:
            if spans and spans[-1][1] == rank:
                spans[-1] = spans[-1][0], rank + 1
            else:
                spans.append((rank, rank + 1))
        return cls(tuple(spans), epoch, losses)

    @functools.cached_property
    def workers(self) -> tuple[int, ...]:
        """The workers' ranks, ascending."""
        return tuple(rank for first, end in self.spans for rank in range(first, end))


class Plan(Message, frozen=True):
    """The scheduler tells servers and workers what the round is."""

    round: int
    """Number of the round, from 1, void rounds included; one past the last round in the closing plan."""
    members: Members
    """Who receives the model. A rank that is told of a plan and is no member stays ready for the next one."""
    hosted: tuple[int, ...]
    """Silos that the receiver of this message hosts, ascending."""
    dealt: tuple[int, ...]
    """Silos of the cohort that the receiver of this message trains, ascending."""
    upcoming: tuple[int, ...]
    """Those that it will train in the next round, if no rank is lost or late: where silos are read when they are needed, the
    first of them is read while this round's last one trains."""
    states: tuple[int, ...]
    """Where silos keep a state, the round in which that of each of `dealt` was written; 0: it has none yet."""
    total_weight: int
    """Sum of the weights of the whole cohort: the bound of the exact sum rests on it."""
    window: float
    """Seconds from now in which reports are accepted."""
    evaluate: bool
    """Whether the arriving model (of the round before) is evaluated."""
    checkpoint: bool
    """Whether the arriving model is written as a checkpoint."""
    last: bool
    """Whether the run ends once the model has arrived and been evaluated: nothing is trained."""
    exit_code: int = 0
    """With which the run then ends."""
    expelled: tuple[int, ...] = ()
    """Ranks that live and do not answer when the run ends: once it is over, those on the receiver's host are ended by it."""


class Score(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Evaluation of one silo's test split."""

    silo: int
    examples: int
    correct: int
    loss_sum: float
    unanswered: int = 0
    """Images for which the model gave no finite logit."""

    @property
    def lacks(self) -> str:
        """Say on which images there is no evaluation; empty if there is one on all."""
        count = f"no finite logit for {self.unanswered} of {self.examples} images, which count as wrong"
        return count if self.unanswered else ""


class Unscored(msgspec.Struct, frozen=True, array_like=True):
    """A silo whose test split could not be evaluated."""

    silo: int
    cause: Cause
    reason: str


class Evaluation(Message, frozen=True):
    """A worker tells how the arriving model does on the test splits of all its silos."""

    round: int
    """The plan's round; the model is that of the round before."""
    model_sha256: str
    """Digest of the arriving vector, from the first worker of the plan; empty from the others."""
    seconds: float
    broadcast_seconds: float
    scores: tuple[Score, ...]
    unscored: tuple[Unscored, ...] = ()
    arrived: bool = True
    """Whether the model arrived at all."""


class Report(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a silo returns before its update moves."""

    silo: int
    examples: int
    """Training examples of the silo: the weight of its update."""
    steps: int
    seen: int
    """Examples that the steps covered; `loss_sum` and `correct` are over these."""
    loss_sum: float
    correct: int
    seconds: float
    finished: bool
    elements: int
    """Length of the update that it would add."""
    reason: str = ""
    """Why it is not finished."""
    cause: Cause = Cause.NONE
    """The same as a word that decisions rest on."""
    raised: str = ""
    """Class and place of the exception that the model raised: the same exception again has the same."""
    state: str = ""
    """Digest of the state that the silo keeps if its update counts; empty where it keeps none."""


class Reports(Message, frozen=True):
    """A worker's reports of a round."""

    round: int
    seconds: float
    """Seconds from the end of the evaluation to the last silo's end."""
    reports: tuple[Report, ...]


class StateOf(msgspec.Struct, frozen=True, array_like=True):
    """What a silo keeps: the round that it is of, and the sha256 of what it holds."""

    round: int
    sha256: str


class Tally(Message, frozen=True):
    """The scheduler tells whose updates count, and for how much."""

    round: int
    attempt: int
    """From 1; grows when the reduction broke and is tried again without those who are gone."""
    members: Members
    """Who takes part in the reduction."""
    silos: tuple[int, ...]
    """Accepted silos that concern the receiver: a worker's own, ascending; on a server that receives each update all of
    them, worker by worker."""
    counts: tuple[int, ...]
    """Told to a server that receives each update: how many come of each member worker."""
    weights: tuple[int, ...]
    """Told to servers: the weight of each accepted silo, in ascending order of the silos."""
    quorum_met: bool
    """Below quorum the round is void: no update moves and the model stands."""
    settled: bool = False
    """Whether every server has its sum: now, and not before, the shards move. Never sent: `Settled` tells it."""
    certain: bool = False
    """Whether nothing can break on the way, since nothing is sent: each rank then takes it for settled by itself."""

    def as_settled(self) -> Tally:
        """Return the same tally, settled."""
        return msgspec.structs.replace(self, settled=True)


class Settled(Message, frozen=True):
    """The scheduler tells that every server has the sum of the last tally: the shards move."""

    round: int
    attempt: int


class Moved(Message, frozen=True):
    """A member tells that its part of a reduction is over."""

    round: int
    attempt: int
    broken: str = ""
    """What broke; empty if the bytes have moved."""
    unsound: str = ""
    """What is wrong with what has arrived on a server."""


class Applied(Message, frozen=True):
    """A server tells that its shard has taken the round's update."""

    round: int
    shard: int
    sha256: str
    """Digest of the slice after the round."""
    reduce_seconds: float
    apply_seconds: float
    finite: bool = True
    """Whether every element of it is a finite number."""


class SavedFile(msgspec.Struct, frozen=True, array_like=True):
    """One file of a checkpoint."""

    file: str
    sha256: str


class Saved(Message, frozen=True):
    """A rank tells that its part of a checkpoint is on disk."""

    round: int
    """Round whose result was saved."""
    title: str
    files: tuple[SavedFile, ...]
    seconds: float


class Alive(Message, frozen=True):
    """The scheduler tells a rank that waits that it is still there."""


class Halt(Message, frozen=True):
    """The lowest living rank tells that a server or the scheduler is lost: leave the round and say `Here`."""

    seconds: float = 0.0
    """How long it waits for the ranks that it has called."""


class Here(Message, frozen=True):
    """A rank answers the lowest living rank that it is there to go on."""


class Regroup(Message, frozen=True):
    """The lowest living rank tells who goes on, in the order of their new ranks."""

    ranks: tuple[int, ...]
    expelled: tuple[int, ...]
    """Ranks that did not answer: those that live on the receiver's host are ended by it."""


class Expel(Message, frozen=True):
    """The scheduler asks a rank to end another one on its own host that has been late for too long."""

    rank: int


class Over(Message, frozen=True):
    """The scheduler tells a rank that had no part in the last plan that the run has ended."""

    exit_code: int
    troubled: bool
    """Whether the job has lost or missed a rank: then MPI's own farewell may wait for ever."""


class Replan(Message, frozen=True):
    """The scheduler tells that somebody was lost in the last step: the end of the run is planned anew."""

    round: int


class Broken(Message, frozen=True):
    """A server or worker tells of a fault that ends the job: of code of the user's own, say."""

    id: str
    """Of the table of errors."""
    story: str


class Gone(Message, frozen=True):
    """A rank is dead. Never sent: the world of the receiver says it in the dead rank's name."""


AnyMessage: TypeAlias = (
    Ready | Plan | Evaluation | Reports | Tally | Settled | Moved | Applied | Saved
    | Alive | Halt | Here | Regroup | Expel | Over | Replan | Broken | Gone
)  # fmt: skip
KINDS: tuple[type, ...] = get_args(AnyMessage)
"""Every kind of message; a trace names one by its place."""
_decoder = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: AnyMessage) -> bytes:
    """Encode a message as MessagePack."""
    return msgspec.msgpack.encode(message)


def decode(data: bytes | bytearray | memoryview) -> AnyMessage:
    """Decode a message and check its types.

    Raises
    ------
    msgspec.DecodeError
        The bytes are no message: the sender runs another version of the program.
    """
    message: AnyMessage = _decoder.decode(data)
    return message


class SiloSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One silo in the summary of a round."""

    silo: int
    name: str
    accuracy: float | None
    """Share of its test images that the model after this round gets right."""
    test_examples: int
    train_examples: int
    train_loss: float | None
    """Mean loss over this round's steps; none when it did not train."""
    reason: str = ""
    """Why its update was not accepted."""
    failed: bool = False
    """Whether it reported so itself, in time: its data or its model is at fault, and not the rank it runs on."""
    cause: Cause = Cause.NONE
    """The same as a word; empty in records of versions before 0.9."""
    raised: str = ""
    """Class and place of the exception that its model raised."""
    untested: str = ""
    """Why the model after this round was not evaluated on it, or not on all of its images; empty where it was."""
    worker: str = ""
    """Title of the worker that was to train it; empty when it was not asked to, and in older records."""


class Phases(msgspec.Struct, frozen=True, kw_only=True):
    """Where the seconds of a round went; `total` is the scheduler's clock from plan to plan."""

    broadcast: float
    """Slowest worker: from the plan to the model's arrival."""
    evaluate: float
    """Slowest worker: evaluating the arriving model (of the round before)."""
    train: float
    """Slowest worker: training all its silos."""
    wait: float
    """Fastest worker: from its report to the tally."""
    reduce: float
    """Slowest server: the weighted reduction."""
    apply: float
    """Slowest server: strategy and server optimizer."""
    total: float


class RankPhases(msgspec.Struct, frozen=True, kw_only=True):
    """Where the seconds of one rank's round went; phases that a rank has no part in are 0."""

    role: str
    """Role and index, as its folder in the run folder is named."""
    broadcast: float = 0.0
    evaluate: float = 0.0
    train: float = 0.0
    reduce: float = 0.0
    apply: float = 0.0


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``metrics.jsonl``; see docs/metrics.md for each key."""

    round: int
    void: bool
    cohort: list[int]
    accepted: list[int]
    train_loss: float | None
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    test_loss: float | None
    test_examples: int
    silos: list[SiloSummary]
    seconds: Phases
    ranks: list[RankPhases] = []
    bytes_down: int
    bytes_up: int
    model_sha256: str
    shard_sha256: list[str]
    states: dict[int, str] = {}
    """Of silos that keep a state and whose updates count: the sha256 of what each keeps."""
    window: float = 0.0
    """Seconds of its update window; 0 in older records, which do not tell the next two either."""
    last_report: float | None = None
    """Seconds from its plan to the last report that was accepted; none if none was."""
    timed_out: bool = False
    """Whether its window closed it, or cut a worker's training short."""

    def curves(self) -> dict[str, float]:
        """Return the round's point on every curve that a tracker draws, of what was measured and is finite."""
        named = {key: getattr(self, key) for key in ("accuracy", "test_loss", "train_loss")}
        named |= {f"silo/{silo.name}": silo.accuracy for silo in self.silos}
        named |= {f"seconds/{phase}": value for phase, value in msgspec.structs.asdict(self.seconds).items()}
        return {key: value for key, value in named.items() if value is not None and math.isfinite(value)}


def sha256(*parts: bytes | memoryview) -> str:
    """Digest of the parts, one after the other, in hex."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
