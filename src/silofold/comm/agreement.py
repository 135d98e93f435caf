"""What all ranks of a job do together while it starts: share what one has read, and agree on a fault, or on none."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import numpy as np

from silofold.comm import failures, waiting
from silofold.core.errors import SilofoldError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpi4py import MPI
    from numpy.typing import NDArray

MODEL = 2
CHUNK = 2**27
"""Elements in one call at most: MPI counts end at 2^31 - 1 elements in many libraries."""
START_WINDOW = 300.0
"""Seconds within which all ranks must reach the same point of a job's start (imports on a slow file system included)."""


class AgreedFault(SilofoldError):  # noqa: N818  (it carries an error, whichever it is)
    """The fault that another rank has met, raised here so that all ranks end together."""


class Agreement:
    """Collectives of all ranks, each within a time.

    Parameters
    ----------
    comm
        Communicator of all ranks.
    patience
        Seconds within which all ranks must reach the same point; else the job ends, resumably.
    end
        Ends all ranks.
    """

    def __init__(self, comm: MPI.Intracomm, patience: float, end: Callable[[], None]) -> None:
        self.comm, self.patience, self.end = comm, patience, end
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()

    def gather(self, data: bytes) -> list[bytes]:
        """Hand every rank's bytes to every rank, in rank order."""
        sizes = np.zeros(self.size, np.int64)
        mine = np.array([len(data)], np.int64)
        with self.in_time():
            waiting.complete([self.comm.Iallgather(mine, sizes)])
            everything = np.zeros(int(sizes.sum()), np.uint8)
            waiting.complete([self.comm.Iallgatherv(np.frombuffer(data, np.uint8), (everything, sizes))])
        stops = np.cumsum(sizes)
        return [everything[stop - size : stop].tobytes() for size, stop in zip(sizes, stops, strict=True)]

    def share(self, data: bytes, root: int = 0) -> bytes:
        """Hand one rank's bytes to every rank.

        Parameters
        ----------
        data
            Looked at on `root` alone.
        root
            Rank whose bytes are shared.
        """
        size = np.array([len(data)], np.int64)
        with self.in_time():
            waiting.complete([self.comm.Ibcast(size, root)])
            buffer = np.frombuffer(data, np.uint8) if self.rank == root else np.zeros(int(size[0]), np.uint8)
            waiting.complete([self.comm.Ibcast(buffer, root)])
        return buffer.tobytes()

    def hand_out(
        self,
        parts: list[NDArray[np.float32]],
        mine: NDArray[np.float32] | None,
        root: int,
        receivers: list[int],
    ) -> None:
        """Send each receiver its part from one rank: the initial model's slices, once a run.

        Parameters
        ----------
        parts
            On `root` a (L_i,) float32 array for each receiver; not looked at elsewhere.
        mine
            On a receiver the (L_i,) array that is filled.
        root
            Rank that has the parts.
        receivers
            Ranks that get one each.
        """
        requests: list[MPI.Request] = []
        with self.in_time():
            if self.rank == root:
                for rank, part in zip(receivers, parts, strict=True):
                    requests += [self.comm.Isend(chunk, rank, MODEL) for chunk in _chunks(part)]
            elif mine is not None:
                requests = [self.comm.Irecv(chunk, root, MODEL) for chunk in _chunks(mine)]
            waiting.complete(requests)

    @contextlib.contextmanager
    def agree(self) -> Iterator[None]:
        """Run a block in which any rank may find a fault, and raise that fault on every rank or on none.

        Raises
        ------
        SilofoldError
            The fault of the lowest rank that met one: its own there, an `AgreedFault` elsewhere.
        """
        fault: SilofoldError | None = None
        try:
            yield
        except SilofoldError as found:
            fault = found
        mine = f"{fault.id} {fault}".encode(errors="surrogateescape") if fault else b""
        for rank, answer in enumerate(self.gather(mine)):
            if answer:
                key, _, story = answer.decode(errors="surrogateescape").partition(" ")
                raise fault if fault and rank == self.rank else AgreedFault(key, story)

    @contextlib.contextmanager
    def in_time(self) -> Iterator[None]:
        """Do what all ranks of a start-up must do together; when it takes too long or one of them dies, end the job."""
        from mpi4py import MPI  # noqa: PLC0415  (as above)

        words = f"silofold: rank {self.rank} waited {self.patience:.0f} s for the others during start-up: some rank hangs"
        try:
            with failures.watchdog(self.patience, f"{words}; start the job again\n", self.end):
                yield
        except MPI.Exception as fault:
            if not failures.offers_ulfm():
                raise
            sys.stderr.write(
                f"silofold: rank {self.rank}: another rank died during start-up ({fault}); start the job again\n"
            )
            self.end()


def _chunks(array: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [array[at : at + CHUNK] for at in range(0, len(array), CHUNK)]
