"""A job of ranks under a launcher: started, heard, shown, guarded, and judged when it ends."""

from __future__ import annotations

import errno
import functools
import os
import signal
import subprocess
import sys
import threading
from typing import IO, TYPE_CHECKING

from silofold.commands.launching import guard, judge, live_view, relay
from silofold.commands.launching.launcher import LAUNCHER, find_mpirun
from silofold.commands.launching.start import Start
from silofold.core import console, machine
from silofold.core.endings import DONE
from silofold.core.errors import ConfigError, TopologyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from silofold.record.rundir import RunFolder


class Job:
    """A job of ranks under a launcher.

    Parameters
    ----------
    command
        The launcher and the program.
    environment
        Of both.
    locks
        Open files that the launcher keeps.
    keeps
        Whether the job leaves a record: it is no rehearsal.
    plain
        Whether it is a run of its own: no replay and no rehearsal.
    """

    def __init__(
        self, command: list[str], environment: dict[str, str], locks: tuple[int, ...], *, keeps: bool, plain: bool
    ) -> None:
        self._command, self._environment, self._locks = command, environment, locks
        self._keeps, self._plain = keeps, plain
        self._relay = relay.Relay()
        self._unwritten = ""
        """Why standard output could not be written."""
        self._born = threading.Event()
        """Whether ranks were seen."""

    def run(self, rounds: int, folder: RunFolder) -> int:
        """Run the command, show how it goes, and judge how it ended."""
        start = Start.now(folder) if self._keeps else None
        view = sys.stdout.isatty()
        # on a terminal all that the ranks print goes through one hand, or it would be written across the view
        process = self._started(subprocess.STDOUT if view and sys.stderr.isatty() else subprocess.PIPE)
        cut, gone = threading.Event(), threading.Event()
        threading.Thread(target=guard.guard, args=(process, start, cut, gone, self._born), daemon=True).start()
        threads = self._passing_on(process, view=view)
        if view:
            out = _descriptor(process.stdout)
            live_view.show(relay.lines(out, self._relay.take if process.stderr is None else bytes), rounds, folder)
        code = process.wait()
        for thread in threads:  # a process that a rank has left behind may hold the pipe for ever
            thread.join(guard.FAREWELL)
        ended = self._judged(code, start, cut=cut.is_set(), gone=gone.is_set())
        if not self._unwritten:
            return ended
        fault = ConfigError("out-write", f"standard output: {self._unwritten}")
        if not self._keeps and ended == DONE.code:  # what was to be told is all there is
            return console.error(fault)
        console.say(f"{fault}: what the run has told stands in its folder")
        return ended

    def _started(self, errors: int) -> subprocess.Popen[bytes]:
        try:
            # in a session of its own: an interrupt of the terminal is a wish that is passed on, not the ranks' death
            return subprocess.Popen(  # not closed by us: who reads may wait in it
                self._command, env=self._environment, stdin=subprocess.DEVNULL, start_new_session=self._plain,
                stdout=subprocess.PIPE, stderr=errors, pass_fds=self._locks,
                preexec_fn=_end_with_parent,  # noqa: PLW1509  (no thread runs yet)
            )  # fmt: skip
        except OSError as fault:
            raise TopologyError(
                "launcher-call", f"{self._command[0]}: cannot be started: {fault.strerror}; {_why(fault)}"
            ) from None

    def _passing_on(self, process: subprocess.Popen[bytes], *, view: bool) -> list[threading.Thread]:
        """Pass the ranks' output and errors on in threads of their own; on a terminal the output is shown elsewhere."""
        ways: list[tuple[int, Callable[[bytes], bytes], int]] = []
        if process.stderr:
            ways.append((_descriptor(process.stderr), self._relay.take, 2))
        if not view:
            ways.append((_descriptor(process.stdout), bytes, 1))
        threads = []
        for source, take, number in ways:
            args = (source, take, functools.partial(self._pass_on, number))
            threads.append(threading.Thread(target=relay.stream, args=args, daemon=True))
            threads[-1].start()
        return threads

    def _pass_on(self, number: int, data: bytes) -> None:
        try:
            _write(number, data)
        except OSError as fault:
            if number == 1 and fault.errno not in console.NOBODY:
                self._unwritten = fault.strerror or str(fault)
            raise

    def _judged(self, code: int, start: Start | None, *, cut: bool, gone: bool) -> int:
        """Judge how the launcher ended, and pass on what was kept back of its words."""
        seen = judge.Observed(
            code=code, program=self._command[0], family="" if LAUNCHER in os.environ else find_mpirun()[1],
            survives="--with-ft" in self._command, spread=self._is_spread(), plain=self._plain, cut=cut, gone=gone,
            born=self._born.is_set(), lived=self._relay.lived, spoken=self._relay.spoken,
            said=self._relay.said.decode(errors="replace"),
        )  # fmt: skip
        ending, cause = judge.told(start)
        if judge.never_started(seen, ending):
            ended, words = judge.judge_start(seen, start)
            _write(2, words.encode())
            return ended
        _write(2, self._relay.rest())
        return judge.judge(seen, start, ending, cause)

    def _is_spread(self) -> bool:
        return self._environment.get("SLURM_JOB_NUM_NODES", "1") != "1" or "PBS_NODEFILE" in self._environment


def _descriptor(stream: IO[bytes] | None) -> int:
    if stream is None:
        raise AssertionError
    return stream.fileno()


def _write(number: int, data: bytes) -> None:
    while data:
        data = data[os.write(number, data) :]


def _end_with_parent() -> None:
    """Have the launcher asked to end when this process is killed: its ranks would go on without a guard."""
    machine.end_with_parent(signal.SIGTERM)


def _why(fault: OSError) -> str:
    if fault.errno == errno.E2BIG:
        return "the command line or the environment is too long"
    return f"look at {LAUNCHER}, or leave it out" if LAUNCHER in os.environ else "is it a program, and of this machine?"
