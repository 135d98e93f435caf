"""``silofold trace``: who waited for whom, of a running, stopped or dead job."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from silofold.commands import options as shared
from silofold.core import trace
from silofold.core.console import shown
from silofold.core.endings import DONE
from silofold.core.errors import ConfigError, RunFolderError
from silofold.record.rundir import RunFolder
from silofold.view import waits

if TYPE_CHECKING:
    import argparse


def add(subparsers: shared.Subparsers) -> None:
    """Add the command's options."""
    parser = subparsers.add_parser("trace")
    shared.add_folder(parser)
    parser.add_argument("--round", type=int, metavar="N", help="the round (default: the last one)")
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Print a round's waits, and what each rank did last in it."""
    folder = RunFolder(options.run)
    traces = {title: trace.read(folder.trace(title)) for title in folder.titles() if folder.trace(title).exists()}
    known = waits.rounds(traces)
    if not known:
        raise RunFolderError(
            "run-read", f"{folder.path}: found no rank's trace.bin with a round in it: no job has come to one here"
        )
    number = known[-1] if options.round is None else options.round
    if number not in known:
        raise ConfigError("trace-round", f"--round {number}: the traces tell of rounds {known[0]} to {known[-1]}")
    sys.stdout.writelines(f"{shown(line)}\n" for line in waits.lines(traces, number))
    return DONE.code
