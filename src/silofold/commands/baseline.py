"""``silofold baseline``: train what federating is measured against."""

from __future__ import annotations

from pathlib import Path

from silofold.baseline import play
from silofold.commands import options as shared


def add(subparsers: shared.Subparsers) -> None:
    """Add the command's options."""
    parser = subparsers.add_parser("baseline")
    parser.add_argument(
        "kind", choices=("local", "central"), metavar="KIND", help="local: each silo alone; central: all pooled"
    )
    parser.add_argument("recipe", type=Path, metavar="RUN", help="the settings: a TOML file, or the folder of a run")
    shared.add_data(parser)
    shared.add_out(parser, required=True)
    parser.add_argument("--workers", type=int, help="processes (default: the cores, at most the models)")
    parser.set_defaults(main=play.main)
