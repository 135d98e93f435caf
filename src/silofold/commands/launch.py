"""Start a run under the right mpirun, with what it needs to work on this machine.

The mpirun of the environment that silofold is installed in comes first: it belongs to the MPI library that mpi4py loads.
Everything that can be known without MPI is checked before a single rank is started.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from silofold.commands import options as shared
from silofold.commands.launching import launcher, mpi_session, premises
from silofold.commands.launching.job import Job
from silofold.commands.train import request_of
from silofold.core import console, machine, topology
from silofold.core.errors import ConfigError, SilofoldError, TopologyError
from silofold.data import silo as silos
from silofold.job.request import read_settings
from silofold.record import control
from silofold.record.rundir import RunFolder

if TYPE_CHECKING:
    import argparse

MOST_RANKS = 2**16


def add(subparsers: shared.Subparsers) -> None:
    """Add the command's options."""
    parser = subparsers.add_parser("launch")
    shared.add_run(parser)
    shared.add_shape(parser)
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Start ``silofold train`` or ``silofold replay`` on as many ranks as asked for.

    Parameters
    ----------
    options
        The parsed command line.

    Returns
    -------
    int
        The exit code of the run, one of those of `silofold.core.endings`.
    """
    command, environment, rounds = plan(options)
    folder = RunFolder(request_of(options).out)
    plain = options.command == "launch" and not options.dry_run
    if plain:
        if not control.is_running(folder):  # what is asked of a job that is at work is not ours
            control.withdraw(folder)
        _pass_on_signals(folder)
    sys.stdout.flush()
    with mpi_session.locked_session() as (place, locks):
        job = Job(command, place | environment, locks, keeps=not getattr(options, "dry_run", False), plain=plain)
        return job.run(rounds, folder)


def _pass_on_signals(folder: RunFolder) -> None:
    """Make of the first signal a wish to stop after the round, of the second one to stop now."""
    seen: list[int] = []

    def wish(number: int, frame: object) -> None:
        del frame
        seen.append(number)
        now = len(seen) > 1
        console.say(f"stopping {'now' if now else 'after this round; once more to stop now'}")
        try:
            control.ask_stop(folder, now=now)
        except SilofoldError as fault:
            console.error(fault)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup's ignoring stands
            signal.signal(number, wish)


def plan(options: argparse.Namespace) -> tuple[list[str], dict[str, str], int]:
    """Work out command line, environment and number of rounds.

    Raises
    ------
    SilofoldError
        Settings, data or numbers of ranks are wrong, or there is no mpirun.
    """
    request = request_of(options)
    settings = read_settings(request)
    servers = options.servers if options.servers is not None else settings.roles.servers
    if not settings.data.folder:
        raise ConfigError("data-missing", "no data: give --data DIR, or data.folder in the settings")
    data = silos.read_manifest(Path(settings.data.folder))
    # with graphs one worker keeps a GPU at work, and processes would only take turns on it
    places = len(machine.gpus()) if settings.local.cuda_graph else 0
    auto = min(places or len(os.sched_getaffinity(0)), len(data.silos))
    workers = options.workers if options.workers is not None else auto
    standby = options.standby if options.standby is not None else settings.roles.standby
    if servers < 1 or workers < 1 or standby < 0:
        raise TopologyError("topology-ranks", f"found {servers} servers and {workers} workers, expected at least 1 of each")
    ranks = 1 + servers + standby + workers
    if ranks > MOST_RANKS:
        raise TopologyError("topology-ranks", f"found {ranks} ranks, expected at most {MOST_RANKS}")
    topology.assign_silos([silo.train.examples for silo in data.silos], workers)
    premises.check(ranks)
    program = [sys.executable, "-P", "-m", "silofold", *_train_arguments(options, servers, standby)]
    command = [*launcher.mpirun(), "-n", str(ranks), *program]
    return command, launcher.environment(settings.local.threads, ranks) | {console.LAUNCHED: "1"}, settings.rounds.count


def _train_arguments(options: argparse.Namespace, servers: int, standby: int) -> list[str]:
    """Hand the options on to the ranks."""
    paths = [("--data", options.data), ("--out", options.out)]
    if options.command == "replay":
        head = ["replay", str(options.run)]
    else:
        head = ["train", *([str(options.recipe)] if options.recipe else [])]
        paths.append(("--resume", options.resume))
    given = [part for name, value in paths if value is not None for part in (name, str(value))]
    sets = [part for override in options.set for part in ("--set", override)]
    given += ["--dry-run"] if getattr(options, "dry_run", False) else []
    return [*head, *given, *sets, "--set", f"roles.servers={servers}", "--set", f"roles.standby={standby}"]
