"""The guard of a job: it ends an mpirun that waits for what will not come."""

from __future__ import annotations

import contextlib
import subprocess
import time
from typing import TYPE_CHECKING, Any

from silofold.core import console, machine
from silofold.core.errors import SilofoldError

if TYPE_CHECKING:
    import threading

    from silofold.commands.launching.start import Start

FAREWELL, LOOKS_EVERY = 8.0, 1.0
"""Seconds that a launcher is given to end by itself, and between two looks at it."""


def guard(
    process: subprocess.Popen[Any],
    start: Start | None,
    ended: threading.Event,
    gone: threading.Event | None = None,
    born: threading.Event | None = None,
) -> None:
    """End an mpirun that waits for what will not come, and tell so by an event, and by another if no rank is left.

    Open MPI's may stay when all ranks of another node are killed; it stays for a rank that is stopped; and when a rank dies
    while MPI itself starts, the others wait for it in there. Nothing that the guard meets ends itself.
    """
    watch, told = Watch(process.pid, start), set[str]()
    while process.poll() is None:
        time.sleep(LOOKS_EVERY)
        try:
            reason = watch.look()
            if born and watch.begun:
                born.set()
            if reason:
                console.say(f"mpirun is ended, since it stays though {reason}")
                ended.set()
                if gone and watch.alone:
                    gone.set()
                process.terminate()
                try:
                    process.wait(FAREWELL)
                except subprocess.TimeoutExpired:
                    process.kill()
        except Exception as fault:  # noqa: BLE001  (whatever it is: without a guard a job may hang for ever)
            if (story := f"{type(fault).__name__}: {fault}") not in told:
                told.add(story)
                console.say(f"the guard of this job goes on, but has met {story}")


class Watch:
    """What a guard has seen of a job."""

    def __init__(self, mpirun: int, start: Start | None) -> None:
        self._mpirun, self._start = mpirun, start
        self._most, self._since = 0, dict[str, float]()
        self.alone = False
        """Whether there were ranks, and none is left."""

    @property
    def begun(self) -> bool:
        """Whether there were ranks."""
        return self._most > 0

    def look(self) -> str:
        """Return why the job is to be ended; empty where it is not."""
        living = ranks(self._mpirun)
        self._most = max(self._most, len(living), machine.beside(living[0].pid) if living else 0)
        lost, reasons, start = len(living) < self._most, list[str](), self._start
        self.alone = lost and not living
        if lost and all(rank.stopped for rank in living):
            reasons.append("none of its ranks is at work any more, and the run can be resumed")
        with contextlib.suppress(SilofoldError):  # of a status that is damaged the end of the job will tell
            if start and lost and not start.has_begun():
                reasons.append("a rank was lost before the run had begun")
            if start and start.is_over():
                reasons.append("the run's last word was said")
        now = time.monotonic()
        self._since = {reason: self._since.get(reason, now) for reason in reasons}
        return next((reason for reason, first in self._since.items() if now - first > FAREWELL), "")


def ranks(mpirun: int) -> list[machine.Child]:
    """Find the ranks that an mpirun has started here; a process that a rank starts bears its name for an instant."""
    found = [child for child in machine.descendants(mpirun) if " -m silofold " in child.command]
    own = {child.pid for child in found}
    return [child for child in found if child.parent not in own]
