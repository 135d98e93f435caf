"""Places of a job's own for what MPI leaves on this machine, removed when the job has ended.

Open MPI names its folder by mpirun's process number alone and does not start where a killed job with the same number left
one behind. Its ranks find each other's memory by files that all jobs of a machine keep in one place. Files there must not
be taken away because no process maps them: a rank of another job may have made one this instant.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PREFIX, LOCK, IS_NEW = "silofold-launch-", "lock", 60.0
"""Folder of a job, the file in it that is locked while the job lives, and seconds in which it may not be yet."""
MEMORY = Path("/dev/shm")  # noqa: S108  (where MPI puts it)
MAPPED_BY = 5.0
"""Seconds after which a rank that has made a file of memory maps it, on a slow machine too."""
SEGMENTS = ("sm_segment.*", "vader_segment.*", "mpich_shm_*")
"""Names of the shared memory of Open MPI and MPICH, where a job has no place of its own for it."""
FOLDERS = ("PRTE_MCA_prte_local_tmpdir_base", "OMPI_MCA_orte_tmpdir_base")
MEMORIES = ("OMPI_MCA_btl_sm_backing_directory", "OMPI_MCA_btl_vader_backing_directory")
OTHER_MACHINES = (
    "SILOFOLD_LAUNCHER", "PBS_NODEFILE", "PE_HOSTFILE", "LSB_DJOB_HOSTFILE", "PRTE_MCA_prte_default_hostfile",
    "OMPI_MCA_orte_default_hostfile",
)  # fmt: skip
"""Variables by which ranks may come to be on machines that have not the folder which is made here."""


@contextlib.contextmanager
def session() -> Iterator[dict[str, str]]:
    """Give a job places of its own, as `locked_session` does, and yield the environment that names them."""
    with locked_session() as (environment, _):
        yield environment


@contextlib.contextmanager
def locked_session() -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
    """Give a job places of its own, and remove them when it has ended, with those that killed jobs have left.

    Yields
    ------
    tuple
        Environment that names the places; descriptors of files that are locked for as long as a process holds them.
    """
    began = time.time()
    with contextlib.ExitStack() as stack:
        folder, lock = stack.enter_context(_folder(Path(tempfile.gettempdir())))
        environment, locks = dict.fromkeys(FOLDERS, folder), [lock]
        if is_on_one_machine(os.environ):
            with contextlib.suppress(OSError):  # Open MPI finds another place then
                memory, lock = stack.enter_context(_folder(MEMORY))
                environment |= dict.fromkeys(MEMORIES, memory)
                locks.append(lock)
        yield environment, tuple(locks)
    sweep(began)


def is_on_one_machine(environment: Mapping[str, str]) -> bool:
    """Whether all ranks of a job come to be on this machine."""
    return environment.get("SLURM_JOB_NUM_NODES", "1") == "1" and not any(name in environment for name in OTHER_MACHINES)


@contextlib.contextmanager
def _folder(base: Path) -> Iterator[tuple[str, int]]:
    """Make a folder with a locked file in it; those whose lock nobody holds any more are removed first."""
    for left in base.glob(f"{PREFIX}*/{LOCK}"):
        _remove_if_left(left)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=base, ignore_cleanup_errors=True) as folder:
        lock = os.open(Path(folder) / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with contextlib.suppress(OSError):  # a file system without locks: then nobody else removes it
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield folder, lock
        finally:
            os.close(lock)


def _remove_if_left(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.stat().st_uid != os.getuid() or time.time() - path.stat().st_mtime < IS_NEW:
            return
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)


def sweep(since: float) -> None:
    """Remove memory that killed ranks have left where all jobs keep it: files that no process maps, and none that is new."""
    segments = [path for pattern in SEGMENTS for path in MEMORY.glob(pattern)]
    left = {str(path) for path in segments if _is_left(path, since)}
    for maps in Path("/proc").glob("[0-9]*/maps") if left else ():
        with contextlib.suppress(OSError):
            text = maps.read_text(encoding="utf-8", errors="replace")
            left -= {path for path in left if path in text}
    for name in left:
        with contextlib.suppress(OSError):
            Path(name).unlink()


def _is_left(path: Path, since: float) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return found.st_uid == os.getuid() and since <= found.st_ctime < time.time() - MAPPED_BY
