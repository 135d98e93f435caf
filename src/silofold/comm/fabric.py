"""The fabric of a round: servers and the workers that are known to be there, and how model bytes move between them.

Every shard has a communicator of its own: its server (rank 0 in it) and the round's workers. The model comes down by one
broadcast a shard, which lands in the worker's vector; updates go up by one reduction a shard (or one gather, for
strategies that need each silo's update). Nothing passes through the scheduler. A rank that is late, stopped or dead is
no member, so nobody waits for it in a collective.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from silofold.comm import waiting
from silofold.comm.world import CHUNK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpi4py import MPI
    from numpy.typing import NDArray

    from silofold.comm.world import World
    from silofold.messages import Members
    from silofold.topology import Layout


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
    members
        The workers. A rank that is neither server nor member makes an empty fabric.
    seconds
        Longest time that making the communicators may take.
    """

    def __init__(self, world: World, layout: Layout, slices: Sequence[slice], members: Members, seconds: float) -> None:
        self._world = world
        self._shards: list[tuple[MPI.Intracomm, slice]] = []
        self._abandoned: list[object] = []
        self.broken = ""
        for server, span in zip(layout.server_ranks, slices, strict=True):
            if world.rank == server or world.rank in members.workers:
                ranks = [server, *members.workers]
                comm = world.weave(ranks, server, members.epoch, members.losses, seconds)
                if comm is None:
                    self._break("a member died before it could begin")
                    return
                self._shards.append((comm, span))

    def share_model(self, vector: NDArray[np.float32], window: float) -> str:
        """Broadcast every shard from its server into the vectors of the workers.

        Parameters
        ----------
        vector
            (P,) float32 on a worker, the shard's (L,) float32 on a server; not looked at on other ranks.
        window
            Seconds within which it must be done.

        Returns
        -------
        str
            Empty, or what broke it: a member stopped or died. Then the fabric cannot be used again, and a worker must take
            another vector, since late bytes may still land in this one.
        """

        def start() -> list[MPI.Request]:
            requests = []
            for comm, span in self._shards:
                part = vector[span] if comm.Get_rank() else vector
                requests += [comm.Ibcast(part[at : at + CHUNK], 0) for at in range(0, len(part), CHUNK)]
            return requests

        return self._complete(start, vector, window, "model broadcast")

    def collect(self, mine: NDArray[Any], counts: Sequence[int] | None, window: float) -> str:
        """Bring the workers' updates into the shards: their sum, or each of them.

        Parameters
        ----------
        mine
            For a sum: on a worker its (P,) contribution; on a server the (L,) array of the same dtype that receives the
            sum. For each: on a worker its (K_w, P) updates; on a server the (K, L) array that receives those of all
            workers, in the order of their ranks.
        counts
            None for a sum, else K_w of each member worker in the order of their ranks.
        window
            Seconds within which it must be done.

        Returns
        -------
        str
            As in `share_model`; it is the server that must take another array.
        """

        def start() -> list[MPI.Request]:
            parts = [(comm, mine if comm.Get_rank() == 0 else mine[..., span]) for comm, span in self._shards]
            if counts is None:
                return [request for comm, part in parts for request in _reduce(comm, part)]
            parts = [(comm, np.ascontiguousarray(part)) for comm, part in parts]
            self._abandoned = list(parts)  # the requests do not keep them
            return [_gather(comm, part, counts) for comm, part in parts]

        return self._complete(start, mine, window, "reduction")

    def _complete(self, start: Callable[[], list[MPI.Request]], buffer: object, window: float, what: str) -> str:
        from mpi4py import MPI  # noqa: PLC0415  (importing it starts MPI: not when this module is read)

        if self.broken:
            return self.broken
        requests: list[MPI.Request] = []
        try:
            requests = start()
            waiting.complete(requests, time.monotonic() + window)
        except waiting.Timeout:
            self._break(f"the {what} was not over after {window:.0f} s (rounds.update_window)")
        except MPI.Exception as fault:
            if not self._world.survives:
                raise
            self._break(f"the {what} broke: {fault.Get_error_string()}")
        if self.broken:
            self._abandoned += [requests, buffer]
        else:
            self._abandoned.clear()
        return self.broken

    def _break(self, why: str) -> None:
        """Give the fabric up, and make the others do so where the library can."""
        self.broken, self._world.troubled = why, True
        if self._world.survives:
            for comm, _ in self._shards:
                comm.Revoke()


def _reduce(comm: MPI.Intracomm, part: NDArray[Any]) -> list[MPI.Request]:
    from mpi4py import MPI  # noqa: PLC0415  (importing it starts MPI: not when this module is read)

    chunks = [part[at : at + CHUNK] for at in range(0, len(part), CHUNK)]
    if comm.Get_rank():
        return [comm.Ireduce(chunk, None, MPI.SUM, 0) for chunk in chunks]
    part[:] = 0  # the server is a member and adds nothing
    return [comm.Ireduce(MPI.IN_PLACE, chunk, MPI.SUM, 0) for chunk in chunks]


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
    seconds
        Longest time that making a fabric may take, before the job is ended.
    """

    def __init__(self, world: World, layout: Layout, slices: Sequence[slice], seconds: float) -> None:
        self._world, self._layout, self._slices, self._seconds = world, layout, slices, seconds
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
            self._made[key] = Fabric(self._world, self._layout, self._slices, members, self._seconds)
        return self._made[key]
