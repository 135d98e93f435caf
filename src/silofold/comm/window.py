"""Memory that the ranks of a node share: the model comes down into it, and each worker's sum goes up from it.

Within a node no model byte is sent: a server's slice is a part of the node's model, workers train from that model where it
lies, and a server adds up what the workers have left in their rooms. What makes this safe are the control messages of the
round: a worker reports after its room is full, the tally follows all reports, and the next plan follows all servers. A
room outlives its worker, so a death stops nobody here.

A rank without such memory (by the settings, or because the node has not enough of it) is a node of its own, and all of
its bytes go by collectives.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import secrets
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from silofold.comm import waiting
from silofold.core.memory import aligned

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mpi4py import MPI
    from numpy.typing import DTypeLike, NDArray

    from silofold.comm.world import World
    from silofold.core.topology import Layout

"""Bytes."""
BLOCK = 2**17
"""Elements that are added at a time: a block stays in the cache while the rooms pass by."""
PAGE = mmap.ALLOCATIONGRANULARITY
MEMORY = "/dev/shm"  # noqa: S108  (a file system in memory, on every Linux)


class Node:
    """The memory of one node as one of its ranks sees it. Made by all ranks of the job together.

    Parameters
    ----------
    world
        The ranks.
    layout
        Roles of the ranks.
    parameters
        Elements of the model.
    model_kind, room_kind
        Types of the model's elements and of those of a sum.
    labels
        A label of each rank: ranks share memory if MPI says that they can and their labels are equal. None: nobody shares.

    Attributes
    ----------
    home : list of int
        Lowest rank of each rank's node.
    shared : bool
        Whether this rank shares memory with others.
    model : numpy.ndarray
        (P,) the model as it has arrived on this node.
    room : numpy.ndarray
        (P,) where this rank, a worker, leaves its weighted sum; empty on the others.
    """

    def __init__(
        self,
        world: World,
        layout: Layout,
        parameters: int,
        model_kind: DTypeLike,
        room_kind: DTypeLike,
        labels: Sequence[str] | None,
    ) -> None:
        self._rank, self._size = world.rank, parameters
        self._model_kind, self._room_kind = np.dtype(model_kind), np.dtype(room_kind)
        self._rooms: dict[int, NDArray[Any]] = {}
        self._barrier = threading.Lock()
        self.shared, self._lowest = False, world.rank
        works = world.rank >= layout.server_ranks.stop
        if labels:
            with world.hurried():
                self._share(world, layout, labels)
        if not self.shared:
            self.model = aligned(parameters if world.rank >= layout.server_ranks.start else 0, self._model_kind)
            self._rooms = {world.rank: aligned(parameters if works else 0, self._room_kind)}
            self._stamps = np.zeros(layout.servers, np.int64)
        self.room = self._rooms.get(world.rank, np.empty(0, self._room_kind))
        self.home = [int(answer) for answer in world.gather(str(self._lowest).encode())]

    def _share(self, world: World, layout: Layout, labels: Sequence[str]) -> None:
        from mpi4py import MPI  # noqa: PLC0415  (importing it starts MPI: not when this module is read)

        able = world.comm.Split_type(MPI.COMM_TYPE_SHARED, world.rank)
        comm = MPI.Intracomm(able.Split(sorted(set(labels)).index(labels[world.rank]), world.rank))
        able.Free()
        ranks = [int(r) for r in comm.Get_group().Translate_ranks(list(range(comm.Get_size())), world.comm.Get_group())]
        workers = [rank for rank in ranks if rank >= layout.server_ranks.stop]
        widths = [8 * layout.servers, self._size * self._model_kind.itemsize]
        widths += [self._size * self._room_kind.itemsize for _ in workers]
        starts = [0, *itertools.accumulate(PAGE * -(-width // PAGE) for width in widths)]
        mine: tuple[int, ...] = (0, 1) if world.rank == ranks[0] else ()
        mine += tuple(2 + place for place, rank in enumerate(workers) if rank == world.rank)
        memory = map_memory(comm, starts[-1], [(starts[place], widths[place]) for place in mine]) if len(ranks) > 1 else None
        comm.Free()
        if memory is None:
            return
        parts = [memory[start : start + width] for start, width in zip(starts, widths, strict=False)]
        self._stamps, self.model = parts[0].view(np.int64), parts[1].view(self._model_kind)
        self._rooms = {rank: part.view(self._room_kind) for rank, part in zip(workers, parts[2:], strict=True)}
        self.shared, self._lowest = True, ranks[0]

    def near(self, ranks: Sequence[int]) -> list[int]:
        """Return those of these ranks whose memory is this node's."""
        return [rank for rank in ranks if self.home[rank] == self.home[self._rank]]

    def holds(self, ranks: Sequence[int]) -> bool:
        """Whether these ranks all share the memory of one node, so that no model byte is sent between them."""
        return len({self.home[rank] for rank in ranks}) == 1

    def lend(self, rank: int, span: slice) -> NDArray[Any]:
        """Return a slice of the room of a rank of this node: who adds the others' up in it needs no memory of its own."""
        return self._rooms[rank][span]

    def agents(self, server: int, shard: int, workers: Sequence[int]) -> list[int]:
        """Return the workers that stand for their nodes towards a server: one of each node but the server's own."""
        nodes: dict[int, list[int]] = {}
        for rank in workers:
            if self.home[rank] != self.home[server]:
                nodes.setdefault(self.home[rank], []).append(rank)
        return sorted(ranks[shard % len(ranks)] for ranks in nodes.values())

    def add(self, total: NDArray[Any], span: slice, ranks: Sequence[int]) -> None:
        """Overwrite (L,) `total`, which may be a part of the first room, with the sum of a slice of some ranks' rooms."""
        self._fence()
        rooms = [self._rooms[rank][span] for rank in ranks]
        if not rooms:
            total[:] = 0
        for start in range(0, len(total) if rooms else 0, BLOCK):
            block = total[start : start + BLOCK]
            if not np.may_share_memory(block, rooms[0][start : start + BLOCK]):
                block[:] = rooms[0][start : start + BLOCK]
            for room in rooms[1:]:
                block += room[start : start + BLOCK]

    def announce(self, shard: int, stamp: int) -> None:
        """Tell the ranks of this node that the model's slice of a round has arrived; a negative stamp: that it has not."""
        self._fence()
        self._stamps[shard] = stamp
        self._fence()

    def arrived(self, shards: Sequence[int], stamp: int, seconds: float) -> Iterator[str]:
        """Wait until the slices of these shards are there, and tell of each that is not."""
        deadline = time.monotonic() + seconds
        for shard in shards:
            try:
                waiting.until(lambda shard=shard: abs(self._look(shard)) >= stamp, deadline)  # type: ignore[misc]
            except waiting.Timeout:
                yield f"shard {shard} of the model was not on this node after {seconds:.0f} s (rounds.update_window)"
            else:
                if self._look(shard) < 0:
                    yield f"shard {shard} of the model did not reach this node"

    def _look(self, shard: int) -> int:
        self._fence()
        return int(self._stamps[shard])

    def _fence(self) -> None:
        with self._barrier:  # what a lock does to the order of memory is what is wanted
            pass


