"""Control messages of one rank, each wait for them with a deadline, and the news of deaths.

Control messages are small and go point to point between the scheduler and the others. They are received by matched
probes and non-blocking receives, so that a sender that stops in the middle of a message holds up nobody. A rank that dies
is heard of like a message, where the MPI library survives it.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING

from silofold.comm import failures, waiting, wakeup
from silofold.core import messages, trace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mpi4py import MPI

    from silofold.core.trace import Ring

CONTROL = 1
_PLACES = {kind: place for place, kind in enumerate(messages.KINDS)}


class Endpoint:
    """What a rank says and hears.

    Parameters
    ----------
    comm
        Communicator of all ranks of the job, for control messages alone.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm = comm
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self.trace: Ring | None = None
        """Where this rank notes what it says, hears and waits for; none before its folder is known."""
        self._leaving: list[tuple[MPI.Request, bytes]] = []
        self._arriving: list[tuple[int, MPI.Request, bytearray]] = []
        self._deaths: deque[int] = deque()
        self._failures = failures.FailureDetector(comm)
        self.survives = self._failures.supported
        """Whether the survivors of a rank's death can go on."""
        self.troubled = False
        """Whether a rank died or a collective broke: the library's own farewell may then wait for ever."""
        self._wakeup = wakeup.Wakeup()
        self._longest_sleep = waiting.LONGEST_SLEEP

    def _connect(self, names: list[bytes], beside: list[bool]) -> None:
        """Take note of the bells of all ranks, and of those that run on this host."""
        self._wakeup.connect([name if near else b"" for name, near in zip(names, beside, strict=True)])
        if all(beside) and all(names):
            self._longest_sleep = waiting.BELL_SLEEP

    @property
    def living(self) -> list[int]:
        """Ranks that are not known to be dead, this one included."""
        return [rank for rank in range(self.size) if rank not in self._failures.dead]

    @property
    def losses(self) -> int:
        """How many ranks are known to be dead."""
        return len(self._failures.dead)

    def send(self, message: messages.AnyMessage, to: int) -> None:
        """Send a message without waiting for its receiver; to a dead rank it goes nowhere."""
        from mpi4py import MPI  # noqa: PLC0415  (importing it starts MPI: not when this module is read)

        data = messages.encode(message)
        self.note(trace.SAYS, _PLACES[type(message)], to, getattr(message, "round", 0))
        self._prune()
        with self._tolerating(MPI.Exception):
            self._leaving.append((self.comm.Isend(data, dest=to, tag=CONTROL), data))
        self._wakeup.ring(to)

    def poll(self) -> tuple[int, messages.AnyMessage] | None:
        """Return the next message that has arrived whole, with its sender, or a death, or none."""
        self._begin_receiving()
        if self._deaths:  # the dead rank's last words come before the news of its death
            self._begin_receiving()
        blocked = set()  # a sender's messages stay in order, also when a later, smaller one is complete first
        for index, (source, request, buffer) in enumerate(self._arriving):
            if source not in blocked and self._is_over(request):
                del self._arriving[index]
                return source, messages.decode(buffer)
            blocked.add(source)
        if not self._deaths:
            self._deaths.extend(sorted(self._failures.look()))
            return None  # the next look hears its last words, if there are any
        self.troubled = True
        dead = self._deaths.popleft()
        self._arriving = [entry for entry in self._arriving if entry[0] != dead]
        return dead, messages.Gone()

    def _begin_receiving(self) -> None:
        """Begin to receive every message that is there."""
        from mpi4py import MPI  # noqa: PLC0415  (as above)

        status = MPI.Status()
        with self._tolerating(MPI.Exception):
            # Open MPI answers first and looks into its queues then: what has just arrived is found by the second probe
            while (
                envelope := self.comm.Improbe(MPI.ANY_SOURCE, CONTROL, status)
                or self.comm.Improbe(MPI.ANY_SOURCE, CONTROL, status)
            ) is not None:
                buffer = bytearray(status.Get_count(MPI.BYTE))
                self._arriving.append((status.Get_source(), envelope.Irecv([buffer, MPI.BYTE]), buffer))

    @contextlib.contextmanager
    def _tolerating(self, error: type[Exception]) -> Iterator[None]:
        """Take an error of the library for news of a death, where it tells of deaths that way."""
        try:
            yield
        except error:
            if not self.survives:
                raise
            self._deaths.extend(sorted(self._failures.look(now=True)))

    def _is_over(self, request: MPI.Request, *, broken: bool = False) -> bool:
        """Whether a transfer is complete; `broken` is the answer for one that the other rank's death has ended."""
        from mpi4py import MPI  # noqa: PLC0415  (as above)

        with self._tolerating(MPI.Exception):
            return bool(request.Test())
        return broken

    def _prune(self) -> None:
        """Forget what has left."""
        self._leaving = [entry for entry in self._leaving if not self._is_over(entry[0], broken=True)]

    def receive(self, deadline: float) -> tuple[int, messages.AnyMessage]:
        """Wait for the next message, or for the news that a rank has died.

        Parameters
        ----------
        deadline
            On the clock of `time.monotonic`, seconds.

        Returns
        -------
        tuple
            Rank of the sender and the message; `messages.Gone` in the name of a rank that has died.

        Raises
        ------
        waiting.Timeout
            None has come by the deadline.
        """
        heard: list[tuple[int, messages.AnyMessage]] = []

        def arrived() -> bool:
            found = self.poll()
            if found is not None:
                heard.append(found)
            return found is not None

        if not arrived():
            self.note(trace.WAITS)
            waiting.until(arrived, deadline, self._rest, self._longest_sleep)
        rank, message = heard[0]
        self.note(trace.HEARS, _PLACES[type(message)], rank, getattr(message, "round", 0))
        return rank, message

    def note_in(self, path: Path) -> None:
        """Note what happens in this file from now on."""
        if self.trace:  # of this process before it regrouped
            self.trace.close()
        self.trace = trace.Ring(path, self.rank)

    def note(self, what: int, kind: int = 0, peer: int = -1, number: int = 0) -> None:
        """Note in the trace what happens; see `silofold.core.trace`."""
        if self.trace:
            self.trace.note(what, kind, peer, number)

    def _rest(self, seconds: float) -> bool:
        """Sleep until the bell rings, but no longer than so many seconds, and short while a message is on its way.

        A large message moves in parts, each when one of its two ranks looks.
        """
        if self.trace:
            self.trace.flush()
        self._prune()
        travelling = self._leaving or self._arriving
        return self._wakeup.rest(min(seconds, waiting.LONGEST_SLEEP) if travelling else seconds)

    def flush(self, seconds: float) -> None:
        """Wait until all messages said are on their way.

        Raises
        ------
        waiting.Timeout
            Some receiver has not taken its message.
        """
        deadline = time.monotonic() + seconds
        for request, _ in self._leaving:
            waiting.until(lambda request=request: self._is_over(request, broken=True), deadline)  # type: ignore[misc]
        self._leaving.clear()
