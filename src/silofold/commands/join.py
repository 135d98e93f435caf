"""``silofold join``: folders of silos that were packed apart become one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from silofold.commands import data_tool
from silofold.commands.pack import tell_silos
from silofold.core.endings import DONE
from silofold.core.errors import SchemaError

if TYPE_CHECKING:
    import argparse

    from silofold.commands import options as shared

TEXT = """Put folders of silos together that were packed apart, each at its own site.

All must have the same classes in the same order, the same size and fit: the first site packs, the others pack with
--like its folder, or all with the same --classes FILE, --size and --mode. Silos come in the order of their names, and
each silo's digests stay as they are. What does not fit is refused with names; nothing is left behind.

example:
  silofold join north/silos south/silos silos
"""


def add(subparsers: shared.Subparsers) -> None:
    """Add the command's options."""
    data_tool.add(subparsers, "join", TEXT, options, main)


def options(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("folders", metavar="IN", nargs="+", type=Path, help="folders of silos, two or more")
    data_tool.add_out(parser)
    data_tool.add_jobs(parser)


def main(options: argparse.Namespace) -> int:
    """Join, and tell what came out."""
    if len(options.folders) < 2:
        raise SchemaError("tool-option", f"{options.folders[0]}: found one folder and OUT, expected two or more to join")
    from silofold.data.joining import join

    manifest, told = join(options.folders, options.out, options.jobs)
    tell_silos(manifest)
    for line in told:
        data_tool.warn(options, line)
    return DONE.code
