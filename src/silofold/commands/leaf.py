"""``silofold leaf``: LEAF's JSON becomes a tree of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from silofold.commands import data_tool
from silofold.core.endings import DONE

if TYPE_CHECKING:
    import argparse

    from silofold.commands import options as shared

TEXT = """Turn LEAF's JSON shards of FEMNIST into a tree of pictures, without loss.

IN holds train/*.json and test/*.json, each with users, num_samples and user_data (x: 784 numbers u8/255, y: the class).
OUT gets <writer>/{train,test}/<class>/<class>_<character>_<i>.png; i is the place of the picture among the writer's.
A writer whose pictures lie in several shards comes together, shards in the order of their names.
"""


def add(subparsers: shared.Subparsers) -> None:
    """Add the command's options."""
    data_tool.add(subparsers, "leaf", TEXT, options, main)


def options(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("folder", metavar="IN", type=Path, help="folder with LEAF's train/*.json and test/*.json")
    data_tool.add_out(parser)
    data_tool.add_jobs(parser)


def main(options: argparse.Namespace) -> int:
    """Write the tree, and tell how much it is."""
    from silofold.data.leaf_tree import export

    found = export(options.folder, options.out, options.jobs)
    data_tool.tell(f"{options.out}: {found.writers} writers, {found.pictures} pictures from {found.shards} shards")
    return DONE.code
