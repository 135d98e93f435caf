"""The fabric of a round: servers and the workers that are known to be there, and how model bytes move between them.

It has two levels. Within a node the ranks share memory (`window`); between nodes every shard has a communicator of its own:
its server (rank 0 in it) and, of each other node, one of the round's workers, which stands for all of them there. The model
comes down by one broadcast a shard; updates go up by one reduction a shard (or one gather from every worker, for strategies
that need each silo's update). Nothing passes through the scheduler. A rank that is late, stopped or dead is no member, so
nobody waits for it in a collective.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from silofold.comm import waiting
from silofold.core import trace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mpi4py import MPI
    from numpy.typing import NDArray

    from silofold.comm.window import Node
    from silofold.comm.world import World
    from silofold.core.messages import Members
    from silofold.core.topology import Layout

CHUNK = 2**18
"""Elements in one collective. Open MPI reduces between two ranks in steps of 8 KiB and takes one with each look, so that
many chunks must be in flight at a time; and its counts end at 2^31 - 1 elements."""


class Fabric:
    """Moves model bytes among the servers and a given set of workers.

    Parameters
    ----------
    world
        Whose ranks they are.
    layout
        Roles of the ranks.
    slices
        Slice of each shard in the flat vector.
    node
        Memory of this rank's node.
    members
        The workers. A rank that is neither server nor member makes an empty fabric.
    seconds
        Longest time that making the communicators may take.
    """

    def __init__(
        self, world: World, layout: Layout, slices: Sequence[slice], node: Node, members: Members, seconds: float
    ) -> None:
        self._world, self._node = world, node
        self._shards: list[tuple[int, MPI.Intracomm]] = []
        self._slices = slices
        self._near = node.near(members.workers)
        self._serves = world.rank in layout.server_ranks
        self._mine = [s for s, rank in enumerate(layout.server_ranks) if rank == world.rank]
        self._receives = world.rank in members.workers
        afar = [s for s, rank in enumerate(layout.server_ranks) if self._receives and not node.near([rank])]
        agents = [node.agents(rank, s, members.workers) for s, rank in enumerate(layout.server_ranks)]
        self._brought = [shard for shard in afar if world.rank in agents[shard]]
        """Slices that this rank brings to its node, and those that others do."""
        self._awaited = [shard for shard in afar if world.rank not in agents[shard]]
        self._abandoned: list[object] = []
        self._travelling: deque[NDArray[Any]] = deque(maxlen=waiting.AHEAD + 2)
        """Sums on their way to a server: a request does not keep its buffer."""
        self.broken = ""
        for shard, server in enumerate(layout.server_ranks):
            if agents[shard] and (world.rank == server or shard in self._brought):
                comm = world.weave([server, *agents[shard]], server, members.epoch, members.losses, seconds)
                if comm is None:
                    self._break("a member died before it could begin")
                    return
                self._shards.append((shard, comm))

    def share_model(self, vector: NDArray[Any], window: float, stamp: int) -> str:
        """Bring every shard from its server into the vectors of the workers.

        Parameters
        ----------
        vector
            (P,) float32 on a worker, the shard's (L,) float32, which is a part of the node's model, on a server; not looked
            at on other ranks.
        window
            Seconds within which it must be done.
        stamp
            Number of the round: larger each time.

        Returns
        -------
        str
            Empty, or what broke it: a member stopped or died. Then the fabric cannot be used again, and a worker must take
            another vector, since late bytes may still land in this one.
        """
        # where others train from the node's model, a slice is put there only when it is whole
        landing = {
            shard: vector if self._serves else vector[self._slices[shard]]
            if not self._node.shared else np.empty_like(self._node.model[self._slices[shard]])
            for shard, _ in self._shards
        }  # fmt: skip

        transfers = (comm.Ibcast(landing[shard][part], 0) for shard, comm, part in self._chunks())
        broken = self._complete(transfers, landing, window, trace.MODEL)
        if self._receives and self._node.shared:
            for shard in self._brought:
                if not broken:
                    self._node.model[self._slices[shard]] = landing[shard]
                self._node.announce(shard, -stamp if broken else stamp)
            for story in self._node.arrived(self._awaited, stamp, window):
                broken = broken or story
            if not broken and not np.may_share_memory(vector, self._node.model):
                np.copyto(vector, self._node.model)
        return broken

    def collect(self, mine: NDArray[Any], counts: Sequence[int] | None, window: float) -> str:
        """Bring the workers' updates into the shards: their sum, or each of them.

        Parameters
        ----------
        mine
            For a sum: on a worker its room; on a server the (L,) array of the same dtype that receives the sum. For each: on
            a worker its (K_w, P) updates; on a server the (K, L) array that receives those of all workers, in the order of
            their ranks.
        counts
            None for a sum, else K_w of each member worker in the order of their ranks. Needs nodes that share nothing.
        window
            Seconds within which it must be done.

        Returns
        -------
        str
            As in `share_model`; it is the server that must take another array.
        """
        transfers = self._reduce(mine) if counts is None else self._gather(mine, counts)
        return self._complete(transfers, mine, window, trace.UPDATES)

    def _chunks(self) -> Iterator[tuple[int, MPI.Intracomm, slice]]:
        """Cut the shards that this rank moves into chunks, in the same order on all ranks: no two wait for each other."""
        lengths = {shard: self._slices[shard].stop - self._slices[shard].start for shard, _ in self._shards}
        for start in range(0, max(lengths.values(), default=0), CHUNK):
            for shard, comm in self._shards:
                if start < lengths[shard]:
                    yield shard, comm, slice(start, min(start + CHUNK, lengths[shard]))

    def _reduce(self, mine: NDArray[Any]) -> Iterator[MPI.Request]:
        """Add up what is on this node and start its reduction, chunk by chunk: one is added while others travel."""
        from mpi4py import MPI  # noqa: PLC0415  (importing it starts MPI: not when this module is read)

        if self._serves and not self._shards:
            self._node.add(mine, self._slices[self._mine[0]], self._near)
        alone = self._near == [self._world.rank]
        for shard, comm, part in self._chunks():
            first = self._slices[shard].start
            span = slice(first + part.start, first + part.stop)
            if self._serves:
                self._node.add(mine[part], span, self._near)
                yield comm.Ireduce(MPI.IN_PLACE, mine[part], MPI.SUM, 0)
                continue
            chunk = mine[span] if alone else np.empty(part.stop - part.start, mine.dtype)
            if not alone:
                self._node.add(chunk, span, self._near)
                self._travelling.append(chunk)
            yield comm.Ireduce(chunk, None, MPI.SUM, 0)

    def _gather(self, mine: NDArray[Any], counts: Sequence[int]) -> Iterator[MPI.Request]:
        """Start the gathering of updates in the servers."""
        for shard, comm in self._shards:
            part = np.ascontiguousarray(mine if self._serves else mine[..., self._slices[shard]])
            self._abandoned.append(part)  # the requests do not keep it
            yield _gather(comm, part, counts)

    def _complete(self, transfers: Iterable[MPI.Request], buffer: object, window: float, kind: int) -> str:
        from mpi4py import MPI  # noqa: PLC0415  (importing it starts MPI: not when this module is read)

        if self.broken:
            return self.broken
        requests: deque[MPI.Request] = deque()
        what = "model broadcast" if kind == trace.MODEL else "reduction"
        self._world.note(trace.MOVES, kind)
        try:
            waiting.complete(transfers, time.monotonic() + window, requests)
        except waiting.Timeout:
            self._break(f"the {what} was not over after {window:.0f} s (rounds.update_window)")
        except MPI.Exception as fault:
            if not self._world.survives:
                raise
            self._break(f"the {what} broke: {fault.Get_error_string()}")
        self._world.note(trace.BROKE if self.broken else trace.MOVED, kind)
        if self.broken:
            self._abandoned += [requests, buffer, *self._travelling]
        else:
            self._abandoned.clear()
            self._travelling.clear()
        return self.broken

    def _break(self, why: str) -> None:
        """Give the fabric up, and make the others do so where the library can."""
        self.broken, self._world.troubled = why, True
        if self._world.survives:
            for _, comm in self._shards:
                comm.Revoke()


def _gather(comm: MPI.Intracomm, part: NDArray[Any], counts: Sequence[int]) -> MPI.Request:
    if comm.Get_rank():
        return comm.Igatherv(part, None, 0)
    sizes = [0, *(count * part.shape[1] for count in counts)]
    return comm.Igatherv(np.empty(0, np.float32), (part, sizes), 0)


class Fabrics:
    """Makes fabrics and keeps them: a membership that was seen before costs nothing.

    Parameters
    ----------
    world
        Whose communicator the shards' communicators are made from.
    layout
        Roles of the ranks.
    slices
        Slice of each shard in the flat vector.
    node
        Memory of this rank's node.
    seconds
        Longest time that making a fabric may take, before the job is ended.
    """

    def __init__(self, world: World, layout: Layout, slices: Sequence[slice], node: Node, seconds: float) -> None:
        self._world, self._layout, self._slices, self._node, self._seconds = world, layout, slices, node, seconds
        self._made: dict[tuple[int, ...], Fabric] = {}
        self._old: list[Fabric] = []
        self._epoch = 0

    def among(self, members: Members) -> Fabric:
        """Return the fabric of the servers and these workers; every one of them must ask for it."""
        if members.epoch != self._epoch:  # kept, not forgotten: late bytes of a broken fabric must find their buffers
            self._old += [fabric for fabric in self._made.values() if fabric.broken]
            self._made, self._epoch = {}, members.epoch
        key = tuple(members.workers)
        if key not in self._made:
            self._made[key] = Fabric(self._world, self._layout, self._slices, self._node, members, self._seconds)
        return self._made[key]
