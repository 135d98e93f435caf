"""How things stood when a job was started: what its folder says later is compared with it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from silofold.core.endings import DONE, ENDINGS
from silofold.record import control

if TYPE_CHECKING:
    from pathlib import Path

    from silofold.core.endings import Ending
    from silofold.record.rundir import RunFolder


class Start(NamedTuple):
    """How things stood when a job was started.

    Attributes
    ----------
    began
        Seconds since 1970.
    folder
        Where the job runs.
    record, done, status
        When a record, a DONE and a status were written that were there already, ns; 0: there was none.
    """

    began: float
    folder: RunFolder
    record: int
    done: int
    status: int

    @classmethod
    def now(cls, folder: RunFolder) -> Start:
        """Look at what is there before the job is started."""
        return cls(time.time(), folder, stamp(folder.record), stamp(folder.done), stamp(folder.status))

    def has_begun(self) -> bool:
        """Whether the job has come to its first round."""
        return stamp(self.folder.record) not in {0, self.record}

    def told(self) -> tuple[Ending | None, str]:
        """Return how the job says that it ended, if it has said so, and the id of the error that ended it."""
        if stamp(self.folder.done) not in {0, self.done}:
            return DONE, ""
        if stamp(self.folder.status) in {0, self.status}:
            return None, ""
        status = control.read_status(self.folder)
        ending = next((ending for ending in ENDINGS if status and ending.name == status.ending and ending is not DONE), None)
        return ending, status.cause if status else ""

    def is_over(self) -> bool:
        """Whether the job has said its last word."""
        return self.told()[0] is not None


def stamp(path: Path) -> int:
    """Return when a file was written, ns; 0 for none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
