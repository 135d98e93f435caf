"""Planned faults, for tests: what dies, stops or lies in which step of which round.

The environment variable ``SILOFOLD_FAULT`` names one or more, separated by ``;``::

    worker 3: kill @ round 4 before reduce
    server 0: stop @ round 2 after train
    worker 1: sleep 2.5 @ round 3 before evaluate
    worker 0: nan @ round 2
    server 1: stop @ after regroup

A fault is ``<role> [<index>]: <what> [<seconds>] @ round <n> [before|after <step>]``. What: ``kill`` (SIGKILL), ``stop``
(SIGSTOP), ``sleep``, ``raise``; and on a worker, without a step, ``nan`` (its updates are not finite), ``fail`` (its model
raises), ``oom`` (its memory is full), ``lie`` (it reports other examples than its silos hold), ``short`` (its updates lack
an element). Steps: those of `silofold.roles.round`, and ``model`` and ``reduce`` for the two moves of model bytes.

Once ranks were lost that the job cannot go on without, ``before regroup`` and ``after regroup``, in which the survivors find
each other, and ``before restart``, in which they start again, belong to no round. Each fault strikes once, in the processes
of a job that has not yet gone on without a server or the scheduler. Without the variable nothing here runs.
"""

from __future__ import annotations

import os
import re
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from silofold.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

VARIABLE = "SILOFOLD_FAULT"
ANYWHERE = ("kill", "stop", "sleep", "raise")
IN_TRAINING = ("nan", "fail", "oom", "lie", "short")
STEPS = ("plan", "evaluate", "train", "update", "settle", "apply", "record")
BETWEEN = (("before", "regroup"), ("after", "regroup"), ("before", "restart"))
"""Places of the recovery from the loss of a server or the scheduler."""
ALIASES = {
    ("before", "model"): ("after", "plan"),
    ("after", "model"): ("before", "evaluate"),
    ("before", "reduce"): ("after", "update"),
    ("after", "reduce"): ("before", "settle"),
}
"""The moves of model bytes lie between the steps of a role."""
_FORM = re.compile(
    r"(scheduler|server|standby|worker)(?: (\d+))?: (\w+)(?: ([\d.]+))? @(?: round (\d+))?(?: (before|after) (\w+))?"
)


@dataclass(frozen=True)
class Fault:
    """One planned fault."""

    title: str
    what: str
    seconds: float
    round: int
    """0 between two starts of the ranks."""
    place: tuple[str, str] | None
    """``before`` or ``after``, and the step; none for what strikes in training."""


def planned(title: str) -> list[Fault]:
    """Read the faults that are planned for a rank.

    Raises
    ------
    ConfigError
        The variable cannot be understood.
    """
    text = os.environ.get(VARIABLE, "")
    return [fault for part in text.split(";") if part.strip() and (fault := _parse(part.strip())).title == title]


def _parse(text: str) -> Fault:
    found = _FORM.fullmatch(text)
    if found is None:
        raise ConfigError(
            "fault-plan", f"{VARIABLE}: found {text!r}, expected like 'worker 3: kill @ round 4 before reduce'"
        )
    role, index, what, seconds, number, when, step = found.groups()
    if what not in (IN_TRAINING if step is None else ANYWHERE):
        raise ConfigError(
            "fault-plan", f"{VARIABLE}: {what!r} in {text!r}: known are {ANYWHERE} with a step, {IN_TRAINING} without one"
        )
    place = ALIASES.get((when, step), (when, step)) if step else None
    if (place in BETWEEN) == bool(number) or (place and place not in BETWEEN and place[1] not in STEPS):
        raise ConfigError(
            "fault-plan",
            f"{VARIABLE}: {step!r} in {text!r}: known are, with a round, {STEPS}, model, reduce, and without one {BETWEEN}",
        )
    title = role if role == "scheduler" else f"{role}_{index or 0}"
    return Fault(title, what, float(seconds or 0), int(number or 0), place)


class FaultInjector:
    """A role whose steps are struck by faults; everything else is the role's own.

    Parameters
    ----------
    role
        The role.
    faults
        What is planned for it.
    first
        Round that it begins with.
    """

    def __init__(self, role: object, faults: list[Fault], first: int) -> None:
        self._role, self._faults, self._round = role, faults, first

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._role, name)
        return self._struck(name, attribute) if name in STEPS else attribute

    def _struck(self, step: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            strike(self._faults, self._round, "before", step)
            answer = method(*arguments, **named)
            strike(self._faults, self._round, "after", step)
            self._round += step == "record"
            return answer

        return call


def strike(faults: list[Fault], number: int, when: str, step: str) -> None:
    """Let those faults strike, once, that are planned for this place.

    Raises
    ------
    RuntimeError
        That is what strikes.
    """
    for fault in [fault for fault in faults if fault.place == (when, step) and fault.round == number]:
        faults.remove(fault)
        match fault.what:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "sleep":
                time.sleep(fault.seconds)
            case _:
                raise RuntimeError("a planned fault")


def in_training(faults: list[Fault], number: int) -> str:
    """Return what strikes a worker's training in a round; empty for nothing.

    Raises
    ------
    RuntimeError, MemoryError
        That is what strikes.
    """
    planned = next((fault.what for fault in faults if fault.place is None and fault.round == number), "")
    if planned == "fail":
        raise RuntimeError("a planned fault")
    if planned == "oom":
        raise MemoryError
    return planned
