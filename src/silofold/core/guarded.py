"""Files that come from elsewhere: nothing that others put there may hang, exhaust or crash the process that reads it.

A file is opened only if it is a regular one (a FIFO or device would wait for ever), read only up to a limit that its reader
names, and decoded only if it nests no deeper than `DEPTH`. This module knows no format but JSON.
"""

from __future__ import annotations

import codecs
import os
import stat
from typing import TYPE_CHECKING, TypeVar

import msgspec

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path

T = TypeVar("T")
DEPTH = 64
"""Brackets that may stand open at once in JSON or TOML: no settings or manifest comes near it."""
MIB = 2**20


class UnfitError(Exception):
    """A file or text is not one that may be read; the message says why, without its name."""


def opened(path: str | Path) -> BufferedReader:
    """Open a regular file for reading.

    Raises
    ------
    UnfitError
        It is a folder, a FIFO, a device or a socket.
    OSError
        It cannot be opened.
    """
    return os.fdopen(_handle(path)[0], "rb")


def read(path: str | Path, most: int) -> bytes:
    """Read a regular file whole.

    Parameters
    ----------
    path
        The file.
    most
        Bytes that it may have.

    Raises
    ------
    UnfitError
        It is no regular file, or larger.
    OSError
        It cannot be read.
    """
    handle, size = _handle(path)
    try:
        # Without a file object, whose making takes longer than the reading of a small file.
        data = os.read(handle, min(size, most) + 1)
        if len(data) != size:  # it grew, or it is of a kind that tells no size
            while len(data) <= most and (piece := os.read(handle, max(size - len(data), MIB))):
                data += piece
    finally:
        os.close(handle)
    if len(data) > most:
        raise UnfitError(f"found more than {most / MIB:g} MiB, expected at most that")
    return data


def _handle(path: str | Path) -> tuple[int, int]:
    """Open a regular file and tell its size."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # without waiting for the writer of a FIFO
    state = os.fstat(handle)
    if not stat.S_ISREG(state.st_mode):
        os.close(handle)
        raise UnfitError("found no regular file, expected one")
    return handle, state.st_size


def decode(text: bytes, kind: type[T]) -> T:
    """Decode JSON of a type; a byte order mark of UTF-8 in front of it is passed over.

    Raises
    ------
    UnfitError
        It is no UTF-8, no JSON, nested too deeply, or of another type; numbers that are not finite are no JSON.
    """
    text = text.removeprefix(codecs.BOM_UTF8)
    if text[:2] in _WIDE:
        raise UnfitError("found UTF-16 or UTF-32, expected JSON in UTF-8; save it as that")
    if depth(text) > DEPTH:
        raise UnfitError(f"found brackets nested more than {DEPTH} deep")
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as fault:
        raise UnfitError(_no_text(text) or str(fault)) from None


def _no_text(text: bytes) -> str:
    """Tell the first byte that is no UTF-8, if there is one: the parser counts from the start of a string."""
    try:
        text.decode()
    except UnicodeDecodeError as fault:
        line = text.count(b"\n", 0, fault.start) + 1
        return (
            f"found the byte 0x{text[fault.start]:02x} at position {fault.start} (line {line}), which is no UTF-8: "
            "another encoding, or damage; save it as UTF-8"
        )
    return ""


def depth(text: bytes) -> int:
    """Tell how deeply brackets are nested in a text; those in its strings count too: a parser keeps a limit of its own."""
    brackets = text.translate(None, _OTHERS)
    if len(brackets) > _MANY:  # a loop over millions would take half a minute
        return _depth_of_many(brackets)
    deepest = now = 0
    for letter in brackets:
        now += 1 if letter in b"[{" else -1
        deepest = max(deepest, now)
    return deepest


def _depth_of_many(brackets: bytes) -> int:
    import numpy as np  # noqa: PLC0415  (seldom needed, and status starts without it)

    deepest = now = 0
    for start in range(0, len(brackets), MIB):
        letters = np.frombuffer(brackets, np.uint8, min(MIB, len(brackets) - start), start)
        opened = np.where((letters == ord("[")) | (letters == ord("{")), 1, -1)
        steps = now + np.cumsum(opened, dtype=np.int64)
        deepest, now = max(deepest, int(steps.max())), int(steps[-1])
    return deepest


_MANY = 2**16
_WIDE = {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, b"{\0", b"\0{", b"[\0", b"\0[", b"\0\0"}
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))
