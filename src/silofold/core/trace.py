"""``trace.bin`` of each rank: its last messages, waits and collectives, on disk as they happen.

A ring of records of one length, written in place without fsync: what a rank has written is there after SIGKILL, and a
running, stopped or dead job can be looked at without its help. Nothing rests on it, so a fault of the file ends the trace
and never the job.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from silofold.core import guarded
from silofold.core.errors import RunFolderError

if TYPE_CHECKING:
    from pathlib import Path

_RECORD: Final = struct.Struct("<dIiiHBB")
"""Seconds since 1970, number from 1, the other rank, round, this rank, what, kind: 24 bytes."""
SLOTS: Final = 2048
FLUSH_EVERY: Final = 1e-3
"""Seconds between two writes: a scheduler of ten thousand ranks hears more often than that."""
MOST_WAITING: Final = 256
"""Events that are not written yet, at most."""
SAYS, HEARS, WAITS, MOVES, MOVED, BROKE = range(1, 7)
"""What happened: a message left, one came, a wait for one began, a collective began, ended, or broke."""
MODEL, UPDATES = range(2)
"""What a collective moves."""


class Event(NamedTuple):
    """One thing that happened on a rank.

    Attributes
    ----------
    at
        Seconds since 1970, on the clock of the rank's machine.
    number
        Events of a rank are numbered from 1.
    peer
        The other rank; -1 where there is none.
    round
        Of the message, or the last one that was heard of.
    rank
        Whose event it is.
    what
        `SAYS` … `BROKE`.
    kind
        Place of the message's kind in `silofold.core.messages.KINDS`; of a collective `MODEL` or `UPDATES`.
    """

    at: float
    number: int
    peer: int
    round: int
    rank: int
    what: int
    kind: int


class Ring:
    """A rank's trace, being written; an earlier one of the same file is gone on with.

    Parameters
    ----------
    path
        The file; its folder must be there.
    rank
        This rank.
    """

    def __init__(self, path: Path, rank: int) -> None:
        self._rank, self._round, self._number = rank, 0, 0
        self._waiting: list[bytes] = []
        self._flushed = 0.0
        self._file = -1
        with contextlib.suppress(OSError):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
            found = os.fstat(self._file)
            if not stat.S_ISREG(found.st_mode):
                self.close()
            elif found.st_size > SLOTS * _RECORD.size:
                os.ftruncate(self._file, 0)
            else:
                self._number = max((event.number for event in _events(os.pread(self._file, found.st_size, 0))), default=0)

    def note(self, what: int, kind: int, peer: int = -1, number: int = 0) -> None:
        """Take note of something; `number` is the round, 0 for the one before."""
        if self._file < 0:
            return
        self._number = (self._number + 1) & 0xFFFFFFFF or 1
        self._round = number or self._round
        now = time.time()
        self._waiting.append(_RECORD.pack(now, self._number, peer, self._round, self._rank, what, kind))
        if now - self._flushed > FLUSH_EVERY or len(self._waiting) >= MOST_WAITING:
            self._flushed = now
            self.flush()

    def flush(self) -> None:
        """Write what has been noted."""
        if not self._waiting or self._file < 0:
            return
        first = (self._number - len(self._waiting)) % SLOTS
        data, self._waiting = b"".join(self._waiting), []
        until = (SLOTS - first) * _RECORD.size
        try:
            os.pwrite(self._file, data[:until], first * _RECORD.size)
            if data[until:]:
                os.pwrite(self._file, data[until:], 0)
        except OSError:
            self.close()

    def close(self) -> None:
        """Note no more."""
        handle, self._file = self._file, -1
        with contextlib.suppress(OSError):
            os.close(handle)


def read(path: Path) -> list[Event]:
    """Read a rank's trace, oldest event first.

    Raises
    ------
    RunFolderError
        It cannot be read, or is no trace.
    """
    try:
        data = guarded.read(path, SLOTS * _RECORD.size)
    except OSError as fault:
        raise RunFolderError("run-read", f"{path}: {fault.strerror}") from None
    except guarded.UnfitError as fault:
        raise RunFolderError("run-read", f"{path}: {fault}, expected the trace of a rank") from None
    return sorted(_events(data), key=lambda event: event.number)


def _events(data: bytes) -> list[Event]:
    whole = data[: len(data) // _RECORD.size * _RECORD.size]
    return [event for fields in _RECORD.iter_unpack(whole) if (event := Event(*fields)).number and event.what]
