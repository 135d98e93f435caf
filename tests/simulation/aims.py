"""Accidents that are aimed: at the instant in which the coordinator comes to a phase, so that rare turns are taken often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from silofold.coordination.phases import Applying, Evaluating, Gathering, Reducing, Training

if TYPE_CHECKING:
    import random

    from simulation.world import Plan

What: TypeAlias = Literal["kill", "stop", "wedge", "stop now", "not finite", "unsound"]
"""wedge: stop at once, and be killed later."""


class Regrouping:
    """The survivors of a loss look for each other."""


class Aim(NamedTuple):
    """What strikes when a phase begins."""

    weight: float
    phase: type
    what: What
    role: str = "server"
    """server, worker or scheduler."""
    low: float = 0.0
    high: float = 0.1
    """Seconds after the phase began, at least and at most; of a kill."""
    last: bool | None = None
    """Whether it waits for the last round; none: either way, as below."""
    late: bool | None = None
    """Whether a rank was struck before."""
    tied: bool | None = None
    shared: bool | None = None
    full: bool | None = None
    """Whether every update must count."""
    hold: float = 0.0
    """Seconds until it stops; the model has arrived by then."""
    after_window: bool = False
    """Whether the seconds are counted from the end of the update window."""

    def fits(self, plan: Plan, *, last: bool, struck: int) -> bool:
        """Whether it can come about in a job, of which so many ranks were struck already."""
        if self.what in {"kill", "wedge"} and not plan.survives:
            return False
        if self.role == "worker" and self.phase is not Regrouping and len(plan.layout.worker_ranks) < 2 + struck:
            return False
        if self.phase is Training and self.what == "wedge" and plan.settings.rounds.update_window == 6.0:
            return False
        full = plan.settings.rounds.update_ratio == 1.0
        found = (
            (self.last, last),
            (self.late, struck > 0),
            (self.tied, plan.tied),
            (self.shared, plan.shared),
            (self.full, full),
        )
        return all(wanted is None or wanted is one for wanted, one in found)


AIMS = (
    *(Aim(1, phase, "stop now", high=0.2) for phase in (Gathering, Training, Reducing, Applying, Evaluating)),
    *(Aim(1, phase, "kill") for phase in (Gathering, Training, Reducing, Applying)),
    Aim(2.5, Evaluating, "kill"),
    *(Aim(1, phase, "stop") for phase in (Gathering, Reducing, Applying)),
    Aim(10, Gathering, "kill", "worker", tied=True, late=False),
    Aim(30, Gathering, "wedge", "worker", 0.5, 3.0, tied=True, late=True),
    Aim(2, Training, "stop", "worker", full=True, tied=False),
    Aim(24, Training, "stop", "worker", full=True, tied=True, late=False),
    Aim(8, Training, "stop", "worker", shared=True, full=False),
    Aim(8, Training, "stop", "worker", shared=False, full=False, hold=0.8),
    Aim(6, Training, "wedge", "worker", 4.0, 5.5, full=True),
    Aim(30, Training, "wedge", "worker", 4.0, 5.5, shared=True, full=False),
    Aim(20, Training, "wedge", "worker", 4.0, 5.5, shared=False, full=False, hold=0.8),
    Aim(1, Reducing, "unsound"),
    Aim(3, Reducing, "stop", "worker", full=True),
    Aim(4, Reducing, "stop", "worker", full=False),
    Aim(1, Reducing, "kill", "worker", full=True),
    Aim(9, Reducing, "kill", "worker", full=False),
    Aim(6, Reducing, "wedge", "worker", 0.4, 1.8, full=True, after_window=True),
    Aim(10, Reducing, "wedge", "worker", 0.4, 1.8, full=False, after_window=True),
    Aim(1, Applying, "not finite"),
    Aim(2, Applying, "stop", "worker", tied=False),
    Aim(38, Applying, "stop", "worker", last=True),
    Aim(6, Applying, "stop", "worker", tied=True),
    Aim(4, Applying, "wedge", "worker", 2.0, 4.0, last=False, tied=False),
    Aim(80, Applying, "wedge", "worker", 2.0, 4.0, last=True, tied=False),
    Aim(3.5, Evaluating, "stop", shared=True),
    Aim(2, Evaluating, "stop", "worker"),
    Aim(7, Evaluating, "wedge", "worker", 1.5, 3.0),
    Aim(2, Evaluating, "kill", "worker"),
    Aim(5, Gathering, "kill", "worker", last=True),
    *(Aim(0.4, phase, "kill", "scheduler") for phase in (Gathering, Training, Reducing, Applying, Evaluating)),
    *(Aim(0.4, phase, "stop", "scheduler") for phase in (Gathering, Training, Reducing, Applying, Evaluating)),
    Aim(2, Regrouping, "kill", "worker", high=1.0),
    Aim(8, Regrouping, "wedge", "worker", 0.5, 3.0),
    Aim(2, Regrouping, "kill", "server", high=1.0),
    Aim(2, Regrouping, "stop", "server"),
    Aim(1, Regrouping, "stop", "scheduler"),
    Aim(1, Regrouping, "stop", "worker"),
)
CHANCES = {Gathering: 0.13, Training: 0.35, Reducing: 0.35, Applying: 0.44, Evaluating: 0.7, Regrouping: 0.6}
"""Of an accident each time that a phase begins."""


def choose(rng: random.Random, plan: Plan, phase: object, *, last: bool, struck: int) -> Aim | None:
    """Choose an accident that can come about now."""
    chance = 0.9 if isinstance(phase, Gathering) and plan.tied and struck else CHANCES.get(type(phase), 0.0)
    if rng.random() >= chance:
        return None
    fitting = [aim for aim in AIMS if isinstance(phase, aim.phase) and aim.fits(plan, last=last, struck=struck)]
    return rng.choices(fitting, [aim.weight for aim in fitting])[0] if fitting else None
