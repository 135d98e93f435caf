"""The command line: ``silofold train | launch | replay``. Frozen by a test: options are part of what users rely on."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import silofold
from silofold import machine
from silofold.commands import data_commands
from silofold.core import console, endings, modules, user_code, warned
from silofold.errors import ConfigError, SilofoldError

if TYPE_CHECKING:
    from collections.abc import Sequence

_ASKING = {"status", "stop", "scale"}
"""Commands about a job that runs elsewhere."""
_WITHOUT_MPI = {"baseline", "compare", "evaluate", "predict", "report", "trace", "verify"}
"""Commands of one process."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    modules.settle()
    console.settle()
    user_code.heed_interrupts()
    warned.settle(console.say)
    command = "silofold"
    try:
        options = _parser().parse_args(arguments)
        command = options.command
        _check_surroundings(options)
        code = _run(options)
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


def _check_surroundings(options: argparse.Namespace) -> None:
    """Refuse at once what no command can work with.

    Raises
    ------
    ConfigError
        The current folder is gone, a variable keeps HDF5 from starting, or a folder's path is not UTF-8.
    """
    try:
        os.getcwd()  # noqa: PTH109  (what pathlib does with it)
    except OSError as fault:
        raise ConfigError("folder-gone", f"the current folder is gone ({fault.strerror}): cd to one that exists") from None
    for name, usual in (("HDF5_VOL_CONNECTOR", "native"), ("HDF5_DRIVER", "sec2")):
        if (value := os.environ.get(name, usual)) != usual:  # HDF5 would fail when it is loaded, in many lines
            raise ConfigError("place-variable", f"{name}={value}: silo files are read by HDF5 itself; unset {name}")
    named = [getattr(options, name, None) for name in ("data", "out", "resume", "run", "model")]
    for path in filter(None, [*named, *getattr(options, "runs", ())]):
        try:
            f"{path} {os.path.realpath(path)}".encode()
        except UnicodeEncodeError:
            raise ConfigError("folder-name", f"{path}: found a path that is not UTF-8; rename the folder") from None
        except OSError as fault:
            raise ConfigError("folder-name", f"{path}: {fault.strerror}") from None


def _run(options: argparse.Namespace) -> int:
    """Run a command; faults are told and become exit codes by who calls this, here and nowhere else."""
    if options.command == "launch" or (options.command == "replay" and not _under_mpi()):
        from silofold import launch

        return launch.main(options)
    if options.command in _ASKING:
        from silofold import operate

        return operate.main(options)
    if options.command in data_commands.VERBS:
        return data_commands.main(options)
    if options.command in _WITHOUT_MPI:
        return _without_mpi(options)
    if options.command == "doctor":
        from silofold import doctor

        return doctor.main(options, under_mpi=_under_mpi())
    machine.end_with_launcher()
    # numpy's and torch's thread pools read this when they are imported; the ranks are the parallelism
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from silofold import run

    return run.train(request_of(options))


