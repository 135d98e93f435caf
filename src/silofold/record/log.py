"""Logs: one file a rank in the run folder; warnings of any rank also on standard error."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import IO, TYPE_CHECKING

from silofold.core import console

if TYPE_CHECKING:
    from pathlib import Path


class OneLine(logging.Formatter):
    """One line a record, whatever stands in the names that it tells of; the lines of a traceback are set in."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        record.message = console.shown(record.getMessage())
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        traceback = self.formatException(record.exc_info) if record.exc_info else ""
        return "\n    ".join([self.formatMessage(record), *map(console.shown, traceback.splitlines())])


class _File(logging.FileHandler):
    """A log that a full disk costs its last lines, and not a traceback a line on standard error."""

    _told = False
    begun = False
    """Whether its first line is written: a rank whose log cannot be begun does not start."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (the name is logging's)
        """Say once what is wrong."""
        del record
        fault = sys.exc_info()[1]
        if not self.begun and isinstance(fault, OSError):
            raise OSError(fault.errno, fault.strerror, self.baseFilename)
        if not self._told:
            self._told = True
            console.say(f"{self.baseFilename}: the log cannot be written: {sys.exc_info()[1]}")


def start(path: Path, title: str) -> IO[str] | None:
    """Send this rank's log to its file, and its warnings to standard error as well.

    Parameters
    ----------
    path
        The log file; its folder is made.
    title
        Name of the rank, part of every line.

    Returns
    -------
    IO
        The file; none where there is none to open.

    Raises
    ------
    OSError
        The file cannot be made, or its first line not be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():  # of a folder that somebody else has made: it must not lead out of it
        path.unlink()
    form = OneLine(f"%(asctime)s {title} %(levelname)s %(message)s")
    file = _File(path, encoding="utf-8", errors="backslashreplace")
    stream = logging.StreamHandler(sys.stderr)
    stream.setLevel(logging.WARNING)
    root = logging.getLogger("silofold")
    root.setLevel(logging.INFO)
    root.propagate = False
    for old in root.handlers[:]:  # of this process before it regrouped
        root.removeHandler(old)
        old.close()
    for handler in (file, stream):
        handler.setFormatter(form)
        root.addHandler(handler)
    try:
        root.info("starts: process %d", os.getpid())
    except OSError:
        root.removeHandler(file)
        with contextlib.suppress(OSError):
            file.close()
        raise
    file.begun = True
    return file.stream
