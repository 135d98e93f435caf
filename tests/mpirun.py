"""Run programs under the real mpirun of this environment, with a deadline and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from silofold.commands.launching import launcher, mpi_session

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Ended(NamedTuple):
    """How a program ended."""

    code: int
    out: str
    err: str

    def faults(self) -> list[str]:
        """Lines that silofold itself wrote about what is wrong."""
        return [line for line in self.err.splitlines() if line.startswith("silofold")]


MARK = "SILOFOLD_TEST"
"""Variable by which all processes of a started program are known: mpirun gives each rank a process group of its own."""


@contextlib.contextmanager
def started(command: list[str], environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Start a program and end all its processes afterwards, however the test ends."""
    marked = {MARK: uuid.uuid4().hex} | dict(environment or {})
    with mpi_session.session() as place, subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=dict(os.environ) | place | marked,
    ) as process:  # fmt: skip
        threading.Thread(target=_watch, args=(process, command), daemon=True).start()
        try:
            yield process
        finally:
            kill(marked[MARK])
            _found.pop(process.pid, None)


LEFT = 15.0
"""Seconds that an mpirun may stay when all of its ranks are gone."""
UNKNOWN = 70
"""Exit code of a job whose mpirun had to be ended and whose ranks' codes are lost."""
_found: dict[int, int] = {}
"""Process of an mpirun that had to be ended → exit code of its ranks."""


def _watch(process: subprocess.Popen[str], command: list[str]) -> None:
    """End an mpirun that stays without ranks, as it does now and then on a loaded machine: `silofold launch` does the same.

    The ranks that it has not buried tell their exit codes.
    """
    if Path(command[0]).name not in {"mpirun", "mpiexec", "prterun"}:
        return
    begun, alone_since, codes = False, 0.0, dict[int, int]()
    while process.poll() is None:
        time.sleep(0.2)
        living, dead = _ranks(process.pid)
        codes |= dead
        begun = begun or bool(living)
        alone_since = 0.0 if living or not begun else alone_since or time.monotonic()
        if alone_since and time.monotonic() - alone_since > LEFT:
            _found[process.pid] = max(codes.values(), default=UNKNOWN)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()


def _ranks(mpirun: int) -> tuple[set[int], dict[int, int]]:
    """Find the Python processes that an mpirun has started: those that live, and the exit codes of those that do not."""
    parents, names, codes = dict[int, int](), dict[int, str](), dict[int, int]()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            head, _, tail = (folder / "stat").read_bytes().decode(errors="replace").rpartition(") ")
            fields, pid = tail.split(), int(folder.name)
            parents[pid], names[pid] = int(fields[1]), head.partition("(")[2]
            if fields[0] in {"Z", "X"}:
                codes[pid] = os.waitstatus_to_exitcode(int(fields[49]))
    below = {mpirun}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    ranks = {pid for pid in below if names.get(pid, "").startswith("python")}
    return ranks - set(codes), {pid: codes[pid] if codes[pid] >= 0 else 128 - codes[pid] for pid in ranks & set(codes)}


def kill(mark: str) -> int:
    """SIGKILL every process that was started with this mark, and return how many there were."""
    entry, killed = f"{MARK}={mark}".encode(), set[str]()
    while True:
        found = set()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended in the meantime
                if entry in (folder / "environ").read_bytes().split(b"\0"):
                    found.add(folder.name)
        if not found:
            return len(killed)
        for pid in found:  # all were counted before: ranks end with their launcher
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        killed |= found
        time.sleep(0.01)


def wait(process: subprocess.Popen[str], seconds: float) -> Ended:
    """Wait for a started program; a hang fails the test."""
    out, err = process.communicate(timeout=seconds)
    return Ended(_found.pop(process.pid, process.returncode), out, err)


def run(command: list[str], seconds: float = 120, environment: Mapping[str, str] | None = None) -> Ended:
    """Run a program to its end."""
    with started(command, environment) as process:
        return wait(process, seconds)


def command(ranks: int, program: list[str]) -> list[str]:
    """Command line of a Python program on so many ranks."""
    return [*launcher.mpirun(), "-n", str(ranks), sys.executable, *program]


def on_ranks(ranks: int, program: list[str], seconds: float = 120, environment: Mapping[str, str] | None = None) -> Ended:
    """Run a Python program on so many ranks of one machine."""
    return run(command(ranks, program), seconds, launcher.environment(1) | dict(environment or {}))


def train(
    ranks: int,
    recipe: Path,
    data: Path,
    out: Path,
    *settings: str,
    seconds: float = 180,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run ``python -m silofold train`` on so many ranks."""
    sets = [part for setting in settings for part in ("--set", setting)]
    program = ["-m", "silofold", "train", str(recipe), "--data", str(data), "--out", str(out), *sets]
    return on_ranks(ranks, program, seconds, environment)


def silofold(*words: object, seconds: float = 120, environment: Mapping[str, str] | None = None) -> Ended:
    """Run a command of silofold that needs no MPI, or that starts it by itself."""
    return run([sys.executable, "-m", "silofold", *map(str, words)], seconds, environment)
