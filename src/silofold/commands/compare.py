"""``silofold compare``: runs side by side, on the same test images where they have the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from silofold.commands import options as shared
from silofold.commands.results import looks, pairs
from silofold.core import files
from silofold.core.console import shown, write
from silofold.core.errors import RunFolderError

if TYPE_CHECKING:
    import argparse

    from silofold.commands.results.pairs import Pair
    from silofold.evaluation.measures import Measures


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One run in the file of ``--out``."""

    name: str
    kind: str
    path: str
    round: int
    model_sha256: str
    silos: list[str]
    measures: Measures
    personalised: Measures | None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--out`` writes."""

    runs: list[Entry]
    first_against: list[Pair]


def add(subparsers: shared.Subparsers) -> None:
    """Add the command's options."""
    parser = subparsers.add_parser("compare")
    shared.add_runs(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write everything as JSON")
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Compare runs with the first one and print a table."""
    found = looks.look(options.runs, options.data)
    against = pairs.against(found)
    write(f"{pairs.story(found, against)}\n")
    if options.out:
        entries = [
            Entry(
                name=one.name, kind=one.kind, path=shown(str(one.path)), round=one.answers.round,
                model_sha256=one.answers.model_sha256, silos=[silo.name for silo in one.data.silos], measures=one.measures,
                personalised=one.personalised,
            )
            for one in found
        ]  # fmt: skip
        result = Comparison(runs=entries, first_against=against)
        try:
            files.write_atomically(options.out, msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
        except OSError as fault:
            raise RunFolderError("out-write", f"{options.out}: cannot be written: {fault.strerror}") from None
    return 0
