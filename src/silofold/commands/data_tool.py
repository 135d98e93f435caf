"""What the commands that make and look at data do alike: their options, what they print, and how they end.

The parsers are made for every command line, so that nothing here imports what a data command needs.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Never, Protocol

from silofold.core import console, endings
from silofold.core.console import shown
from silofold.core.errors import SchemaError, SilofoldError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from silofold.commands import options as shared


class Verb(Protocol):
    """The module of a command."""

    def options(self, parser: argparse.ArgumentParser) -> None:
        """Say what it takes."""

    def main(self, options: argparse.Namespace) -> int:
        """Do it, and return the exit code."""


def add(
    subparsers: shared.Subparsers, name: str, text: str, options: Callable[[Parser], None],
    main: Callable[[argparse.Namespace], int],
) -> None:  # fmt: skip
    """Add the parser of a command, whose complaints are one line."""
    parser = Parser(text, subparsers.add_parser(name).prog)
    subparsers.choices[name] = parser
    options(parser)
    parser.set_defaults(main=functools.partial(run, main))


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """Add the option for the number of processes."""
    cores = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--jobs", type=count, default=cores, metavar="N", help=f"processes (default: the cores, here {cores})"
    )


def add_out(parser: argparse.ArgumentParser) -> None:
    """Add the folder to make."""
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make; must be new or empty")


def count(text: str) -> int:
    """Read a number of at least 1 from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {number}, expected at least 1")
    return number


def seed(number: int) -> int:
    """Check a seed.

    Raises
    ------
    SchemaError
        It is negative.
    """
    if number < 0:
        raise SchemaError("tool-option", f"--seed: found {number}, expected 0 or more")
    return number


def tell(line: str) -> None:
    """Write one line to standard output, whatever letters a name in it has."""
    sys.stdout.write(f"{shown(line)}\n")


def tell_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of texts, the first column to the left and numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for first, *others in rows:
        cells = [f"{text:>{width}}" for text, width in zip(others, widths[1:], strict=True)]
        tell("  ".join([f"{first:{widths[0]}}", *cells]).rstrip())


def picture_file(path: Path | None) -> Path | None:
    """Look whether a picture can be drawn, before anything is done that takes time.

    Raises
    ------
    SchemaError
        Its name says no format that is drawn, or the extra is not installed.
    """
    if path is None:
        return None
    if path.suffix.lower() not in {".svg", ".png"}:
        raise SchemaError("tool-option", f"--picture {path}: expected a name that ends in .svg or .png")
    try:
        import silofold.view.skew_plot  # noqa: F401
    except ImportError:
        raise SchemaError("extra-missing", "--picture needs matplotlib: pip install 'silofold[report]'") from None
    return path


def draw(path: Path, silos: Sequence[str], classes: Sequence[str], counts: Sequence[Sequence[int]]) -> None:
    """Draw how the pictures of each class are spread over silos.

    Raises
    ------
    SchemaError
        The file cannot be written.
    """
    from silofold.data.writer import replacing
    from silofold.view.skew_plot import draw as drawn

    with replacing(path) as partial:
        partial.write_bytes(drawn(silos, classes, counts, path.suffix.lower().removeprefix(".")))
    tell(f"{path}: written")


def warn(options: argparse.Namespace, message: str) -> None:
    """Tell of something that does not stop the command."""
    _say(options, f"warning: {message}")


def run(work: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Run a data command and return its exit code; a fault is told in one line on standard error.

    Told here and not by who calls this: once processes were broken off, this one must end without waiting for its threads.
    """
    from silofold.data import work as processes

    try:
        with _interrupts():
            return work(options)
    except SilofoldError as fault:
        message, code = f"error: {fault} [{fault.id}]", fault.exit_code
    except OSError as fault:
        message, code = f"error: {processes.os_reason(fault)}", endings.BAD_INPUT.code
    except KeyboardInterrupt:
        message, code = "error: interrupted, nothing was kept", endings.INTERRUPTED.code
    _say(options, message)
    if processes.broken_off:
        sys.stdout.flush()
        # Not sys.exit: it joins the threads of a pool that was broken off, and those may wait for ever for one another.
        os._exit(code)
    return code


def script(verb: Verb, text: str | None) -> int:
    """Run a command as a script of its own, ``python data_tools/pack.py``, and return its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that lacks a letter must not end the tool
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = Parser(text)
    verb.options(parser)
    options = parser.parse_args()
    options.script = True
    return run(verb.main, options)


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line.

    Parameters
    ----------
    prog
        Of a command, its words; none for a script, which is called by its file's name.
    """

    def __init__(self, description: str | None, prog: str | None = None) -> None:
        super().__init__(prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        self._form = (
            "error: {}; {} --help tells the arguments"
            if prog is None
            else ("silofold: error: {}; {} --help tells the arguments [tool-option]")
        )

    def error(self, message: str) -> Never:
        """End the command with what is wrong with its arguments."""
        self.exit(endings.BAD_INPUT.code, self._form.format(shown(message), self.prog) + "\n")


def _say(options: argparse.Namespace, line: str) -> None:
    if getattr(options, "script", False):
        sys.stderr.write(f"{shown(line)}\n")
    else:
        console.say(line)


@contextmanager
def _interrupts() -> Iterator[None]:
    """Break off at SIGINT and SIGTERM alike."""
    before = {name: signal.signal(name, _interrupt) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _interrupt(signum: int, frame: object) -> Never:
    """Break off once: a second signal must not break off the cleaning up."""
    import multiprocessing

    del signum, frame
    if multiprocessing.parent_process() is not None:  # a process of the pool that has not yet set its own handlers
        os._exit(endings.INTERRUPTED.code)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    raise KeyboardInterrupt
