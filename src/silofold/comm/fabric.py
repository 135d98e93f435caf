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
from silofold.errors import RequeueError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpi4py import MPI
    from numpy.typing import NDArray

    from silofold.comm.world import World
    from silofold.topology import Layout


class Fabric:
    """Moves model bytes among the servers and a given set of workers.

    Parameters
    ----------
    world
        Whose communicator the shards' communicators are made from.
    layout
        Roles of the ranks.
    slices
        Slice of each shard in the flat vector.
    workers
        Ranks of the member workers, ascending. A rank that is neither server nor member makes an empty fabric.
    """

    def __init__(self, world: World, layout: Layout, slices: Sequence[slice], workers: Sequence[int]) -> None:
        self.workers = tuple(workers)
        self._shards: list[tuple[MPI.Intracomm, slice]] = []
        everyone = world.nursery.Get_group()
        for server, span in zip(layout.server_ranks, slices, strict=True):
            if world.rank == server or world.rank in workers:
                group = everyone.Incl([server, *workers])
                self._shards.append((world.nursery.Create_group(group, tag=server), span))
                group.Free()
        everyone.Free()

    def share_model(self, vector: NDArray[np.float32], window: float) -> None:
        """Broadcast every shard from its server into the vectors of the workers.

        Parameters
        ----------
        vector
            (P,) float32 on a worker, the shard's (L,) float32 on a server; not looked at on other ranks.
        window
            Seconds within which it must be done.

        Raises
        ------
        RequeueError
            It is not: some member stopped or died.
        """
        requests = []
        for comm, span in self._shards:
            part = vector[span] if comm.Get_rank() else vector
            requests += [comm.Ibcast(part[at : at + CHUNK], 0) for at in range(0, len(part), CHUNK)]
        self._complete(requests, window, "model broadcast")

    def collect(
        self,
        mine: NDArray[Any],
        counts: Sequence[int] | None,
        window: float,
    ) -> None:
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

        Raises
        ------
        RequeueError
            It is not.
        """
        parts = [(comm, mine if comm.Get_rank() == 0 else mine[..., span]) for comm, span in self._shards]
        if counts is None:
            requests = [request for comm, part in parts for request in _reduce(comm, part)]
        else:
            parts = [(comm, np.ascontiguousarray(part)) for comm, part in parts]
            requests = [_gather(comm, part, counts) for comm, part in parts]
        self._complete(requests, window, "reduction")

    def _complete(self, requests: list[MPI.Request], window: float, what: str) -> None:
        try:
            waiting.complete(requests, time.monotonic() + window)
        except waiting.Timeout:
            raise RequeueError(
                f"the {what} was not over after {window:.0f} s (rounds.update_window): a rank of the round is stopped or "
                "dead; resume the run"
            ) from None


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
    """

    def __init__(self, world: World, layout: Layout, slices: Sequence[slice]) -> None:
        self._world, self._layout, self._slices = world, layout, slices
        self._made: dict[tuple[int, ...], Fabric] = {}

    def among(self, workers: Sequence[int]) -> Fabric:
        """Return the fabric of the servers and these workers; every one of them must ask for it."""
        key = tuple(sorted(workers))
        if key not in self._made:
            self._made[key] = Fabric(self._world, self._layout, self._slices, key)
        return self._made[key]