def map_memory(comm: MPI.Intracomm, size: int, mine: Sequence[tuple[int, int]]) -> NDArray[np.uint8] | None:
    """Map a file without a name into all of these ranks; each sets its own parts aside, on its own memory bank.

    Not an MPI window: Open MPI has none that it has tested for what comes after a failure, and a window that outgrows the
    memory ends in a bus error, where setting it aside ends in an answer.

    Parameters
    ----------
    comm
        Ranks of one node, all of which call this.
    size
        Bytes of the file.
    mine
        Start and width of each part that this rank sets aside, bytes.

    Returns
    -------
    numpy.ndarray or None
        (size,) uint8, zeroed; None if a rank could not map it or set its parts aside.
    """
    name = np.frombuffer(f"{secrets.token_hex(16)}".encode(), np.uint8).copy()
    comm.Bcast(name)
    path, file, fault = Path(MEMORY) / f"silofold.{name.tobytes().decode()}", -1, 0
    for creates in (True, False):
        if (comm.Get_rank() == 0) == creates:
            try:
                file = os.open(path, os.O_RDWR | (os.O_CREAT | os.O_EXCL if creates else 0), 0o600)
                if creates:
                    os.ftruncate(file, size)
                for start, width in mine:
                    os.posix_fallocate(file, start, max(width, 1))
            except OSError:
                fault = 1
        comm.Barrier()
    with contextlib.suppress(OSError):  # where nothing can be made, nothing can be removed
        path.unlink(missing_ok=True)  # it lives as long as a rank has it
    everyone = np.zeros(1, np.int64)
    comm.Allreduce(np.array([fault], np.int64), everyone)
    try:
        return None if everyone[0] else np.asarray(mmap.mmap(file, size), np.uint8)
    finally:
        if file >= 0:
            os.close(file)
