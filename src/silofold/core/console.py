"""What is said on standard error: one line a fault, in one form, that no name in it can forge."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from silofold.errors import SilofoldError


def shown(text: str) -> str:
    r"""Escape whatever a terminal would not print as itself: ``\n``, ``\x1b``, ``\u202e``; names come from elsewhere."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def write(text: str) -> None:
    """Write to standard output; letters that its encoding does not have become question marks."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))


def say(line: str) -> None:
    """Write one line to standard error; where that is closed nobody reads it."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"silofold: {shown(line)}\n")
        sys.stderr.flush()


def error(fault: SilofoldError) -> int:
    """Tell a fault in one line with its id, and return the exit code."""
    say(f"error: {fault} [{fault.id}]")
    return fault.exit_code
