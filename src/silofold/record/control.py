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

from silofold.core import files, guarded, machine
from silofold.core.errors import RunFolderError

if TYPE_CHECKING:
    from pathlib import Path

    from silofold.core.endings import Ending
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
    """How it went, once it is over, for people."""
    ending: str = ""
    """Name of its ending in `silofold.core.endings.ENDINGS`; empty while it runs, and in files of older versions."""
    cause: str = ""
    """Id of the error that ended it, if one did."""


class Requests(msgspec.Struct, frozen=True):
    """What a running job is asked."""

    stop: Stop = ""
    scale: int = 0
    dropped: tuple[str, ...] = ()
    """What was asked of another job than this one."""


class End(msgspec.Struct, frozen=True):
    """How the last starts of a batch job ended: so many in a row alike, and without a new checkpoint."""

    cause: str = ""
    checkpoint: str = ""
    times: int = 0
    asked: bool = False
    """Whether a batch script has asked about it: what ends after that and notes nothing is another start."""


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


def leave_word(folder: RunFolder, ending: Ending, story: str, cause: str = "") -> None:
    """Write into the status how the job ended, where nobody has: a fault of a rank, or of all of them."""
    try:
        status = read_status(folder)
    except RunFolderError:
        status = None
    now = time.time()
    told = status or Status(
        written=now, started=now, host=machine.host(), phase="starting", round=0, counted=0, wanted=0, round_seconds=0.0,
        usual_seconds=0.0, waiting_for=[], late={}, workers=[], standbys=[], dead=[], benched=[],
    )  # fmt: skip
    write_status(folder, msgspec.structs.replace(told, written=now, ended=story, ending=ending.name, cause=cause))


def note_end(folder: RunFolder, cause: str) -> End:
    """Count how many starts in a row ended by the same cause and without a new checkpoint, this one included."""
    newest = max((path.name for path in folder.checkpoints.glob("round_*")), default="")
    before = read_end(folder)
    alike = (before.cause, before.checkpoint) == (cause, newest)
    end = End(cause, newest, before.times + 1 if alike else 1)
    keep_end(folder, end)
    return end


def keep_end(folder: RunFolder, end: End) -> bool:
    """Write how the last starts ended, and tell whether that could be: on a full disk starts cannot be counted."""
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        files.write_atomically(folder.last_end, msgspec.json.encode(end))
    except OSError:
        return False
    return True


def read_end(folder: RunFolder) -> End:
    """Read how the last starts ended; nothing where that was not noted."""
    try:
        return guarded.decode(guarded.read(folder.last_end, guarded.MIB), End)
    except (OSError, guarded.UnfitError):
        return End()


def forget_end(folder: RunFolder) -> None:
    """Begin to count anew."""
    with contextlib.suppress(OSError):
        folder.last_end.unlink(missing_ok=True)


def ask_stop(folder: RunFolder, *, now: bool, to: float = 0.0) -> None:
    """Ask the job to end after its round, or at once; a second request does not take back the first.

    Parameters
    ----------
    folder
        The run folder.
    now
        In the middle of the round.
    to
        `Status.started` of the job that is meant; 0 for the one that was started last.
    """
    _ask(folder.stop_request, "now" if now else "round", to)


def ask_scale(folder: RunFolder, change: int, to: float = 0.0) -> None:
    """Ask the job to use so many workers more or fewer."""
    _ask(folder.scale_request, str(change), to)


def _ask(path: Path, text: str, to: float) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, f"{text} {to!r}".encode() if to else text.encode())
    except OSError as fault:
        raise RunFolderError("run-write", f"{path}: cannot be written: {fault.strerror}") from None


def take_requests(folder: RunFolder, since: float, names: frozenset[float] = frozenset()) -> Requests:
    """Return what was asked of this job, and take it off the desk.

    Parameters
    ----------
    folder
        The run folder.
    since
        When the job was started, seconds since 1970 on the clock of the folder's file system: what names no job and is
        older was left over.
    names
        `Status.started` of this job, by which it is asked.
    """
    stop, scale = _take(folder.stop_request, since, names), _take(folder.scale_request, since, names)
    dropped = tuple(f"{path.name} {text}".strip() for path, (text, meant) in
                    ((folder.stop_request, stop), (folder.scale_request, scale)) if not meant)  # fmt: skip
    change = scale[0] if scale[1] else ""
    word = stop[0] if stop[1] else ""
    return Requests(
        "now" if word == "now" else "round" if word else "",
        int(change) if re.fullmatch(r"[+-]?[0-9]{1,6}", change) else 0,
        dropped,
    )


def _take(path: Path, since: float, names: frozenset[float]) -> tuple[str, bool]:
    """Take a request: what is asked, and whether of this job; without a request, nothing is asked of it."""
    try:
        written = path.stat().st_mtime
        text, _, to = guarded.read(path, 256).decode("ascii", "replace").strip().partition(" ")
        path.unlink()
    except (OSError, guarded.UnfitError):  # somebody else's file, a FIFO say: nothing that a job could be asked by
        return "", True
    if to:
        return text, to in {repr(name) for name in names}
    return text, written >= since - 1  # one second for the clocks of two machines


def clock(folder: RunFolder) -> float:
    """Return the time of the folder's file system, seconds since 1970, as a status that was just written tells it."""
    try:
        return folder.status.stat().st_mtime
    except OSError:
        return time.time()


def withdraw(folder: RunFolder) -> None:
    """Take everything off the desk: what was asked of an earlier job."""
    take_requests(folder, time.time() + 2)
