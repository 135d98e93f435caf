"""Run programs under the real mpirun of this environment, with a deadline and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from silofold import launch

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
    with launch.session() as place, subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=dict(os.environ) | place | marked,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            kill(marked[MARK])


def kill(mark: str) -> int:
    """SIGKILL every process that was started with this mark, and return how many there were."""
    entry, killed = f"{MARK}={mark}".encode(), set[str]()
    while True:
        found = set()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended in the meantime
                if entry in (folder / "environ").read_bytes().split(b"\0"):
                    os.kill(int(folder.name), signal.SIGKILL)
                    found.add(folder.name)
        if not found:
            return len(killed)
        killed |= found
        time.sleep(0.01)


def wait(process: subprocess.Popen[str], seconds: float) -> Ended:
    """Wait for a started program; a hang fails the test."""
    out, err = process.communicate(timeout=seconds)
    return Ended(process.returncode, out, err)


def run(command: list[str], seconds: float = 120, environment: Mapping[str, str] | None = None) -> Ended:
    """Run a program to its end."""
    with started(command, environment) as process:
        return wait(process, seconds)


def command(ranks: int, program: list[str]) -> list[str]:
    """Command line of a Python program on so many ranks."""
    return [*launch.mpirun(), "-n", str(ranks), sys.executable, *program]


def on_ranks(ranks: int, program: list[str], seconds: float = 120, environment: Mapping[str, str] | None = None) -> Ended:
    """Run a Python program on so many ranks of one machine."""
    return run(command(ranks, program), seconds, launch.environment(1) | dict(environment or {}))


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
