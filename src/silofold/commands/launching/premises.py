"""What must hold here before ranks are started: looked at beforehand, so that what is missing is told in one line."""

from __future__ import annotations

import os
import pwd
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from silofold.core import machine
from silofold.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MIB = 2**20
FILES = (32, 4)
"""Open files that a start takes: so many, and so many more a rank. Open MPI 5 needed 40 for 4 ranks, 66 to 80 for 12."""
TEMPORARY = 4 * MIB
"""Bytes that MPI may keep in its session's folder."""
SEGMENT = 16 * MIB
"""Bytes of the file in shared memory that each rank of Open MPI asks for."""
LISTS = ("PBS_NODEFILE", "PE_HOSTFILE", "LSB_DJOB_HOSTFILE", "LSB_AFFINITY_HOSTFILE", "COBALT_NODEFILE")
"""Variables by which batch systems name a file of the job's nodes."""

OF_A_JOB = {"slurmstepd", "salloc"}
"""Processes of SLURM's that what runs in a job comes from."""


def check(ranks: int, environment: Mapping[str, str] = os.environ) -> None:
    """Look at the environment of a job.

    Parameters
    ----------
    ranks
        How many there are to be.
    environment
        Of this process.

    Raises
    ------
    ConfigError
        A job cannot start here, and why.
    """
    check_variables(environment, lambda number: allocation_lives(number, environment))
    _check_file_sizes()
    check_temporary(environment)
    _check_files(ranks)
    if not os.access(sys.executable, os.X_OK):
        raise ConfigError(
            "launcher-call", f"{sys.executable or 'sys.executable'}: this Python cannot be started by a launcher"
        )


def check_variables(environment: Mapping[str, str], lives: Callable[[str], bool]) -> None:
    """Refuse variables that are left over from elsewhere.

    Parameters
    ----------
    environment
        What to look at.
    lives
        Tells whether a job of SLURM's is at work.

    Raises
    ------
    ConfigError
        One of them misleads the launcher.
    """
    for name in LISTS:
        if (value := environment.get(name)) and not os.access(value, os.R_OK):
            raise ConfigError(
                "place-variable",
                f"{name}={value}: there is no such file, expected a batch job's list of nodes; unset {name}",
            )
    for name in ("SLURM_JOB_ID", "SLURM_JOBID"):
        if (value := environment.get(name)) and not lives(value):
            raise ConfigError(
                "place-allocation",
                f"{name}={value}: that job is not at work, its variables are left over in this shell; "
                'unset "${!SLURM_@}", or start inside a job',
            )


def allocation_lives(number: str, environment: Mapping[str, str]) -> bool:
    """Tell whether a job of SLURM's is at work: this process comes from one, or SLURM says so."""
    if any(name in OF_A_JOB for name in machine.ancestors(os.getpid())):
        return True
    squeue = shutil.which("squeue", path=environment.get("PATH"))
    if squeue is None:  # Open MPI needs SLURM's commands inside a job
        return False
    command = [squeue, "--noheader", "--states=RUNNING", "--format=%A", f"--jobs={number}"]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return True
    return answer.returncode == 0 and bool(answer.stdout.strip())


def check_temporary(environment: Mapping[str, str]) -> None:
    """Write what MPI would into the folder for temporary files.

    Raises
    ------
    ConfigError
        It cannot be.
    """
    named = environment.get("TMPDIR", "")
    try:
        with (
            tempfile.TemporaryDirectory(prefix="silofold-", dir=named or None) as folder,
            (Path(folder) / "x").open("wb") as file,
        ):
            os.posix_fallocate(file.fileno(), 0, TEMPORARY)
    except OSError as fault:
        place = f"TMPDIR={named}" if named else tempfile.gettempdir() if tempfile.tempdir else "/tmp"  # noqa: S108
        raise ConfigError(
            "place-temporary",
            f"{place}: {fault.strerror}: MPI keeps up to {TEMPORARY // MIB} MiB there; make room, or name another TMPDIR",
        ) from None


def _check_files(ranks: int) -> None:
    needed = FILES[0] + FILES[1] * ranks
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < needed:
        raise ConfigError(
            "place-files", f"at most {hard} files may be open here, expected {needed} for {ranks} ranks: ulimit -n {needed}"
        )
    if 0 <= soft < 4 * needed:  # ours to raise, and the ranks inherit it
        resource.setrlimit(resource.RLIMIT_NOFILE, (4 * needed if hard < 0 else min(hard, 4 * needed), hard))


def _check_file_sizes() -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if 0 <= limit < SEGMENT:
        raise ConfigError(
            "place-size",
            f"no file may be larger than {limit / MIB:.3g} MiB here, expected {SEGMENT // MIB} MiB for MPI's shared memory, "
            "and more for a large model: ulimit -f unlimited",
        )


def home(environment: Mapping[str, str]) -> dict[str, str]:
    """Name a home folder where the environment names none (HTCondor, systemd, ``--export=NONE``): Open MPI wants one."""
    if environment.get("HOME"):
        return {}
    try:
        return {"HOME": pwd.getpwuid(os.getuid()).pw_dir or "/"}
    except KeyError:  # a user of a container who has no name
        return {"HOME": tempfile.gettempdir()}


def memory_is_small(ranks: int, folder: Path = Path("/dev/shm")) -> bool:  # noqa: S108  (where MPI puts it)
    """Tell whether Open MPI's ranks could not share memory here."""
    try:
        return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free < SEGMENT * (ranks + 1)
    except OSError:
        return False
