"""Free space on a disk, looked at before it is taken: a write that fails has filled the disk for everybody meanwhile."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from silofold.core.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


def check(folder: Path, needed: int, what: Path) -> None:
    """Refuse what does not fit.

    Parameters
    ----------
    folder
        A folder of the file system that is to hold it.
    needed
        Its bytes.
    what
        What is to be made, for the message.

    Raises
    ------
    SchemaError
        Less is free.
    """
    state = os.statvfs(folder)
    free = state.f_bavail * state.f_frsize
    if needed > free:
        raise SchemaError("data-space", f"{what}: No space left on device: needs {needed} bytes, found {free} free")


def of_files(folder: Path, sizes: Iterable[int]) -> int:
    """Count the bytes that files of these sizes (bytes) take in a folder, in whole blocks."""
    block = os.statvfs(folder).f_frsize or 1
    return sum(-(-size // block) * block for size in sizes)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Keep other processes from looking at a folder's free space until what is needed was reserved."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: two may look at once, and one of them finds the disk full
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
