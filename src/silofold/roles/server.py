"""The server: owns one shard, a slice of the global model, and moves it by each round's update."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from silofold import plugins, topology
from silofold.aggregation import buffers, exact
from silofold.core import hdf5
from silofold.errors import CheckpointError
from silofold.messages import Applied, Moved, Saved, Tally, sha256
from silofold.record import checkpoint
from silofold.roles.listening import Listener

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from silofold.comm.window import Node
    from silofold.comm.world import World
    from silofold.core.elements import Kind
    from silofold.messages import Plan
    from silofold.protocols import ServerOptimizer, Strategy
    from silofold.roles.job import Job

logger = logging.getLogger(__name__)
BLOCK = 2**15
"""Elements that are moved at a time: what is in between stays in the cache and takes no memory."""


def move(
    shard: NDArray[np.float32],
    received: NDArray[Any],
    weights: NDArray[np.int64],
    order: list[int] | None,
    strategy: Strategy,
    optimizer: ServerOptimizer,
    state: dict[str, NDArray[np.float64]],
    runs: Sequence[tuple[slice, Kind]] | None = None,
) -> None:
    """Combine what was received and move a shard by it, in place.

    The optimizer moves trained elements alone. All others take the strategy's result as it is: buffers their mean, and
    frozen ones the zero that silos send of them, unless the model itself writes into them.

    Parameters
    ----------
    shard
        (L,) float32.
    received
        (L,) int64 or float32 sum, or (K, L) float32 updates.
    weights
        (K,) of the accepted silos, ascending.
    order
        Row of each accepted silo's update; none for a sum.
    strategy, optimizer
        What is done.
    state
        The optimizer's, (L,) float64 each; that of other than trained elements stays as it is.
    runs
        The shard cut by the kind of its elements, see `Elements.runs`; none: all are trained.
    """
    slack = buffers.rounding(received, len(weights))
    for start in range(0, len(shard), BLOCK):
        part = slice(start, min(start + BLOCK, len(shard)))
        block = received[..., part]
        updates = exact.value(block) if block.dtype == np.int64 else block.astype(np.float64)
        combined = strategy.combine(updates if order is None else updates[order], weights)
        for piece, kind in _cut(part, runs):
            change = combined[piece.start - start : piece.stop - start]
            if kind == "trained":
                optimizer.step(shard[piece], change, {name: array[piece] for name, array in state.items()})
            else:
                buffers.add(shard[piece], change, slack)


def _cut(part: slice, runs: Sequence[tuple[slice, Kind]] | None) -> Iterator[tuple[slice, Kind]]:
    """Cut a block by the kind of its elements."""
    whole: list[tuple[slice, Kind]] = [(part, "trained")]
    for run, kind in whole if runs is None else runs:
        start, stop = max(run.start, part.start), min(run.stop, part.stop)
        if start < stop:
            yield slice(start, stop), kind


class Server:
    """Rank 1 to S.

    Parameters
    ----------
    world
        The ranks.
    job
        The run.
    node
        Memory of this rank's node, with the model.
    span
        Slice of the shard in the flat vector.
    state
        Optimizer state of a checkpoint, (L,) float64 each; none in a new run.
    """

    def __init__(
        self, world: World, job: Job, node: Node, span: slice, state: dict[str, NDArray[np.float64]] | None
    ) -> None:
        self._world, self._job, self._node, self._span = world, job, node, span
        self._listener = Listener(world, job)
        vector = node.model[span]
        self._shard = job.layout.role(world.rank)[1]
        self.vector = vector
        self._optimizer: ServerOptimizer = plugins.load("server_optimizer", job.settings.server_optimizer)
        self._runs = job.elements.runs(span)
        self._state = self._optimizer.start(len(vector))
        if state is not None and set(state) != set(self._state):
            raise CheckpointError(
                "checkpoint-fit",
                f"found {sorted(state)} of the server optimizer in the checkpoint, expected {sorted(self._state)}",
            )
        for name, array in (state or {}).items():
            self._state[name][:] = array
        self._sum: NDArray[Any] = np.empty(0)
        self._clock = 0.0
        hdf5.library()  # now, while workers load theirs: all ranks wait for a checkpoint to be written

    def plan(self) -> Plan:
        """Wait for the round's plan."""
        return self._listener.plan()

    def evaluate(self, plan: Plan, broken: str) -> None:
        """Write the shard into the checkpoint while the workers evaluate and train: servers idle then."""
        if broken:
            logger.warning("round %d: %s", plan.round, broken)
        if not plan.checkpoint:
            return
        begin = time.perf_counter()
        folder = self._job.folder.checkpoints
        draft = checkpoint.draft_of(folder, plan.round - 1)
        saved = [checkpoint.write_arrays(draft, f"shard_{self._shard}.h5", {"model": self.vector, **self._state})]
        title, seconds = self._job.layout.title(self._world.rank), time.perf_counter() - begin
        self._world.say(Saved(plan.round - 1, title, tuple(saved), seconds), topology.SCHEDULER)

    def is_over(self, plan: Plan) -> bool:
        """Wait for the run's last word; False if its end is planned again."""
        del plan
        return self._listener.is_over()

    def train(self, plan: Plan) -> Tally:
        """Wait for the tally."""
        del plan
        return self._listener.tally()

    def update(self, tally: Tally) -> NDArray[Any]:
        """Return the room that receives the shard's sum, or every accepted silo's slice."""
        self._clock = time.perf_counter()
        if not self._job.uplink.sums:
            return np.empty((len(tally.silos), len(self.vector)), np.float32)
        if self._node.holds((*self._job.layout.server_ranks, *tally.members.workers)):
            # nothing is sent that could break, and a server that does not answer ends the attempt for all (see
            # Scheduler.settle): no second attempt will find the first one's sum in a worker's room
            return self._node.lend(tally.members.workers[0], self._span)
        if tally.attempt > 1 or not len(self._sum):  # late bytes of the attempt before may still land in the old one
            self._sum = np.zeros(len(self.vector), self._job.uplink.dtype)
        return self._sum

    def settle(self, tally: Tally, moved: NDArray[Any], broken: str) -> Tally:
        """Tell whether the sum is here and sound, and wait for what is to be done with it."""
        if tally.certain:
            return tally.as_settled()
        sound = broken or all(np.isfinite(extreme(moved, initial=0)) for extreme in (np.min, np.max))
        unsound = "" if sound else f"server {self._shard} received numbers that are not finite"
        self._world.say(Moved(tally.round, tally.attempt, broken, unsound), topology.SCHEDULER)
        return self._listener.word(tally)

    def apply(self, received: NDArray[Any], tally: Tally) -> None:
        """Combine what was received and move the shard."""
        reduced = time.perf_counter()
        order = None if self._job.uplink.sums else np.argsort(tally.silos).tolist()  # rows come by worker
        weights = np.array(tally.weights, np.int64)
        move(self.vector, received, weights, order, self._job.strategy, self._optimizer, self._state, self._runs)
        done = time.perf_counter()
        logger.info("round %d: reduced %.4f s, applied %.4f s", tally.round, reduced - self._clock, done - reduced)
        digest = sha256(self.vector.astype("<f4", copy=False).data)
        finite = all(bool(np.isfinite(extreme(self.vector, initial=0))) for extreme in (np.min, np.max))
        applied = Applied(tally.round, self._shard, digest, reduced - self._clock, done - reduced, finite)
        self._world.say(applied, topology.SCHEDULER)

    def record(self, plan: Plan, tally: Tally) -> None:
        """Note a void round."""
        if not tally.quorum_met:
            logger.warning("round %d is void: the model stands", plan.round)
