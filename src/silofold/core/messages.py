"""All that is small and crosses ranks: plan, evaluation, reports, tally, moved, applied, saved, and what follows a loss.

Each message is a typed struct, encoded as MessagePack with its types checked on arrival; nothing is pickled. Model bytes
never travel this way.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, TypeAlias, get_args

import msgspec

from silofold.core.reports import Report, Score, Unscored  # noqa: TC001  (msgspec reads them when the program runs)

if TYPE_CHECKING:
    from collections.abc import Iterable


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


class Reports(Message, frozen=True):
    """A worker's reports of a round."""

    round: int
    seconds: float
    """Seconds from the end of the evaluation to the last silo's end."""
    reports: tuple[Report, ...]


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
