"""What a job that is no MPI job says of itself in its folder while it is at work, and what it is asked there."""

from __future__ import annotations

import contextlib
import signal
import statistics
import time
from collections import deque
from typing import TYPE_CHECKING, Self

from silofold.core import console, machine
from silofold.core.endings import RESUMABLE, STOPPED
from silofold.core.errors import SilofoldError
from silofold.record import control

if TYPE_CHECKING:
    from silofold.config import Rounds
    from silofold.core.endings import Ending
    from silofold.record.rundir import RunFolder

LOOK_EVERY = 0.5
"""Seconds between two looks at what the job is asked to do."""


class StopNow(Exception):  # noqa: N818  (the user asked for it)
    """The job is to end at once, in the middle of its round."""


class Desk:
    """Status and requests of a job; a signal of the batch system (SIGTERM, SIGUSR1) is a request to stop after the round.

    Parameters
    ----------
    folder
        The run folder.
    rounds
        How many rounds are wanted, and the seconds that a job leaves before its allocation ends.
    done
        Rounds that are done as it begins.
    """

    def __init__(self, folder: RunFolder, rounds: Rounds, done: int) -> None:
        self._folder, self._rounds, self._done = folder, rounds, done
        self._started = self._began = time.time()
        self._durations: deque[float] = deque(maxlen=10)
        self._allocation_end = machine.allocation_end()
        if self._allocation_end and self._allocation_end < self._started:  # left over from another job
            self._allocation_end = None
        self._ending: tuple[Ending, str] | None = None
        self._next_look = 0.0

    def __enter__(self) -> Self:
        """Heed signals from now on."""
        self._write("starting")
        self._born = control.clock(self._folder) - machine.age()
        for name in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(name, self._wish)
        return self

    def __exit__(self, *_: object) -> None:
        """Heed none any more."""
        self._write("ended")
        for name in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(name, signal.SIG_DFL)

    def begin(self) -> None:
        """Take note that the next round begins."""
        self._began = time.time()

    def look(self) -> None:
        """Say that the job is at work, and see what it is asked; to be called often while a round is under way.

        Raises
        ------
        StopNow
            It is to end at once.
        """
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_EVERY
            self._write("training")
        asked = control.take_requests(self._folder, self._born, frozenset({self._started}))
        for request in asked.dropped:
            console.say(f"the request {request!r} is older than this job or names another one: dropped; ask again")
        if asked.stop == "now":
            raise StopNow
        if asked.stop:
            self._end_early(STOPPED, "stopped as asked")

    def end(self) -> tuple[Ending, str] | None:
        """Take note that a round is over, and tell whether the job ends with it, and why."""
        self._done += 1
        self._durations.append(time.time() - self._began)
        self.look()
        if self._allocation_end is not None:
            left = self._allocation_end - time.time() - self._rounds.end_margin
            if left < (longest := max(self._durations)):
                self._end_early(
                    RESUMABLE,
                    f"saved before the allocation's end: {max(left, 0):.0f} s are left, a round takes up to {longest:.0f} s",
                )
        return self._ending

    def _end_early(self, ending: Ending, story: str) -> None:
        if self._ending is None:
            console.say(f"{story}: the job ends after this round")
            self._ending = ending, story

    def _wish(self, *_: object) -> None:
        with contextlib.suppress(SilofoldError):  # that it cannot be noted must not end the round
            control.ask_stop(self._folder, now=False)

    def _write(self, phase: str) -> None:
        status = control.Status(
            written=time.time(),
            started=self._started,
            host=machine.host(),
            phase=phase,
            round=self._done + 1,
            counted=self._done,
            wanted=self._rounds.count,
            round_seconds=time.time() - self._began,
            usual_seconds=statistics.median(self._durations) if self._durations else 0.0,
            waiting_for=[], late={}, workers=[], standbys=[], dead=[], benched=[],
        )  # fmt: skip
        control.write_status(self._folder, status)
