"""``silofold synthesize``: a tree of handwriting-like pictures out of nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofold.commands import data_tool
from silofold.core.endings import DONE

if TYPE_CHECKING:
    import argparse

    from silofold.commands import options as shared

TEXT = """Make handwriting-like pictures when no real data is at hand: 62 classes, 28x28, dark ink on white paper.

OUT gets <writer>/{train,test}/<class>/<class>_<character>_<i>.png, train to test 9 to 1. Every writer has a hand of
their own (typeface, slant, stroke, size, shapes of single letters) and a mix of classes of their own, so that silos
differ. Every class occurs in some writer's train split. A writer's pictures follow from --seed, the writer's number and
the number of writers alone.
"""


def add(subparsers: shared.Subparsers) -> None:
    """Add the command's options."""
    data_tool.add(subparsers, "synthesize", TEXT, options, main)


def options(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    data_tool.add_out(parser)
    parser.add_argument("--writers", type=data_tool.count, required=True, metavar="N", help="how many writers")
    parser.add_argument("--seed", type=int, required=True, metavar="N", help="the same seed gives the same bytes")
    parser.add_argument(
        "--images-per-writer", type=data_tool.count, default=230, metavar="N", help="about that many (default: 230)"
    )
    data_tool.add_jobs(parser)


def main(options: argparse.Namespace) -> int:
    """Draw, and tell how many pictures there are."""
    seed = data_tool.seed(options.seed)
    from silofold.data.synthesis import CLASSES, synthesize

    pictures = synthesize(options.out, options.writers, seed, options.images_per_writer, options.jobs)
    data_tool.tell(f"{options.out}: {options.writers} writers, {pictures} pictures of {CLASSES} classes")
    return DONE.code
