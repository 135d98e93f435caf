"""What a running job says of itself in its folder, and what it can be asked there: to stop, or to use more or fewer workers.

Only files of the run folder are used, so that any machine that sees the file system can look and ask; no port is opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import time
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from silofold.core import guarded
from silofold.errors import RunFolderError
from silofold.record import rundir

if TYPE_CHECKING:
    from pathlib import Path

    from silofold.record.rundir import RunFolder

MOST = 16 * guarded.MIB
"""Bytes that a status may have."""
Stop: TypeAlias = Literal["", "round", "now"]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What the scheduler is about, written anew every second or so."""

    written: float
    """Seconds since 1970."""
    started: float
    host: str
    """Where the scheduler runs."""
    phase: str
    round: int
    counted: int
    """Rounds that count so far, of `wanted`."""
    wanted: int
    round_seconds: float
    """Seconds since the round's plan."""
    usual_seconds: float
    """Median of the last rounds."""
    waiting_for: list[str]
    late: dict[str, int]
    """Windows in a row that a rank missed."""
    workers: list[str]
    standbys: list[str]
    dead: list[str]
    benched: list[int]
    ended: str = ""
    """How it went, once it is over; ``stopped`` begins it when that was asked for."""


class Requests(msgspec.Struct, frozen=True):
    """What a running job is asked."""

    stop: Stop = ""
    scale: int = 0


def write_status(folder: RunFolder, status: Status) -> None:
    """Write the status so that a reader finds it whole; a full disk costs the status, not the run."""
    draft = folder.status.with_suffix(".tmp")
    with contextlib.suppress(OSError):
        draft.write_bytes(msgspec.json.encode(status))
        draft.replace(folder.status)


def read_status(folder: RunFolder) -> Status | None:
    """Read the status; none if the job has not begun its rounds.

    Raises
    ------
    RunFolderError
        It is damaged.
    """
    try:
        return guarded.decode(guarded.read(folder.status, MOST), Status)
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise RunFolderError("run-read", f"{folder.status}: cannot be read: {fault.strerror}") from None
    except guarded.UnfitError as fault:
        raise RunFolderError("run-read", f"{folder.status}: cannot be read: {fault}") from None


def is_running(folder: RunFolder) -> bool:
    """Whether a process of this machine, or of one that shares its locks, holds the folder."""
    try:
        with guarded.opened(folder.lock) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (OSError, guarded.UnfitError):
        return False
    return False


def ask_stop(folder: RunFolder, *, now: bool) -> None:
    """Ask the job to end after its round, or at once; a second request does not take back the first."""
    _ask(folder.stop_request, "now" if now else "round")


def ask_scale(folder: RunFolder, change: int) -> None:
    """Ask the job to use so many workers more or fewer."""
    _ask(folder.scale_request, str(change))


def _ask(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        rundir.write_atomically(path, text.encode())
    except OSError as fault:
        raise RunFolderError("run-write", f"{path}: cannot be written: {fault.strerror}") from None


def take_requests(folder: RunFolder, since: float) -> Requests:
    """Return what was asked after `since`, seconds since 1970, and take it off the desk."""
    stop, scale = _take(folder.stop_request, since), _take(folder.scale_request, since)
    change = int(scale) if re.fullmatch(r"[+-]?[0-9]{1,9}", scale) else 0
    return Requests("now" if stop == "now" else "round" if stop else "", change)


def _take(path: Path, since: float) -> str:
    try:
        if path.stat().st_mtime < since - 1:  # left over from a job that died; one second for the clocks of two machines
            path.unlink()
            return ""
        text = guarded.read(path, 64).decode("ascii", errors="replace").strip()
        path.unlink()
    except (OSError, guarded.UnfitError):  # somebody else's file, a FIFO say: nothing that a job could be asked by
        return ""
    return text


def withdraw(folder: RunFolder) -> None:
    """Take everything off the desk: what was asked of an earlier job."""
    take_requests(folder, time.time() + 2)
