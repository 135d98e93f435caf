"""Calls into code of the user's own: whatever it raises becomes one line that names what was called and where it broke."""

from __future__ import annotations

import contextlib
import errno
import signal
import sysconfig
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from silofold.core.errors import SilofoldError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OURS = str(Path(__file__).parents[1])
"""Folder of this package."""
_LIBRARIES = (OURS, *{sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")}, "<frozen")
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE}
_interrupts: list[int] = []
LONGEST = 300
"""Characters of an exception's own words that are told."""


def is_own(filename: str) -> bool:
    """Whether a file of Python code is none of ours, of Python's or of a library's."""
    return not filename.startswith(_LIBRARIES)


def where(fault: BaseException) -> str:
    """Name file, line and function of the user's code in which an exception was raised; empty where there is none.

    A package of the user's own may be installed beside the libraries: then the last frame outside this package is told.
    """
    if isinstance(fault, SyntaxError) and fault.filename and not fault.filename.startswith(OURS):
        return f"{fault.filename}:{fault.lineno}"
    frames = traceback.extract_tb(fault.__traceback__)
    outside = [frame for frame in frames if not frame.filename.startswith(OURS)]
    own = [frame for frame in outside if is_own(frame.filename)]
    if not (own or outside):
        return ""
    frame = (own or outside)[-1]
    return f"{frame.filename}:{frame.lineno} in {frame.name}"


def told(fault: BaseException) -> str:
    """Put an exception into one line: its class, the first line of its words, and where it was raised."""
    try:
        words = next((line.strip() for line in str(fault).splitlines() if line.strip()), "")
    except Exception:  # noqa: BLE001  (the user's exception may raise when it is asked for its words)
        words = ""
    place = where(fault)
    text = f"{type(fault).__name__}: {words[:LONGEST]}" if words else type(fault).__name__
    return f"{text} ({place})" if place else text


def token(fault: BaseException) -> str:
    """Tell what kind of exception it is and where it was raised, so that two can be told to be the same."""
    return f"{type(fault).__name__} {where(fault)}".rstrip()


def lacks_memory(fault: BaseException) -> bool:
    """Whether the machine's memory was full, which says nothing of the code that asked for it."""
    if {kind.__name__ for kind in type(fault).__mro__} & {"MemoryError", "OutOfMemoryError"}:
        return True
    # torch's allocator for a CPU raises a bare RuntimeError, which nothing but its name in the words tells apart
    return type(fault) is RuntimeError and "DefaultCPUAllocator" in str(fault)


def is_full(fault: BaseException) -> bool:
    """Whether a write failed because of the disk it went to, and not because of who wrote."""
    return isinstance(fault, OSError) and fault.errno in _DISK


def heed_interrupts() -> None:
    """Take note of SIGINT: code of the user's own may raise `KeyboardInterrupt` where nobody has interrupted it."""

    def heed(*_: object) -> None:
        _interrupts.append(1)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, heed)


def is_none_of_its(fault: BaseException) -> bool:
    """Whether an exception that came out of user's code is not its own: an interrupt, or a generator that is closed."""
    if isinstance(fault, KeyboardInterrupt):
        return bool(_interrupts)
    return isinstance(fault, GeneratorExit) and not where(fault)


@contextlib.contextmanager
def calling(make: Callable[[BaseException], SilofoldError]) -> Iterator[None]:
    """Call code of the user's own; faults of ours pass through as they are.

    Parameters
    ----------
    make
        Makes the error, out of whatever the code raises, `SystemExit` included.

    Raises
    ------
    SilofoldError
        It raised.
    """
    try:
        yield
    except SilofoldError:
        raise
    except BaseException as fault:
        if is_none_of_its(fault):
            raise
        raise make(fault) from fault
