"""Waiting for MPI without a busy core and never without a deadline.

MPI's own blocking calls poll: a waiting rank takes a core from one that trains. So every wait here tests, sleeps a
little, and sleeps longer the longer it lasts.
"""

from __future__ import annotations

import math
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mpi4py import MPI

FIRST_SLEEP = 20e-6
LONGEST_SLEEP = 1e-3
IDLE_SLEEP = 20e-3
BELL_SLEEP = 0.1
"""Longest sleep of a rank that is woken when there is something to look at, and looks for the dead alone."""
GROWTH = 1.5
PATIENCE = 1e-3
"""A wait may end later than need be by this share of itself: who waits for long looks less often."""
AHEAD = 32
"""Requests of a transfer that are in flight at a time: enough for each look to find work, few enough for their memory."""


class Timeout(Exception):  # noqa: N818  (it is no fault by itself: the caller decides)
    """The deadline of a wait has passed."""


def until(
    happened: Callable[[], bool],
    deadline: float,
    rest: Callable[[float], bool | None] = time.sleep,
    longest: float = LONGEST_SLEEP,
) -> None:
    """Wait until something has happened.

    Parameters
    ----------
    happened
        Asked again and again, with growing sleeps of 20 µs to 1 ms in between, and up to 20 ms in a wait of many seconds.
    deadline
        On the clock of `time.monotonic`, seconds.
    rest
        Sleeps so many seconds, or less and says that there is something to look at.
    longest
        Longest sleep of a short wait, seconds.

    Raises
    ------
    Timeout
        It has not happened by the deadline.
    """
    pause, begin = FIRST_SLEEP, time.monotonic()
    while not happened():
        now = time.monotonic()
        if now >= deadline:
            raise Timeout
        if rest(pause):
            pause = FIRST_SLEEP
        else:
            pause = min(pause * GROWTH, max(longest, min(PATIENCE * (now - begin), IDLE_SLEEP)))


def complete(requests: Iterable[MPI.Request], deadline: float = math.inf, flying: deque[MPI.Request] | None = None) -> None:
    """Wait until all requests are complete.

    Parameters
    ----------
    requests
        Begun as they are drawn: a generator's no more than `AHEAD` at a time.
    deadline
        On the clock of `time.monotonic`, seconds; none where the caller keeps a watchdog.
    flying
        Where those are kept that are not known to be complete.

    Raises
    ------
    Timeout
        Some are not by the deadline; they go on, and their buffers must stay.
    """
    flying = deque() if flying is None else flying
    for request in requests:
        flying.append(request)
        if len(flying) > AHEAD:
            until(flying[0].Test, deadline)
            flying.popleft()
    while flying:
        until(flying[0].Test, deadline)
        flying.popleft()
