"""The world of one rank: control messages, agreement at the start, communicators among some ranks, and the end.

The world is handed its communicator and works on a duplicate of it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import zlib
from typing import TYPE_CHECKING, NoReturn

from silofold.comm import failures, waiting
from silofold.comm.agreement import START_WINDOW, Agreement
from silofold.comm.endpoint import Endpoint
from silofold.core import machine, messages
from silofold.core.endings import RESUMABLE
from silofold.core.errors import RequeueError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpi4py import MPI


class World(Endpoint):
    """Ranks of a job and the control messages between them.

    Parameters
    ----------
    comm
        Communicator of all ranks of the job; duplicated here.
    patience
        Seconds within which all ranks must reach the same point of the start-up; else the job ends, resumably.
    end
        Ends all ranks while this one does not know yet where they are; by default it can end itself alone.
    """

    def __init__(
        self, comm: MPI.Intracomm, patience: float = START_WINDOW, end: Callable[[], NoReturn] | None = None
    ) -> None:
        self.start = Agreement(comm, patience, end or (lambda: _end_blindly(comm)))
        """What all ranks do together."""
        with self.start.in_time():
            super().__init__(comm.Dup())
            # Open MPI makes group communicators by messages with the caller's tag on the parent: on the communicator of the
            # control messages, a probe would take one of them for a control message
            self.group_comm = comm.Dup()
        self.start.comm = self.comm
        self.window = 0.0
        """Seconds of the update window of the last plan that this rank has heard; 0 before the first."""
        self.places: list[tuple[str, int]] = []
        """Host and process of each rank."""
        names = []
        for answer in self.start.gather(f"{machine.host()} {os.getpid()} {self._wakeup.name.hex()}".encode()):
            host, pid, name = answer.decode().split(" ")
            self.places.append((host, int(pid)))
            names.append(bytes.fromhex(name))
        self.start.end = self.end_job
        self._connect(names, [host == self.places[self.rank][0] for host, _ in self.places])

    # --- communicators among some ranks ------------------------------------------------------------------------------

    def create_group(self, ranks: Sequence[int], tag: int, epoch: int, losses: int, seconds: float) -> MPI.Intracomm | None:
        """Make a communicator of these ranks, each of which calls this; the others need not know.

        Parameters
        ----------
        ranks
            The members, this rank among them.
        tag
            Keeps apart what is made at the same time.
        epoch
            Likewise, for attempts one after the other.
        losses
            How many ranks are dead, as the scheduler sees it: the same number on every member.
        seconds
            The library's call has no deadline: after so many seconds the job ends, resumably.

        Returns
        -------
        MPI.Intracomm or None
            None if a member has died.
        """
        from mpi4py import MPI  # noqa: PLC0415  (as above)

        members = self.group_comm.Get_group().Incl(list(ranks))
        words = (
            f"silofold: rank {self.rank}: no communicator of ranks {list(ranks)} within {seconds:.0f} s; resume the run\n"
        )
        with failures.watchdog(seconds, words, self.end_job), self._tolerating(MPI.Exception):
            if not losses:
                return self.group_comm.Create_group(members, tag=tag)
            # Open MPI refuses to make a group's communicator out of one that has a dead member, but it makes one of nothing
            mark = zlib.crc32(repr((tuple(ranks), epoch)).encode())
            return MPI.Intracomm.Create_from_group(members, f"silofold.{tag}.{epoch}.{mark:08x}")
        return None

    def reordered(self, order: Sequence[int]) -> World:
        """Make the world in which rank i is what is rank ``order[i]`` here; called on every rank."""
        if list(order) == list(range(self.size)):
            return self
        from mpi4py import MPI  # noqa: PLC0415  (as above)

        self._wakeup.close()
        with self.start.in_time():
            comm = MPI.Intracomm(self.comm.Split(0, order.index(self.rank)))
        return World(comm, self.start.patience, self.end_job)

    def among(self, ranks: Sequence[int], generation: int) -> World:
        """Make the world of these ranks, numbered in this order, out of what is left of this one.

        Raises
        ------
        RequeueError
            Another rank died meanwhile.
        """
        comm = self.create_group(ranks, 0, generation, 1, self.start.patience)
        if comm is None:
            raise RequeueError("rank-lost", "another rank died while the survivors regrouped; resume the run")
        self._wakeup.close()
        world = World(comm, self.start.patience, self.end_job)
        world.troubled, world.window, world.trace = True, self.window, self.trace
        return world

    def end_rank(self, rank: int) -> bool:
        """End the process of a rank that runs on this rank's host, and say whether it does."""
        host, pid = self.places[rank]
        if host != self.places[self.rank][0]:
            return False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
        return True

    # --- the end -------------------------------------------------------------------------------------------------------

    def abort(self, code: int) -> NoReturn:
        """End all ranks at once with an exit code."""
        flush_streams()
        if self.survives:  # then Abort ends this rank alone, and mpirun at times gives 0
            far = [rank for rank in self.living if rank != self.rank and not self.end_rank(rank)]
            for rank in far:
                self.send(messages.Over(code, troubled=True), rank)
            if far:
                with contextlib.suppress(waiting.Timeout):
                    self.flush(1.0)
            os._exit(code)
        self.comm.Abort(code)
        os._exit(code)  # Abort may return while the launcher ends the job

    def end_job(self) -> NoReturn:
        """End all ranks, resumably: what a watchdog does."""
        self.abort(RESUMABLE.code)


def _end_blindly(comm: MPI.Intracomm) -> NoReturn:
    """End this rank, resumably, and where the library can, the others."""
    if not failures.offers_ulfm():  # then Abort ends this rank alone, and mpirun at times gives 0
        comm.Abort(RESUMABLE.code)
    os._exit(RESUMABLE.code)


def flush_streams() -> None:
    """Write what is left to be written; a user's code may have closed it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
