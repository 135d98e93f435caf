"""The look at a folder of silos: ``python data_tools/verify.py``, and ``silofold verify`` where a folder is one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from silofold.commands import data_tool

if TYPE_CHECKING:
    import argparse


def options(parser: argparse.ArgumentParser) -> None:
    """Say what the script takes."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder of silo files and silos.json")


def main(options: argparse.Namespace) -> int:
    """Tell every fault, one a line, and return 1; or one line, and 0."""
    from silofold.data.verify import full_faults

    faults, warnings, line = full_faults(options.folder)
    for warning in warnings:
        data_tool.warn(options, warning)
    for fault in faults:
        data_tool.tell(fault)
    if faults:
        return 1
    data_tool.tell(line)
    return 0
