"""The command line: which command is meant, and the exit code that a fault becomes.

A command is one file of ``commands/``. Only the one that is asked for is imported, its options with it. Frozen by a test:
options are part of what users rely on.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

import silofold
from silofold.commands import options
from silofold.core import console, endings, modules, user_code, warned
from silofold.core.errors import SilofoldError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COMMANDS = {
    "train": "run a federation; start it by mpirun or srun",
    "launch": "find the right mpirun, set what it needs, and start `train`",
    "replay": "play a recorded run again and compare every model digest",
    "status": "say what the job of a run folder is about, or how it ended",
    "stop": "end a job after its round, with a checkpoint to go on from",
    "scale": "make standbys of a running job workers, or workers standbys",
    "doctor": "find out whether a run can work here; alone, under mpirun, in a batch job",
    "trace": "say who waited for whom in a round, of a running or a dead job",
    "verify": "say whether a run folder is whole and is what it says",
    "baseline": "train what federating is measured against, with the same settings",
    "evaluate": "measure a trained model on the test images of silos",
    "predict": "say what a trained model sees in pictures",
    "compare": "set runs side by side and test whether the first one is better",
    "report": "make one page that shows runs and works offline",
}
DATA = {
    "pack": "pack pictures, a table, arrays or Parquet into a folder of silos",
    "partition": "cut a set into silos on purpose: iid, Dirichlet, shards, quantity …",
    "join": "put folders of silos together that were packed apart",
    "stats": "say what is in a folder of silos, and what looks like a mistake",
    "show": "draw a contact sheet of silos",
    "synthesize": "make handwriting-like pictures where no data is at hand",
    "leaf": "turn LEAF's JSON into a tree of pictures",
    "combine": "merge the writers of a tree into fewer",
}
"""Commands about folders of silos and what they are made of."""
COMMANDS |= DATA
OPERATING = {"status", "stop", "scale"}
"""Commands of one file."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: faults are told and become exit codes here and nowhere else."""
    modules.settle()
    console.settle()
    user_code.heed_interrupts()
    warned.settle(console.say)
    words = sys.argv[1:] if arguments is None else list(arguments)
    command = next((word for word in words if not word.startswith("-")), "")
    try:
        if command in COMMANDS:
            options.check_place()
            _settle_threads(command)
        parsed = parser(command).parse_args(words)
        options.check_paths(parsed)
        code: int = parsed.main(parsed)
        sys.stdout.flush()
    except SilofoldError as fault:
        return console.error(fault)
    except BrokenPipeError:
        raise
    except OSError as fault:  # of a path that no command has looked at before: too long a name, a circle of links
        return console.error(SilofoldError("system-call", f"{fault.filename or command}: {fault.strerror or fault}"))
    except KeyboardInterrupt:
        return endings.INTERRUPTED.code
    return code


def parser(*commands: str) -> argparse.ArgumentParser:
    """Make the parser of the command line, with the options of these commands; of the others it knows the names alone."""
    made = argparse.ArgumentParser(prog="silofold", description="Federated learning as a batch job over MPI.")
    made.add_argument("--version", action="version", version=f"silofold {silofold.__version__}")
    subparsers = made.add_subparsers(dest="command", required=True)
    asked = {*commands, *(OPERATING if OPERATING & set(commands) else ())}
    for name, about in COMMANDS.items():
        if name in subparsers.choices:
            continue
        if name in asked:
            _command(name)(subparsers)
        else:
            subparsers.add_parser(name, help=about)
    return made


def _command(name: str) -> Callable[[options.Subparsers], None]:  # noqa: C901, PLR0912  (a case a command)
    """Import a command: its ``add`` makes its parser, which names the ``main`` that does its work."""
    match name:
        case "train":
            from silofold.commands.train import add
        case "launch":
            from silofold.commands.launch import add
        case "replay":
            from silofold.commands.replay import add
        case "status" | "stop" | "scale":
            from silofold.commands.operate import add
        case "doctor":
            from silofold.commands.doctor import add
        case "trace":
            from silofold.commands.trace import add
        case "verify":
            from silofold.commands.verify import add
        case "baseline":
            from silofold.commands.baseline import add
        case "evaluate":
            from silofold.commands.evaluate import add
        case "predict":
            from silofold.commands.predict import add
        case "compare":
            from silofold.commands.compare import add
        case "pack":
            from silofold.commands.pack import add
        case "partition":
            from silofold.commands.partition import add
        case "join":
            from silofold.commands.join import add
        case "stats":
            from silofold.commands.stats import add
        case "show":
            from silofold.commands.show import add
        case "synthesize":
            from silofold.commands.synthesize import add
        case "leaf":
            from silofold.commands.leaf import add
        case "combine":
            from silofold.commands.combine import add
        case _:
            from silofold.commands.report import add
    return add


def _settle_threads(command: str) -> None:
    """Give numpy and torch one thread where this process computes: they read it when a command imports them.

    The ranks are the parallelism, and what one process computes has their bits. Who starts ranks tells them their number.
    """
    if not (command in {"launch", "doctor"} or (command == "replay" and not options.under_mpi())):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


if __name__ == "__main__":
    sys.exit(main())
