"""``silofold combine``: consecutive writers of a tree become one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from silofold.commands import data_tool
from silofold.core.endings import DONE

if TYPE_CHECKING:
    import argparse

    from silofold.commands import options as shared

TEXT = """Merge the raw users of a tree into fewer datasets: consecutive users, in name order.

IN holds <user>/{train,test}/<class>/<picture>. The first --users users in name order are merged into --silos folders
dataset_0, dataset_1, …; a picture is named <user>_<picture>. When the users do not divide evenly, the first datasets
take one user more. OUT/combine.json tells which users went where, and how many pictures each brought.
"""


def add(subparsers: shared.Subparsers) -> None:
    """Add the command's options."""
    data_tool.add(subparsers, "combine", TEXT, options, main)


def options(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("folder", metavar="IN", type=Path, help="tree of raw users")
    data_tool.add_out(parser)
    parser.add_argument("--users", type=data_tool.count, metavar="N", help="users to take, in name order (default: all)")
    parser.add_argument("--silos", type=data_tool.count, required=True, metavar="N", help="how many datasets to make")
    data_tool.add_jobs(parser)


def main(options: argparse.Namespace) -> int:
    """Merge, and tell who went where."""
    from silofold.data.combining import combine
    from silofold.data.schema import SPLITS

    datasets = combine(options.folder, options.out, options.users, options.silos, options.jobs)
    for name, found in datasets.items():
        train, test = (sum(row[split] for row in found.values()) for split in SPLITS)
        users = f"{len(found)} users ({next(iter(found))} to {list(found)[-1]})"
        data_tool.tell(f"{name}: {users}, {train} train, {test} test")
    sizes = [len(found) for found in datasets.values()]
    if sizes[0] != sizes[-1]:
        more = sizes.count(sizes[0])
        data_tool.tell(f"{sum(sizes)} users do not divide by {len(sizes)}: {more} datasets have one more")
    return DONE.code
