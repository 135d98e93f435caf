"""Ranks that a signal of their own making ends, a segmentation fault say: each leaves in its log where it was."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import signal
from typing import IO, TYPE_CHECKING

from silofold.core import guarded, user_code

if TYPE_CHECKING:
    from pathlib import Path

FATAL = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)
"""Signals that a mistake of compiled code raises."""
LAST = 64 * 1024
"""Bytes at the end of a log that are looked at."""
BEGINS = " INFO starts: process "
"""In the first line of each start."""


def heed(log: IO[str] | None) -> None:
    """Have this process write where it was into its log when it dies so; the MPI library would dump its own stack instead.

    Parameters
    ----------
    log
        Open for as long as this process lives.
    """
    for number in FATAL:
        signal.signal(number, signal.SIG_DFL)  # what is in force now would be called after faulthandler's
    if log:
        faulthandler.enable(log, all_threads=False)


def told(log: Path) -> str:
    """Say by what a rank died and where it was, in one line; empty where its log does not tell."""
    text = ""
    with contextlib.suppress(OSError, guarded.UnfitError), guarded.opened(log) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - LAST))
        text = file.read(LAST).decode(errors="replace").rpartition(BEGINS)[2]
    _, met, rest = text.rpartition("Fatal Python error: ")
    if not met:
        return ""
    frames: list[tuple[str, str, str]] = re.findall(r'^  File "(.+)", line (\d+) in (.+)$', rest, re.MULTILINE)
    own = [one for one in frames if user_code.is_own(one[0])]
    signal_name = rest.partition("\n")[0].strip()[:80]
    return next((f"{signal_name} ({file}:{line} in {name})" for file, line, name in own or frames), signal_name)


def since(folder: Path, began: float) -> list[str]:
    """Say the same of the ranks that a run folder has logs of which were written since a time, three of them at most."""
    found: list[str] = []
    for log in sorted(folder.glob("*/*.log")):
        with contextlib.suppress(OSError):
            if log.stat().st_mtime >= began and (story := told(log)):
                found.append(f"{log.parent.name}: {story}")
    return found[:3]
