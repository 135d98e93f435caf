"""What is said on standard error and standard output: one line a fault, in one form, that no name in it can forge."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from silofold.core.errors import SilofoldError

NOBODY = {errno.EPIPE, errno.EIO, errno.EBADF}
"""Errors of writing that mean that nobody reads any more: the pipe is closed, the terminal is gone."""

LAUNCHED, UP = "SILOFOLD_LAUNCHED", "silofold: rank 0 is up"
"""Variable that `silofold launch` sets, and the line by which rank 0 tells it that it is up; no user sees it."""


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


def up() -> None:
    """Tell the launcher that started this rank that it is there: what goes wrong from now on is told by ranks."""
    if LAUNCHED in os.environ:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{UP}\n")
            sys.stderr.flush()


def settle() -> None:
    """See to it that a command goes on, and ends as it would, when nobody reads what it writes (``| head``, ``>&-``)."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed by who started this: the next file to be opened would take its place
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _unheard(1, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _unheard(2, sys.stderr)


class _Unheard(io.FileIO):
    """Standard output or error that swallows what nobody reads."""

    _full = False

    def write(self, data: Any, /) -> int:
        try:
            return memoryview(data).nbytes if self._full else super().write(data)
        except OSError as fault:
            if fault.errno not in NOBODY and self.fileno() == 1:
                from silofold.core.errors import ConfigError  # noqa: PLC0415  (the errors know this module's neighbours)

                self._full = True  # what is still to be flushed would be told once more
                raise ConfigError("out-write", f"standard output: {fault.strerror}") from None
            return memoryview(data).nbytes


def _unheard(number: int, before: io.TextIOBase | None) -> io.TextIOWrapper:
    """Make a text stream of a descriptor, buffered and encoded as the one before it."""
    raw = _Unheard(number, "w", closefd=False)
    known = before if isinstance(before, io.TextIOWrapper) else None
    at_once = number == 2 or (known is not None and known.write_through)
    lines = known.line_buffering if known else False
    return io.TextIOWrapper(
        cast("IO[bytes]", raw if at_once else io.BufferedWriter(raw)),
        known.encoding if known else "utf-8",
        "backslashreplace",
        line_buffering=lines or number == 2,
        write_through=at_once,
    )
