"""What is done alike wherever data is made: several processes, progress, and a new folder that is whole or not there."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

from silofold.core.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

T = TypeVar("T")
R = TypeVar("R")

broken_off: list[int] = []
"""Not empty once processes were ended in the middle of their work: who ends this process must not wait for its threads."""


def os_reason(error: OSError) -> str:
    """Name file and reason of a failed system call."""
    # Of a copy that failed, the second name is the one that was written.
    return ": ".join(str(part) for part in (error.filename2 or error.filename, error.strerror or error) if part)


def each(work: Callable[[T], R], tasks: Sequence[T], jobs: int, unit: str) -> Iterator[R]:
    """Do every task, in several processes, and yield the results in the order of the tasks.

    Raises
    ------
    SchemaError
        A process was killed from outside; whatever a task raises comes through as it is.
    """
    jobs = min(jobs, len(tasks))
    if jobs < 2:
        yield from _progress(map(work, tasks), len(tasks), unit)
        return
    yield from _progress(_in_processes(work, tasks, jobs), len(tasks), unit)


def _in_processes(work: Callable[[T], R], tasks: Sequence[T], jobs: int) -> Iterator[R]:
    executor = ProcessPoolExecutor(jobs, initializer=_leave_signals_to_parent)
    finished = False
    try:
        futures = deque(executor.submit(work, task) for task in tasks)
        for _ in tasks:
            yield futures.popleft().result()
        finished = True
    except BrokenProcessPool as error:
        raise SchemaError(
            "tool-killed", "a process of this tool was killed, out of memory perhaps; try fewer --jobs"
        ) from error
    finally:
        if finished:
            executor.shutdown()
        else:
            _kill()


def _leave_signals_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _progress(results: Iterable[R], total: int, unit: str) -> Iterator[R]:
    yield from tqdm(results, total=total, unit=unit, disable=not sys.stderr.isatty())


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Lend a folder inside `out`; what is made there moves up into `out` when all of it is on disk, `*.json` last.

    When anything fails, `out` is left as it was found: absent, or there and empty.

    Raises
    ------
    SchemaError
        `out` is there and not empty, or cannot be made.
    """
    existed = out.exists()
    partial = out / ".partial"
    moved: list[Path] = []
    done = False
    try:
        out.mkdir(parents=True, exist_ok=True)
        found = next(out.iterdir(), None)
        if found is None:
            partial.mkdir()
    except OSError as error:
        raise SchemaError("data-write", f"{out}: cannot be made: {error.strerror}") from error
    if found is not None:
        raise SchemaError("tool-folder", f"{out}: not empty, found {found.name}; expected a new or an empty folder")
    try:
        yield partial
        os.sync()
        for entry in sorted(partial.iterdir(), key=lambda entry: (entry.suffix == ".json", entry.name)):
            moved.append(out / entry.name)
            entry.rename(moved[-1])
        partial.rmdir()
        done = True
    finally:
        if not done:
            for path in (partial, *moved):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            if not existed:
                out.rmdir()


def apart(work: Callable[[T], R], task: T) -> R:
    """Do one thing in a process of its own: what hostile bytes make of a library ends that process alone.

    Raises
    ------
    SchemaError
        The process was ended; whatever the work raises comes through as it is.
    """
    executor = ProcessPoolExecutor(1, initializer=_leave_signals_to_parent)
    interrupted = True
    try:
        result = executor.submit(work, task).result()
        interrupted = False
    except BrokenProcessPool as error:
        interrupted = False
        raise SchemaError(
            "tool-killed", "the process that read a file was ended by what it read, or from outside"
        ) from error
    except Exception:
        interrupted = False
        raise
    finally:
        if interrupted:
            _kill()
        else:
            executor.shutdown()
    return result


def _kill() -> None:
    """End the processes of this one whose work nobody wants any more."""
    broken_off.append(1)
    # An executor is not asked to shut down: an interrupt may have struck inside its locks, and then it waits for ever.
    for child in multiprocessing.active_children():
        child.kill()
        child.join()
