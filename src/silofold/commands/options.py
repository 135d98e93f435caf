"""Options that several commands share, and what every command looks at first."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from silofold.core.errors import ConfigError

if TYPE_CHECKING:
    import argparse

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001  (it has no public name)


def add_folder(parser: argparse.ArgumentParser) -> None:
    """Name a run folder."""
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="the run folder")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Name a trained model."""
    parser.add_argument("model", type=Path, metavar="RUN_DIR", help="folder of a run, or one of its checkpoints")


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Name several runs."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="folders of runs, the one in question first")
    parser.add_argument("--data", type=Path, help="folder of silos, if it has moved")


def add_set(parser: argparse.ArgumentParser) -> None:
    """Override settings."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting; repeatable")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Say what is to be run, and where."""
    parser.add_argument("recipe", nargs="?", type=Path, metavar="RUN.toml", help="the settings")
    add_data(parser)
    parser.add_argument("--dry-run", action="store_true", help="everything up to the first round, then tell and end")
    target = parser.add_mutually_exclusive_group(required=True)
    add_out(target)
    target.add_argument("--resume", type=Path, metavar="RUN_DIR", help="go on with the run in this folder")


def add_data(parser: argparse.ArgumentParser) -> None:
    """Name the silos that are trained on, and override settings."""
    parser.add_argument("--data", type=Path, help="folder of silos, made by data_tools/pack.py")
    add_set(parser)


def add_out(target: argparse._ActionsContainer, *, required: bool = False) -> None:
    """Name the folder that a run is recorded in."""
    told = "the run folder; an unfinished run in it goes on"
    target.add_argument("--out", type=Path, metavar="RUN_DIR", required=required, help=told)


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Say how many ranks play which role."""
    parser.add_argument("--servers", type=int, help="server ranks (default: roles.servers of the settings)")
    parser.add_argument(
        "--workers",
        type=_workers,
        metavar="N|auto",
        help="worker ranks (default: auto, the cores or GPUs, at most the silos)",
    )
    parser.add_argument("--standby", type=int, help="ranks in reserve (default: roles.standby of the settings)")


def seconds(text: str) -> float:
    """Read a time to wait."""
    found = float(text)
    if not 0 <= found < 10**9:
        raise ValueError
    return found


def _workers(text: str) -> int | None:
    return None if text == "auto" else int(text)


def under_mpi() -> bool:
    """Whether a launcher has started this process as one of several ranks."""
    return any(name in os.environ for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"))


def check_place() -> None:
    """Refuse what no command can be imported in: some libraries end the process there.

    Raises
    ------
    ConfigError
        The current folder is gone, or a variable keeps HDF5 from starting.
    """
    try:
        os.getcwd()  # noqa: PTH109  (what pathlib does with it)
    except OSError as fault:
        raise ConfigError("folder-gone", f"the current folder is gone ({fault.strerror}): cd to one that exists") from None
    for name, usual in (("HDF5_VOL_CONNECTOR", "native"), ("HDF5_DRIVER", "sec2")):
        if (value := os.environ.get(name, usual)) != usual:  # HDF5 would fail when it is loaded, in many lines
            raise ConfigError("place-variable", f"{name}={value}: silo files are read by HDF5 itself; unset {name}")


def check_paths(options: argparse.Namespace) -> None:
    """Refuse paths that no command can work with.

    Raises
    ------
    ConfigError
        A folder's path is not UTF-8, or leads nowhere.
    """
    named = [getattr(options, name, None) for name in ("data", "out", "resume", "run", "model")]
    for path in filter(None, [*named, *getattr(options, "runs", ())]):
        try:
            f"{path} {os.path.realpath(path)}".encode()
        except UnicodeEncodeError:
            raise ConfigError("folder-name", f"{path}: found a path that is not UTF-8; rename the folder") from None
        except OSError as fault:
            raise ConfigError("folder-name", f"{path}: {fault.strerror}") from None
