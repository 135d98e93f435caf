"""``silofold train``: be one rank of a federation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofold.commands import options as shared
from silofold.core import machine

if TYPE_CHECKING:
    import argparse

    from silofold.job.request import Request


def add(subparsers: shared.Subparsers) -> None:
    """Add the command's options."""
    parser = subparsers.add_parser("train")
    shared.add_run(parser)
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Be a rank, to the end of the run; also of one that is replayed."""
    machine.end_with_launcher()
    from silofold.job import startup

    return startup.train(request_of(options))


def request_of(options: argparse.Namespace) -> Request:
    """Turn the parsed command line into what the run needs to know."""
    from silofold.job.request import Request

    replay = options.run if options.command == "replay" else None
    if replay:
        out = options.out or replay.parent / f"{replay.name}.replay"
    else:
        out = options.resume or options.out
    return Request(
        recipe=None if replay else options.recipe,
        overrides=tuple(getattr(options, "set", ())),
        data=options.data,
        out=out,
        resume=not replay and options.resume is not None,
        replay=replay,
        rehearse=getattr(options, "dry_run", False),
    )
