"""Logs: one file a rank in the run folder; warnings of any rank also on standard error."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def start(path: Path, title: str) -> None:
    """Send this rank's log to its file, and its warnings to standard error as well.

    Parameters
    ----------
    path
        The log file; its folder is made.
    title
        Name of the rank, part of every line.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    form = logging.Formatter(f"%(asctime)s {title} %(levelname)s %(message)s")
    file = logging.FileHandler(path, encoding="utf-8")
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
