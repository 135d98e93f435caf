"""What this process has been given: its node, cores, memory, GPUs, and the end of its allocation.

Read from Linux and from the variables of SLURM; it knows nothing of MPI, torch or the run.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")
LAUNCHERS = {"mpirun", "prterun", "prted", "orterun", "orted", "mpiexec", "mpiexec.hydra", "hydra_pmi_proxy", "slurmstepd"}
"""Names of the processes that have ranks as their children: Open MPI 5 and 4, MPICH, SLURM."""
_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux."""
_NO_LIMIT = 2**60
"""What cgroups of version 1 say where there is no limit is some number above this."""


def node() -> str:
    """Name the node: as SLURM calls it, else the host's name."""
    return printable(os.environ.get("SLURMD_NODENAME", "")) or host()


def host() -> str:
    """Name the host, in one word that can be printed and sent."""
    return printable(socket.gethostname()) or "?"


def printable(name: str) -> str:
    """Make one word of UTF-8 out of a name that others chose."""
    return "_".join(name.encode(errors="surrogateescape").decode(errors="replace").split())


def cores() -> list[int]:
    """List the cores that this process may run on."""
    return sorted(os.sched_getaffinity(0))


def spans(numbers: Iterable[int]) -> str:
    """Write numbers as SLURM does: ``0-3,8``."""
    groups = itertools.groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0])
    runs = [[number for _, number in group] for _, group in groups]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def core_quota(cgroups: Path = CGROUPS, proc: Path = PROC) -> float | None:
    """Tell how many cores' time the control group grants, or none where it sets no limit."""
    quotas: list[float] = []
    for folder in _folders("cpu", cgroups, proc):
        text = _read(folder / "cpu.max") or f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}"
        quota, _, period = text.strip().partition(" ")
        if quota.isdecimal() and period.strip().isdecimal():
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def memory_limit(cgroups: Path = CGROUPS, proc: Path = PROC) -> int:
    """Tell how many bytes the processes of this job may take on this node: its control group's limit, or all memory."""
    limits = [_meminfo("MemTotal", proc)]
    for folder in _folders("memory", cgroups, proc):
        text = (_read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")).strip()
        if text.isdecimal() and int(text) < _NO_LIMIT:
            limits.append(int(text))
    return min(limits)


def memory_used(proc: Path = PROC) -> int:
    """Tell how many bytes of memory this process holds."""
    return _kilobytes("VmRSS", proc / "self" / "status")


def age(proc: Path = PROC) -> float:
    """Tell how many seconds ago this process was started."""
    started = int(_read(proc / "self" / "stat").rpartition(") ")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return float(_read(proc / "uptime").split()[0]) - started


def gpus(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> list[str]:
    """List the GPUs that this process may use: those that ``CUDA_VISIBLE_DEVICES`` grants, else all of the node."""
    granted = environment.get("CUDA_VISIBLE_DEVICES")
    if granted is not None:
        return [name for name in granted.split(",") if name]
    return sorted(path.name.removeprefix("nvidia") for path in devices.glob("nvidia[0-9]*"))


class Child(NamedTuple):
    """A process: its number and its parent's, its command line, and whether it is stopped."""

    pid: int
    parent: int
    command: str
    stopped: bool


def end_with_parent(number: int) -> None:
    """Have this process sent a signal when the one that started it ends, or at once if it has."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def end_with_launcher() -> None:
    """Have a rank end with the launcher's process on its node: without that it would train on, and nobody knew of it.

    The kernel tells when the thread ends that started this process; a launcher of many ranks has several.
    """
    parent = os.getppid()
    if _read(PROC / str(parent) / "comm").rstrip("\n") not in LAUNCHERS:
        return

    def look(*_: object) -> None:
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    number = signal.SIGRTMIN + 11  # nobody else's
    signal.signal(number, look)
    end_with_parent(number)


def descendants(pid: int, proc: Path = PROC) -> list[Child]:
    """List all processes of this machine that a process has started, directly or not."""
    parents: dict[int, int] = {}
    stopped: set[int] = set()
    for entry in proc.iterdir():
        # the name of a process may hold anything, brackets and bytes that are no UTF-8 included: it ends at the last bracket
        told = _read(entry / "stat").rpartition(") ")[2].split() if entry.name.isdecimal() else []
        if len(told) > 1:
            state, parent = told[:2]
            if state != "Z":
                parents[int(entry.name)] = int(parent)
            if state == "T":
                stopped.add(int(entry.name))
    found, todo = list[Child](), [pid]
    while todo:
        above = todo.pop()
        children = [child for child, parent in parents.items() if parent == above]
        for child in children:
            command = _read(proc / str(child) / "cmdline").replace("\0", " ")
            found.append(Child(child, above, command, child in stopped))
        todo += children
    return found


def ancestors(pid: int, proc: Path = PROC) -> Iterator[str]:
    """Yield the names of the processes that a process comes from, its parent first."""
    while pid > 0:
        told = _read(proc / str(pid) / "stat").rpartition(") ")[2].split()
        pid = int(told[1]) if len(told) > 1 else 0
        if pid > 0:
            yield _read(proc / str(pid) / "comm").rstrip("\n")


def beside(pid: int, proc: Path = PROC) -> int:
    """Tell how many ranks the launcher started on this machine, as it told one of them (Open MPI, MPICH); 0 if unknown."""
    told = dict(entry.partition("=")[::2] for entry in _read(proc / str(pid) / "environ").split("\0"))
    sizes = [told.get(name, "") for name in ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")]
    return next((number for size in sizes if (number := _number(size))), 0)


def tasks(environment: Mapping[str, str] = os.environ) -> int | None:
    """Tell for how many tasks the allocation is made, or none outside of SLURM."""
    return _number(environment.get("SLURM_NTASKS", "")) or None


def allocation_end(environment: Mapping[str, str] = os.environ) -> float | None:
    """Tell when the allocation ends, in seconds since the epoch, or none where nobody says so."""
    return float(_number(environment.get("SLURM_JOB_END_TIME", ""))) or None


def _folders(controller: str, cgroups: Path, proc: Path) -> list[Path]:
    """Find this process's control groups, of either version, from its own up to the root."""
    found = []
    for line in filter(None, _read(proc / "self" / "cgroup").split("\n")):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = cgroups / controller if controllers else cgroups
        # inside a container the path may be one of the host's that is not there: then the root is the container's own
        relative = Path(path.lstrip("/"))
        found += [root / part for part in (relative, *relative.parents)]
    return found


def _meminfo(key: str, proc: Path) -> int:
    return _kilobytes(key, proc / "meminfo")


def _kilobytes(key: str, path: Path) -> int:
    line = next((line for line in _read(path).splitlines() if line.startswith(f"{key}:")), "")
    return int(line.split()[1]) * 1024 if line else 0


def _number(text: str) -> int:
    """Read a plain number; 0 where others have put something else there."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else 0


def _read(path: Path) -> str:
    """Read a file of the kernel's as far as it goes: names, command lines and environments are of any bytes."""
    try:
        return path.read_bytes().decode(errors="surrogateescape")
    except OSError:
        return ""
