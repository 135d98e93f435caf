"""The run folder: every file name in it, and writing that never leaves half a file under a final name."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from typing import TYPE_CHECKING, Any

import msgspec

from silofold.core import files
from silofold.core.errors import RunFolderError
from silofold.record import run_record

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from silofold.record.run_record import Record


LOCK = ".lock"
LAST_END = ".last_end"
STATUS = "status.json"
_RANK = re.compile(r"scheduler|(?:server|standby|worker)_\d{1,9}")
_NO_RUN = re.compile(rf"{re.escape(LOCK)}|{re.escape(LAST_END)}|status\.(json|tmp)|\.idle_starts|control|{_RANK.pattern}")
"""What a start leaves that came to no round; ``.idle_starts`` is of version 0.1."""


class RunFolder:
    """Paths of a run.

    Parameters
    ----------
    path
        The folder itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record = path / "run.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.states = path / "state"
        self.model = path / "model.pt"
        self.predictions = path / "predictions.h5"
        self.done = path / "DONE"
        self.lock = path / LOCK
        self.status = path / STATUS
        self.last_end = path / LAST_END
        self.ours = False
        """Whether this process's job has claimed the folder: then it may write in it how it ended."""
        self.stop_request = path / "control" / "stop"
        self.scale_request = path / "control" / "scale"

    def rank(self, title: str) -> Path:
        """Return the folder of a rank: ``scheduler``, ``server_0``, ``worker_3``."""
        return self.path / title

    def titles(self) -> list[str]:
        """Name the ranks that have a folder."""
        return sorted(path.name for path in self.path.glob("*") if _RANK.fullmatch(path.name) and path.is_dir())

    def log(self, title: str) -> Path:
        """Return the log file of a rank: ``scheduler/scheduler.log``, ``server_0/server.log``."""
        return self.rank(title) / f"{title.partition('_')[0]}.log"

    def trace(self, title: str) -> Path:
        """Return the trace of a rank: ``worker_3/trace.bin``."""
        return self.rank(title) / "trace.bin"

    def worker_checkpoint(self, title: str, batch_size: int, number: int) -> Path:
        """Return where a worker keeps the model it received after round `number`, named as in the original."""
        index = title.partition("_")[2]
        return self.rank(title) / "ckpt" / f"{index}-fl-silofold-bs{batch_size}-{number - 1}epoch.pt"

    def claim(self) -> bool:
        """Make the folder, or find the unfinished run in it.

        Returns
        -------
        bool
            True if there is an unfinished run to go on with.

        Raises
        ------
        RunFolderError
            The folder holds a finished run or other files, or it cannot be made or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # logs of a start that failed before its first round are no run: they may be written over
            found = sorted(entry.name for entry in self.path.iterdir() if not _NO_RUN.fullmatch(entry.name))
            # held until this process ends, however it ends: two jobs would write over each other's rounds
            self._lock = open(self.lock, "wb", opener=_no_wait)  # noqa: SIM115  (held, and not only for a block)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFolderError(
                "run-busy", f"{self.path}: another job is at work in this folder; choose another --out"
            ) from None
        except OSError as fault:
            raise RunFolderError("run-folder", f"{self.path}: cannot be used as run folder: {fault.strerror}") from None
        if self.done.exists():
            raise RunFolderError(
                "run-finished",
                f"{self.path}: holds a finished run (DONE); choose another --out, or make it longer with "
                f"--resume {self.path} --set rounds.count=...",
            )
        if self.record.exists():
            return True
        if found:
            raise RunFolderError(
                "run-folder", f"{self.path}: found {found[0]!r} and no run.json, expected an empty folder or a run"
            )
        return False

    def rehearse(self) -> bool:
        """Find out what `claim` would, and leave the folder as it was.

        Raises
        ------
        RunFolderError
            As `claim` does.
        """
        made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        locked = self.lock.exists()
        try:
            found = self.claim()
            self.release()
        finally:
            if not locked:
                self.lock.unlink(missing_ok=True)
            for path in made:
                with contextlib.suppress(OSError):
                    path.rmdir()
        return found

    def release(self) -> None:
        """Let another process, or this one again, claim the folder."""
        self._lock.close()

    def read_record(self) -> Record:
        """Read ``run.json``.

        Raises
        ------
        RunFolderError
            It is missing or damaged.
        """
        return run_record.read(self.record)

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write ``run.json``."""
        files.write_atomically(self.record, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


def _no_wait(path: str, flags: int) -> int:
    """Open a file for writing, but no FIFO, which would wait for a reader."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW, 0o666)
