"""The run's own record of its rounds, ``metrics.jsonl``: one JSON line a round, read back on resume and replay."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from silofold.errors import RunFolderError
from silofold.messages import Summary
from silofold.record import rundir

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from silofold.messages import SiloSummary


class History:
    """Appends summaries to a file that a crash cannot leave inconsistent with the checkpoints.

    Parameters
    ----------
    path
        The file.
    earlier
        Rounds to begin with; whatever else the file holds (rounds after the checkpoint that is resumed) is dropped.
    """

    def __init__(self, path: Path, earlier: Sequence[Summary]) -> None:
        self.earlier = tuple(earlier)
        rundir.write_atomically(path, b"".join(map(_line, earlier)))
        self._file = path.open("ab")

    def append(self, summary: Summary) -> None:
        """Write one line and make it durable."""
        self._file.write(_line(summary))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(path: Path) -> list[Summary]:
    """Read all whole lines; a last line that a crash cut short is left out.

    Raises
    ------
    RunFolderError
        The file cannot be read, or a line before the last is damaged.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as fault:
        raise RunFolderError("run-read", f"{path}: {fault.strerror}") from None
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    summaries = []
    for number, line in enumerate(lines, 1):
        try:
            summaries.append(msgspec.json.decode(line, type=Summary))
        except (msgspec.DecodeError, UnicodeDecodeError) as fault:
            raise RunFolderError("run-read", f"{path}, line {number}: not the summary of a round: {fault}") from None
    return summaries


def fill_in(summary: Summary, untold: Sequence[SiloSummary]) -> Summary:
    """Add the silos that are left out of the file; `untold` has an entry of each silo."""
    return msgspec.structs.replace(summary, silos=list(({one.silo: one for one in [*untold, *summary.silos]}).values()))


def _line(summary: Summary) -> bytes:
    """Encode a summary, without the silos that have nothing to tell: thousands of them would be most of the file."""
    cohort = set(summary.cohort)
    told = [silo for silo in summary.silos if silo.accuracy is not None or silo.reason or silo.silo in cohort]
    return msgspec.json.encode(msgspec.structs.replace(summary, silos=told)) + b"\n"
