"""What a launcher and its ranks write, on its way to the user.

Until a rank is up it is kept back: where none gets that far, the launcher's many lines become one.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import select
import time
from typing import TYPE_CHECKING

from silofold.core import console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UP = f"{console.UP}\n".encode()
SPOKEN = (b"silofold: error: ", b": internal error\n")
"""What the last words of a rank hold."""
KEPT_FOR, KEPT = 20.0, 2**18
"""Seconds and bytes at most: a launcher that hangs is to be heard."""
SHOWN = 300
"""Characters of a launcher's words that are shown where it could not start the ranks."""
CHUNK = 2**16


class Relay:
    """The bytes of a stream, kept back until a rank is up.

    Attributes
    ----------
    lived
        Whether a rank got so far.
    kept
        What has not been passed on.
    said
        What was said before a rank was up, passed on or not; at most `KEPT` bytes of it.
    spoken
        Whether a rank has said why it ends: an exit code without that is none of ours.
    """

    def __init__(self) -> None:
        self.lived = self.spoken = False
        self.kept = self.said = self._end = b""
        self._opens = time.monotonic() + KEPT_FOR

    def take(self, data: bytes) -> bytes:
        """Return what may be passed on now that this has come."""
        self._end = self._end[1 - max(map(len, SPOKEN)) :] + data
        self.spoken |= any(words in self._end for words in SPOKEN)
        if not self.lived:
            self.said = (self.said + data)[:KEPT]
            data, self.kept = self.kept + data, b""
            if UP in data:
                self.lived = True
                return data.replace(UP, b"", 1)
            if len(data) < KEPT and time.monotonic() < self._opens:
                data, self.kept = b"", data
        return data

    def rest(self) -> bytes:
        """Return all that was kept back."""
        data, self.kept = self.kept, b""
        return data


def stream(source: int, take: Callable[[bytes], bytes], out: Callable[[bytes], object]) -> None:
    """Pass on what comes from a file descriptor until its end; that nobody reads it any more must not stop its writer."""
    while True:
        ready = select.select([source], [], [], 1.0)[0]
        data = os.read(source, CHUNK) if ready else b""
        if passed := take(data):
            with contextlib.suppress(OSError, ValueError):
                out(passed)
        if ready and not data:
            return


def lines(source: int, take: Callable[[bytes], bytes]) -> Iterator[str]:
    """Yield the lines that come from a file descriptor, whatever their bytes."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = ""
    while data := os.read(source, CHUNK):
        text += decoder.decode(take(data))
        *whole, text = text.split("\n")
        yield from whole
    if text:
        yield text


def essence(words: str) -> str:
    """Put what a launcher or a rank says of its failure into one line.

    An exception's own words; else the first sentence and the lines of the form ``Component: nope`` that follow it.
    """
    told = words.splitlines()
    for index in range(len(told) - 1, -1, -1):
        if told[index].startswith("Traceback (most recent call last)"):
            said = next((line for line in told[index + 1 :] if line.strip() and not line.startswith(" ")), "")
            return _short(said)
    rulers = [index for index, line in enumerate(told) if len(line) > 40 and not line.strip("-")]
    if len(rulers) > 1:  # Open MPI puts what it explains between two
        told = told[rulers[0] + 1 : rulers[1]]
    lines = [line for line in told if line.strip("-=* \t")]
    plain = [line for line in lines if not line.startswith("***")] or lines
    details = list(dict.fromkeys(" ".join(line.split()) for line in plain if _DETAIL.match(line)))
    first = _short(" ".join(line for line in plain if not _DETAIL.match(line)))
    sentence = first.partition(". ")[0] if details else first
    return _short(". ".join(part.rstrip(".") for part in (sentence, ", ".join(details)) if part))


def explains(words: str) -> bool:
    """Whether a launcher or a rank has told of a failure, and not only warned."""
    return any(sign in words for sign in ("Traceback (most recent call last)", "silofold: ", "----------", "=====", "rror"))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN].rpartition(' ')[0]} …"


_DETAIL = re.compile(r"\s*[A-Z][A-Za-z -]{1,30}:\s+\S")
