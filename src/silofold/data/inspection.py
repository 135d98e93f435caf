"""Looking at silo files: by our plain reader where it understands them, else by a process with HDF5's library.

What that library makes of hostile bytes stays in the process. It is started by exec, never forked after MPI or torch, has a
deadline, and is ended by SIGKILL. What it tells is checked like any other text from elsewhere, and says at most where in the
file bytes lie: who reads checks their digest.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import IO, TYPE_CHECKING, Final, Self

import msgspec

from silofold.core import guarded, plain_hdf5
from silofold.core.errors import SchemaError
from silofold.data import look

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

START_SECONDS: Final = 60.0
"""For the start of the process: many small files, on a slow file system."""
FILE_SECONDS: Final = 30.0
"""For one file, beside the processor time that the process grants itself."""
_ANSWER_BYTES: Final = 2**28


class Dataset(msgspec.Struct, frozen=True):
    """What is known of a dataset.

    Attributes
    ----------
    fault
        What is there instead of one contiguous block of this file; empty if it is one.
    offset
        Its first byte in the file; none where it has no bytes.
    """

    fault: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    offset: int | None = None


class Other(msgspec.Struct, frozen=True):
    """An attribute of a kind that no silo file has."""

    other: str


class Facts(msgspec.Struct, frozen=True):
    """What a silo file holds, as far as HDF5's library understands it.

    Attributes
    ----------
    attributes
        Value of each attribute of the schema, none where it is missing.
    datasets
        By ``split/name``.
    fault
        Why nothing is known; empty if it is.
    """

    attributes: dict[str, int | str | list[int] | Other | None] = {}
    datasets: dict[str, Dataset] = {}
    fault: str = ""


class Inspector:
    """Who looks at files. Its process is started when a file needs it, and anew after one that ended it.

    Parameters
    ----------
    gently
        Whether it leaves the processor to others.
    """

    def __init__(self, *, gently: bool = False) -> None:
        self._gently = gently
        self._process: subprocess.Popen[bytes] | None = None
        self._heard = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def look(self, path: Path, size: int) -> Facts:
        """Tell what a regular file of so many bytes holds; a file as `write_silo` makes it needs no process.

        Raises
        ------
        SchemaError
            No process can be started.
        """
        plain = _plainly(path)
        if plain is not None:
            return plain
        process = self._process or self._start()
        request = json.dumps([os.fsencode(path).decode("latin-1"), size]).encode() + b"\n"
        with contextlib.suppress(OSError):  # it is gone: no answer says so
            _pipe(process.stdin).write(request)
        return self._answer(process, FILE_SECONDS) or Facts(fault=f"damaged: {self._end()}")

    def _start(self) -> subprocess.Popen[bytes]:
        # nothing that steers HDF5, Python or MPI reaches it: no plug-in, no other storage, no rank
        environment = {"HDF5_USE_FILE_LOCKING": "FALSE", "HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"}
        environment |= {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        places = [place for place in sys.path if os.path.isabs(place)]  # noqa: PTH117  (texts)
        command = [sys.executable, "-I", "-S", "-B", look.__file__, *places]
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        try:
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere, env=environment, bufsize=0)
        except (OSError, ValueError) as fault:
            raise SchemaError("data-look", f"{sys.executable}: cannot be started to look at silo files: {fault}") from None
        self._process, self._heard = process, b""
        if self._gently:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, process.pid, 19)
        answer = self._answer(process, START_SECONDS)
        if answer is None or answer.fault:
            words = answer.fault if answer else self._end()
            raise SchemaError("data-look", f"{sys.executable}: the process that looks at silo files: {words}")
        return process

    def _answer(self, process: subprocess.Popen[bytes], seconds: float) -> Facts | None:
        """Wait for a line; none if the process ends before, says too much, nothing or nonsense."""
        poll, deadline = select.poll(), time.monotonic() + seconds
        poll.register(_pipe(process.stdout), select.POLLIN | select.POLLHUP)
        while b"\n" not in self._heard[-(2**16) :]:
            left = deadline - time.monotonic()
            piece = os.read(_pipe(process.stdout).fileno(), 2**16) if left > 0 and poll.poll(1000 * left) else b""
            self._heard += piece
            if not piece or len(self._heard) > _ANSWER_BYTES:
                return None
        line, _, self._heard = self._heard.partition(b"\n")
        try:
            return guarded.decode(line, Facts)
        except guarded.UnfitError:
            return None

    def _end(self) -> str:
        """End the process at once, and say how it had ended, if it had."""
        process, self._process = self._process, None
        if process is None:
            return ""
        try:
            code: int | None = process.wait(0 if self._heard else 0.1)
        except subprocess.TimeoutExpired:
            code = None
        process.kill()
        for pipe in (process.stdin, process.stdout):
            _pipe(pipe).close()
        process.wait()
        if code is None or code == -signal.SIGPROF:
            return "HDF5's library comes to no end with it"
        return f"it ends HDF5's library by {_signal(-code)}" if code < 0 else f"it ends HDF5's library with code {code}"


def _plainly(path: Path) -> Facts | None:
    """Tell what a file holds without HDF5's library; none where it is not spelled as our writer spells files."""
    try:
        with plain_hdf5.File(path) as file:
            datasets = {
                name: Dataset("", str(found.dtype), found.shape, found.offset or None) for name, found in file.arrays.items()
            }
            return Facts({**file.attributes}, datasets)
    except (OSError, guarded.UnfitError):
        return None


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # noqa: S101  (it was asked for)
    return pipe


def _signal(number: int) -> str:
    return signal.Signals(number).name if number in {*signal.Signals} else f"signal {number}"
