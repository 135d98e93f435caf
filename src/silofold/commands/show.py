"""``silofold show``: a contact sheet of silos, made only when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from silofold.commands import data_tool
from silofold.core.endings import DONE
from silofold.core.errors import SchemaError

if TYPE_CHECKING:
    import argparse

    from silofold.commands import options as shared

TEXT = """Draw a contact sheet: a row for each silo, some of its pictures by chance, each with its class below.

Pictures of a silo leave it by this command alone, and only into the file that is named.

example:
  silofold show silos sheet.png --silo hospital_a --silo hospital_b --columns 12
"""


def add(subparsers: shared.Subparsers) -> None:
    """Add the command's options."""
    data_tool.add(subparsers, "show", TEXT, options, main)


def options(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder of silos")
    parser.add_argument("out", metavar="SHEET.png", type=Path, help="the file to write")
    parser.add_argument(
        "--silo", action="append", default=[], metavar="NAME", help="a silo to show; repeatable (default: all)"
    )
    parser.add_argument("--split", choices=("train", "validation", "test"), default="train", help="default: train")
    parser.add_argument("--columns", type=data_tool.count, default=10, metavar="N", help="pictures of each (default: 10)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="other pictures (default: 0)")


def main(options: argparse.Namespace) -> int:
    """Draw, and write the sheet."""
    from silofold.data import sheet
    from silofold.data.writer import replacing

    if options.out.suffix.lower() != ".png":
        raise SchemaError("tool-option", f"{options.out}: expected a name that ends in .png")
    drawn = sheet.draw(options.folder, options.silo, options.split, options.columns, data_tool.seed(options.seed))
    with replacing(options.out) as partial:
        drawn.save(partial, "png")
    data_tool.tell(f"{options.out}: {drawn.width}x{drawn.height} pixels")
    return DONE.code
