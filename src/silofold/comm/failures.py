"""Deaths of ranks, as the MPI library tells them, and a last resort against calls of MPI that have no deadline.

Where the library offers user-level failure mitigation (ULFM: Open MPI 5 under ``mpirun --with-ft ulfm``) a dead rank is an
error that the others see; elsewhere the launcher ends the whole job, and nothing here ever reports a death.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpi4py import MPI

LOOK_EVERY = 0.02
"""Seconds between two looks at the library's list of dead ranks."""


class FailureDetector:
    """Which ranks of a communicator are known to be dead.

    Parameters
    ----------
    comm
        The communicator.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm = comm
        self._everyone = comm.Get_group()
        self.supported = offers_ulfm()
        self.dead: set[int] = set()
        self._next_look = 0.0

    def look(self, *, now: bool = False) -> set[int]:
        """Return the ranks that have died since the last look."""
        if not self.supported or (not now and time.monotonic() < self._next_look):
            return set()
        self._next_look = time.monotonic() + LOOK_EVERY
        failed = self._comm.Get_failed()
        size = failed.Get_size()
        if size == len(self.dead):
            failed.Free()
            return set()
        found = set(failed.Translate_ranks(list(range(size)), self._everyone)) - self.dead
        failed.Free()
        self._comm.Ack_failed()  # else every receive from any rank goes on failing
        self.dead |= found
        return found


def offers_ulfm() -> bool:
    """Whether this job's launcher leaves the survivors of a death alive."""
    return os.environ.get("OMPI_MCA_mpi_ft_enable", "").lower() in {"1", "true"}  # noqa: SIM112  (Open MPI's spelling)


@contextlib.contextmanager
def watchdog(seconds: float, last_words: str, end: Callable[[], None]) -> Iterator[None]:
    """Run a call that may hang; when it takes too long, say so and end this process or the job."""

    def bite() -> None:
        sys.stderr.write(last_words)
        sys.stderr.flush()
        end()

    timer = threading.Timer(seconds, bite)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
