"""The commands about data: their parsers, and how they are called. Nothing here imports what they need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from silofold.commands import combine, data_tool, join, leaf, pack, partition, show, stats, synthesize

if TYPE_CHECKING:
    import argparse

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  (it has no public name)

VERBS: Final = {
    "pack": (pack, pack.TEXT, "pack pictures, a table, arrays or Parquet into a folder of silos"),
    "partition": (partition, partition.TEXT, "cut a set into silos on purpose: iid, Dirichlet, shards, quantity …"),
    "join": (join, join.TEXT, "put folders of silos together that were packed apart"),
    "stats": (stats, stats.TEXT, "say what is in a folder of silos, and what looks like a mistake"),
    "show": (show, show.TEXT, "draw a contact sheet of silos"),
    "synthesize": (synthesize, synthesize.TEXT, "make handwriting-like pictures where no data is at hand"),
    "leaf": (leaf, leaf.TEXT, "turn LEAF's JSON into a tree of pictures"),
    "combine": (combine, combine.TEXT, "merge the writers of a tree into fewer"),
}
"""Module, help and line of each."""


def add(commands: Subparsers) -> None:
    """Add the parsers of all of them."""
    for name, (verb, text, line) in VERBS.items():
        prog = commands.add_parser(name, help=line).prog
        commands.choices[name] = data_tool.Parser(text, prog)  # whose complaints are one line
        verb.options(commands.choices[name])


def main(options: argparse.Namespace) -> int:
    """Run one of them and return its exit code."""
    return data_tool.run(VERBS[options.command][0].main, options)
