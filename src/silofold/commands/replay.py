"""``silofold replay``: play a recorded run again, by starting ranks or as one of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from silofold.commands import options as shared
from silofold.commands import train


def add(subparsers: shared.Subparsers) -> None:
    """Add the command's options."""
    parser = subparsers.add_parser("replay")
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="folder of the recorded run")
    parser.add_argument("--data", type=Path, help="folder of silos, if it has moved")
    parser.add_argument("--out", type=Path, help="run folder of the replay (default: RUN_DIR.replay)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=argparse.SUPPRESS)
    shared.add_shape(parser)
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Start the ranks, or be one."""
    if shared.under_mpi():
        return train.main(options)
    from silofold.commands import launch

    return launch.main(options)
