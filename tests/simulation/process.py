"""A process of the made-up cluster: it works for a while, waits for what arrives, may stop, and may die."""

from __future__ import annotations

import collections
import functools
import math
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from silofold.coordination.events import Died, Heard, Tick
from silofold.coordination.member import Member
from silofold.messages import Alive

if TYPE_CHECKING:
    from collections.abc import Generator

    from silofold.coordination.events import Event, MemberAction
    from simulation.world import Collective, World

Steps: TypeAlias = "Generator[tuple[Any, ...], Any, Any]"
FOR_EVER = 1e9
"""Seconds of a pause that never ends."""


class Machine(Protocol):
    """What is told of events: a member, or a survivor's recovery."""

    wake_at: float

    def handle(self, event: Event, now: float) -> list[MemberAction]: ...


class Process:
    """A rank of the job, whose steps wait for time, events or collectives."""

    def __init__(self, world: World, rank: int) -> None:
        self.world, self.rank = world, rank
        self.title = world.layout.title(rank)
        self.alive, self.paused_to = True, 0.0
        self.known_dead: set[int] = set()
        """Ranks of whose death it was told."""
        self._box: collections.deque[Event] = collections.deque()
        self._waits: Machine | None = None
        self._steps: Steps | None = None
        self._looked_after = math.inf
        """When somebody looks whether the machine's time has come."""

    def start(self, steps: Steps, after: float = 0.0) -> None:
        """Begin to take these steps, in so many seconds."""
        self._steps = steps
        self.world.after(after, lambda: self._go(None))

    @property
    def stopped(self) -> bool:
        """Whether it will never go on."""
        return self.paused_to >= FOR_EVER

    @property
    def works(self) -> bool:
        """Whether its part is not over."""
        return self._steps is not None

    def pause(self, seconds: float) -> None:
        """Stop, for so long."""
        self.paused_to = max(self.paused_to, self.world.now + seconds)

    def receive(self, event: Event) -> None:
        """Take what has arrived; of a rank whose death is known nothing arrives any more."""
        if not self.alive or (isinstance(event, Heard) and event.rank in self.known_dead):
            return
        if isinstance(event, Died):
            self.known_dead.add(event.rank)
        self._box.append(event)
        self._open_box()

    def hear_beat(self) -> None:
        """Hear that rank 0 lives: of a member that waits nothing else follows from it, so that no step need be taken."""
        if isinstance(self._waits, Member) and self.world.now >= self.paused_to:
            self._waits.handle(Heard(0, Alive()), self.world.now)
        elif not self.stopped:
            self.receive(Heard(0, Alive()))

    def _open_box(self) -> None:
        if self._waits is not None and self._box:
            self._waits = None
            self._go(self._box.popleft())

    def _go(self, answer: Any) -> None:
        if not self.alive or self._steps is None:
            return
        if self.world.now < self.paused_to:
            if not self.stopped:
                self.world.at(self.paused_to + 1e-6, lambda: self._go(answer))
            return
        try:
            what, *rest = self._steps.send(answer)
        except StopIteration:
            self._steps = None
            return
        if what == "sleep":
            self.world.after(rest[0], lambda: self._go(None))
        elif what == "move":
            self._move(*rest)
        else:
            self._waits = rest[0]
            if self._box:
                self._open_box()
            else:
                self._look_later()

    def _move(self, collectives: list[Collective], window: float) -> None:
        left: dict[int, str | None] = dict.fromkeys(range(len(collectives)))

        def wake(index: int, broken: str) -> None:
            left[index] = broken
            if all(told is not None for told in left.values()):
                self._go(next((told for told in left.values() if told), ""))

        for index, collective in enumerate(collectives):
            collective.enter(self.rank, window, functools.partial(wake, index))
        if not collectives:
            self.world.after(0.0, lambda: self._go(""))

    def _look_later(self) -> None:
        """Have the machine's time looked after: once for many signs of life, each of which moves it."""
        due = self._waits.wake_at if self._waits else math.inf
        if due < self._looked_after:
            self._looked_after = due
            self.world.at(due, functools.partial(self._look, due))

    def _look(self, due: float) -> None:
        if due != self._looked_after:  # an earlier look took its place
            return
        self._looked_after = math.inf
        if self._waits is None or not self.alive or self.stopped:
            return
        if self.world.now < self.paused_to:  # it finds what has arrived first
            self._looked_after = self.paused_to + 1e-6
            self.world.at(self._looked_after, functools.partial(self._look, self._looked_after))
        elif self.world.now < self._waits.wake_at:
            self._look_later()
        else:
            self._waits = None
            self._go(Tick())
