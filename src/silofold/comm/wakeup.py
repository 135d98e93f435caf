"""A bell for ranks that wait: who sends a message to a rank of its own node wakes it.

MPI knows no way to sleep until a message comes: a waiting rank looks, sleeps and looks again. So that it need not look
often, a sender on the same machine rings after it has sent: an empty datagram to the other's socket, which has a name in
the kernel alone, no port and no file. A ring that is lost, or that cannot be heard in another container, costs the time to
the next look.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SELECTABLE = 1024
"""``select`` takes no file descriptor from here on."""


class Wakeup:
    """The bell of this rank, and those of the other ranks of its machine."""

    def __init__(self) -> None:
        self.name = b""
        """Where others ring; empty if this system has no such sockets."""
        self._others: dict[int, bytes] = {}
        self._door: socket.socket | None = None
        with contextlib.suppress(OSError):
            door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            door.settimeout(0)
            door.bind("")  # the kernel chooses a free name
            if door.fileno() < SELECTABLE:
                self._door, self.name = door, door.getsockname()

    def connect(self, names: Sequence[bytes]) -> None:
        """Take the names of the ranks on this machine, in the order of all ranks; those without one are empty."""
        self._others = {rank: name for rank, name in enumerate(names) if name} if self._door else {}

    def close(self) -> None:
        """Take the bell off: this rank is woken no more, and rings no more."""
        if self._door:
            self._door.close()
        self._door = None

    def ring(self, rank: int) -> None:
        """Wake a rank, if it can be woken: a queue that is full will wake it too."""
        if self._door and rank in self._others:
            with contextlib.suppress(OSError):
                self._door.sendto(b"", self._others[rank])

    def rest(self, seconds: float) -> bool:
        """Sleep so long or until the bell rings, and say whether it did."""
        if not self._door:
            time.sleep(seconds)
            return False
        rung = bool(select.select([self._door], [], [], seconds)[0])
        with contextlib.suppress(OSError):
            while rung:
                self._door.recv(1)
        return rung
