"""What every data tool does alike at the terminal: arguments, one-line errors, progress, processes, a new folder."""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import shutil
import signal
import sys
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING, Never, TypeVar

from tqdm import tqdm

from silofold.core.console import shown
from silofold.core.errors import SchemaError, SilofoldError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

T = TypeVar("T")
R = TypeVar("R")


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line."""

    def __init__(self, description: str | None) -> None:
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> Never:
        """End the tool with what is wrong with its arguments."""
        self.exit(2, f"error: {shown(message)}; {self.prog} --help tells the arguments\n")

    def add_jobs(self) -> None:
        """Add the option for the number of processes."""
        cores = len(os.sched_getaffinity(0))
        self.add_argument("--jobs", type=count, default=cores, help=f"processes (default: the cores, here {cores})")


def count(text: str) -> int:
    """Read a number of at least 1 from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {number}, expected at least 1")
    return number


def run(main: Callable[[], int]) -> Never:
    """Run a tool and end the process with its exit code, or 2 and one line on stderr."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, _interrupt)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that lacks a letter must not end the tool
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.exit(main())
    except SilofoldError as error:
        message, code = f"{error} [{error.id}]", error.exit_code
    except OSError as error:
        message, code = os_reason(error), 2
    except KeyboardInterrupt:
        message, code = "interrupted, nothing was kept", 130
    sys.stderr.write(f"error: {shown(message)}\n")
    sys.stdout.flush()
    # Not sys.exit: it joins the threads of a pool that was broken off, and those may wait for ever for one another.
    os._exit(code)


def _interrupt(signum: int, frame: object) -> Never:
    """Break off once: a second signal must not break off the cleaning up."""
    del signum, frame
    if multiprocessing.parent_process() is not None:  # a process of the pool that has not yet set its own handlers
        os._exit(130)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    raise KeyboardInterrupt


def os_reason(error: OSError) -> str:
    """Name file and reason of a failed system call."""
    # Of a copy that failed, the second name is the one that was written.
    return ": ".join(str(part) for part in (error.filename2 or error.filename, error.strerror or error) if part)


def tell(line: str) -> None:
    """Write one line to standard output, whatever letters a name in it has."""
    print(shown(line))


def warn(message: str) -> None:
    """Tell of something that does not stop the tool."""
    sys.stderr.write(f"warning: {shown(message)}\n")


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
    executor = ProcessPoolExecutor(jobs, initializer=_leave_signals_to_parent)
    finished = False
    try:
        futures = deque(executor.submit(work, task) for task in tasks)
        yield from _progress((futures.popleft().result() for _ in tasks), len(tasks), unit)
        finished = True
    except BrokenProcessPool as error:
        raise SchemaError(
            "tool-killed", "a process of this tool was killed, out of memory perhaps; try fewer --jobs"
        ) from error
    finally:
        if finished:
            executor.shutdown()
        else:
            # Nothing that the others still do is wanted. The executor is not asked to shut down: an interrupt may have
            # struck inside its locks, and then it waits for ever.
            for child in multiprocessing.active_children():
                child.kill()
                child.join()


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