def _without_mpi(options: argparse.Namespace) -> int:
    """Run a command that needs no MPI."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # what a rank has: the same bits
    match options.command:
        case "baseline":
            from silofold.baseline import main as command
        case "compare":
            from silofold.compare import main as command
        case "evaluate":
            from silofold.evaluate import main as command
        case "predict":
            from silofold.evaluate import predict as command
        case "trace":
            from silofold.commands.trace import main as command
        case "verify":
            from silofold.commands.verify import main as command
        case _:
            from silofold.report import main as command
    return command(options)


def request_of(options: argparse.Namespace) -> run.Request:
    """Turn the parsed command line into what the run needs to know."""
    from silofold import run

    replay = options.run if options.command == "replay" else None
    if replay:
        out = options.out or replay.parent / f"{replay.name}.replay"
    else:
        out = options.resume or options.out
    return run.Request(
        recipe=None if replay else options.recipe,
        overrides=tuple(getattr(options, "set", ())),
        data=options.data,
        out=out,
        resume=not replay and options.resume is not None,
        replay=replay,
        rehearse=getattr(options, "dry_run", False),
    )


def _under_mpi() -> bool:
    """Whether a launcher has started this process as one of several ranks."""
    return any(name in os.environ for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="silofold", description="Federated learning as a batch job over MPI.")
    parser.add_argument("--version", action="version", version=f"silofold {silofold.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="run a federation; start it by mpirun or srun")
    _add_run(train)
    launch = commands.add_parser("launch", help="find the right mpirun, set what it needs, and start `train`")
    _add_run(launch)
    _add_shape(launch)
    replay = commands.add_parser("replay", help="play a recorded run again and compare every model digest")
    replay.add_argument("run", type=Path, metavar="RUN_DIR", help="folder of the recorded run")
    replay.add_argument("--data", type=Path, help="folder of silos, if it has moved")
    replay.add_argument("--out", type=Path, help="run folder of the replay (default: RUN_DIR.replay)")
    replay.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=argparse.SUPPRESS)
    _add_shape(replay)
    status = commands.add_parser("status", help="say what the job of a run folder is about, or how it ended")
    _add_folder(status)
    requeue = "for batch scripts, after `launch` ended with CODE: exit with 0 if the job is to be put back into the queue"
    status.add_argument("--requeue", type=int, metavar="CODE", help=requeue)
    status.add_argument("--warned", action="store_true", help="with --requeue: the batch system had asked the job to end")
    stop = commands.add_parser("stop", help="end a job after its round, with a checkpoint to go on from")
    _add_folder(stop)
    stop.add_argument("--now", action="store_true", help="in the middle of its round: that round is lost")
    stop.add_argument(
        "--wait", type=_seconds, default=600.0, metavar="SECONDS", help="for the end of the job (default: 600)"
    )
    scale = commands.add_parser("scale", help="make standbys of a running job workers, or workers standbys")
    _add_folder(scale)
    scale.add_argument("--workers", type=int, required=True, metavar="CHANGE", help="by how many: +2, -1")
    scale.add_argument("--wait", type=_seconds, default=60.0, metavar="SECONDS", help="for the next round (default: 60)")
    doctor = commands.add_parser("doctor", help="find out whether a run can work here; alone, under mpirun, in a batch job")
    doctor.add_argument("recipe", nargs="?", type=Path, metavar="RUN.toml", help="the settings of the run to come")
    doctor.add_argument("--data", type=Path, help="its folder of silos")
    doctor.add_argument("--out", type=Path, metavar="RUN_DIR", help="its run folder (default: here); nothing is left in it")
    doctor.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting; repeatable")
    doctor.add_argument("--json", action="store_true", help="the findings as one line of JSON")
    _add_shape(doctor)
    trace = commands.add_parser("trace", help="say who waited for whom in a round, of a running or a dead job")
    _add_folder(trace)
    trace.add_argument("--round", type=int, metavar="N", help="the round (default: the last one)")
    verify = commands.add_parser("verify", help="say whether a run folder is whole and is what it says")
    verify.add_argument("folder", type=Path, metavar="FOLDER", help="a run folder, or a folder of silos")
    _add_measuring(commands)
    data_commands.add(commands)
    return parser


def _add_measuring(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    baseline = commands.add_parser("baseline", help="train what federating is measured against, with the same settings")
    baseline.add_argument(
        "kind", choices=("local", "central"), metavar="KIND", help="local: each silo alone; central: all pooled"
    )
    _add_run(baseline, resume=False)
    baseline.add_argument("--workers", type=int, help="processes (default: the cores, at most the models)")
    evaluate = commands.add_parser("evaluate", help="measure a trained model on the test images of silos")
    _add_model(evaluate)
    evaluate.add_argument("data", nargs="?", type=Path, metavar="DIR", help="folder of silos (default: the run's)")
    evaluate.add_argument(
        "--personalise", type=int, default=0, metavar="EPOCHS", help="also train so many epochs more in each silo"
    )
    evaluate.add_argument("--out", type=Path, metavar="FILE", help="also write every measure as JSON")
    predict = commands.add_parser("predict", help="say what a trained model sees in pictures")
    _add_model(predict)
    predict.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="picture files of any size")
    predict.add_argument("--top", type=int, default=1, help="classes to name of each picture (default: 1)")
    predict.add_argument("--data", type=Path, help="folder of silos, where a checkpoint lies outside its run folder")
    compare = commands.add_parser("compare", help="set runs side by side and test whether the first one is better")
    _add_runs(compare)
    compare.add_argument("--out", type=Path, metavar="FILE", help="also write everything as JSON")
    report = commands.add_parser("report", help="make one page that shows runs and works offline")
    _add_runs(report)
    report.add_argument("--out", type=Path, required=True, metavar="PAGE.html", help="the page to write")
    report.add_argument("--images", action="store_true", help="show test images that the first run gets wrong")
    report.add_argument("--figures", type=Path, metavar="DIR", help="also write each figure as SVG and PNG")


def _add_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="folders of runs, the one in question first")
    parser.add_argument("--data", type=Path, help="folder of silos, if it has moved")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="RUN_DIR", help="folder of a run, or one of its checkpoints")


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="the run folder")


def _add_run(parser: argparse.ArgumentParser, *, resume: bool = True) -> None:
    if resume:
        parser.add_argument("recipe", nargs="?", type=Path, metavar="RUN.toml", help="the settings")
    else:
        parser.add_argument("recipe", type=Path, metavar="RUN", help="the settings: a TOML file, or the folder of a run")
    parser.add_argument("--data", type=Path, help="folder of silos, made by data_tools/pack.py")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting; repeatable")
    if resume:
        parser.add_argument("--dry-run", action="store_true", help="everything up to the first round, then tell and end")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", type=Path, metavar="RUN_DIR", help="the run folder; an unfinished run in it goes on")
    if not resume:
        return
    target.add_argument("--resume", type=Path, metavar="RUN_DIR", help="go on with the run in this folder")


def _add_shape(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--servers", type=int, help="server ranks (default: roles.servers of the settings)")
    parser.add_argument(
        "--workers",
        type=_workers,
        metavar="N|auto",
        help="worker ranks (default: auto, the cores or GPUs, at most the silos)",
    )
    parser.add_argument("--standby", type=int, help="ranks in reserve (default: roles.standby of the settings)")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < 10**9:
        raise ValueError
    return seconds


def _workers(text: str) -> int | None:
    return None if text == "auto" else int(text)


if TYPE_CHECKING:
    from silofold import run

if __name__ == "__main__":
    sys.exit(main())
