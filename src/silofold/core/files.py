"""How a file gets its name: whole, on disk, or not at all, also after a crash of the machine."""

from __future__ import annotations

import contextlib
import itertools
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_drafts = itertools.count()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Lend a draft's name beside a file; what is written there takes the file's name on success.

    Raises
    ------
    OSError
        The draft cannot be written or renamed; the file stays as it was.
    """
    # a signal's handler may write the file while its own process is writing it
    draft = path.with_name(f".{path.name}.{os.getpid()}.{next(_drafts)}")
    try:
        yield draft
        sync(draft)
        draft.replace(path)
    except OSError as fault:
        fault.filename = str(path)  # a write that finds the disk full does not know whose it is
        raise
    finally:
        draft.unlink(missing_ok=True)
    sync(path.parent)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file.

    Raises
    ------
    OSError
        As for `replacing`.
    """
    with replacing(path) as draft:
        draft.write_bytes(data)


def rename(draft: Path, final: Path) -> None:
    """Give a file or folder whose content is on disk its name, and make that durable.

    Raises
    ------
    OSError
        It cannot be renamed.
    """
    draft.replace(final)
    sync(final.parent)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
