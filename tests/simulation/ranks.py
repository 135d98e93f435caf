"""Made-up servers and workers: they keep the protocol, and take as long as a seed says."""

from __future__ import annotations

import collections
import functools
from typing import TYPE_CHECKING, Any, TypeAlias

from silofold.messages import (
    Alive,
    Applied,
    Evaluation,
    Expel,
    Moved,
    Over,
    Plan,
    Ready,
    Replan,
    Report,
    Reports,
    Saved,
    SavedFile,
    Score,
    Settled,
    Tally,
)  # fmt: skip
from simulation.world import Violation

if TYPE_CHECKING:
    from collections.abc import Generator

    from silofold.messages import AnyMessage
    from simulation.world import Collective, World

ELEMENTS = 100
Steps: TypeAlias = "Generator[tuple[Any, ...], Any, Any]"


class Rank:
    """A process: its steps wait for time, messages or collectives."""

    def __init__(self, world: World, rank: int) -> None:
        self.world, self.rank = world, rank
        self.role, self.index = world.layout.role(rank)
        self.title = world.layout.title(rank)
        self.alive, self._paused_to, self._waits = True, 0.0, False
        self._box: collections.deque[AnyMessage] = collections.deque()
        self._heard_at, self._watched = 0.0, False
        """When rank 0 last gave a sign of life, or this rank began to wait; whether somebody looks at it in time."""
        self._steps: Steps = self.serve() if self.role == "server" else self.work()
        world.after(world.rng.uniform(0, 0.5), lambda: self._go(None))

    # --- a process of the machine ------------------------------------------------------------------------------------

    def pause(self, seconds: float) -> None:
        """Stop, for so long."""
        self._paused_to = max(self._paused_to, self.world.now + seconds)

    def receive(self, message: AnyMessage) -> None:
        """Take a message that has arrived."""
        if self.alive:
            self._box.append(message)
            self._open_box()

    def _open_box(self) -> None:
        if self._waits and self._box:
            self._waits = False
            self._go(self._box.popleft())

    def _go(self, answer: Any) -> None:
        if not self.alive:
            return
        if self.world.now < self._paused_to:
            if self._paused_to < 1e8:
                self.world.at(self._paused_to + 1e-6, lambda: self._go(answer))
            return
        try:
            what, *rest = self._steps.send(answer)
        except StopIteration:
            return
        if what == "sleep":
            self.world.after(rest[0], lambda: self._go(None))
        elif what == "move":
            self._move(*rest)
        else:
            self._waits = True
            if self._box:
                self._open_box()
            else:
                self._heard_at = max(self._heard_at, self.world.now)
                self._watch()

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

    def hear_beat(self, when: float) -> None:
        """Learn that rank 0 lives."""
        self._heard_at = max(self._heard_at, when)

    def _watch(self) -> None:
        """Look at this rank when it will have heard nothing for too long: seldom, as signs of life are many."""
        if not self._watched and self._paused_to < 1e8:
            self._watched = True
            self.world.at(max(self._heard_at, self._paused_to) + self.world.silence(), self._lose_patience)

    def _lose_patience(self) -> None:
        self._watched = False
        if not self._waits or not self.alive or self._box:
            return
        if self.world.now < max(self._heard_at, self._paused_to) + self.world.silence():
            self._watch()
        else:
            raise Violation(f"{self.title} heard nothing of a living scheduler for {self.world.silence()} s")

    # --- the protocol ------------------------------------------------------------------------------------------------

    def say(self, message: AnyMessage) -> None:
        """Send to rank 0."""
        if self.alive:
            self.world.send(self.rank, 0, message)

    def expect(self, *kinds: type[AnyMessage]) -> Steps:
        """Wait for a message of one of these kinds."""
        while True:
            message = yield ("hear",)
            if isinstance(message, kinds):
                return message
            if isinstance(message, Over):
                yield ("sleep", 1e9)
            elif isinstance(message, Expel):
                self.world.kill(message.rank)
            elif not isinstance(message, Alive):
                names = " or ".join(kind.__name__ for kind in kinds)
                raise Violation(f"{self.title} expected {names}, found {message}")

    def begin(self) -> Steps:
        """Say ready, and take in the model of the next plan that this rank is a member of."""
        self.say(Ready(self.title))
        while True:
            plan = yield from self.expect(Plan)
            if self.role == "server" or self.rank in plan.members.workers:
                break
        moves = self.world.collectives_of(self.rank, "model", plan.round, plan.members)
        broken = yield ("move", moves, plan.window)
        return plan, broken

    def draw(self, low: float, high: float) -> float:
        """Draw a number of seconds."""
        return self.world.rng.uniform(low, high)

    def work(self) -> Steps:
        """Be a worker, or a standby."""
        while True:
            plan, broken = yield from self.begin()
            if not broken:
                yield ("sleep", self.draw(0, 0.3))
                digest = "d" if self.rank in plan.members.workers[:2] else ""
                scores = tuple(Score(silo, 3, 1, 1.0) for silo in plan.hosted)
                self.say(Evaluation(plan.round, digest, 0.1, 0.1, scores))
            elif plan.last:
                self.say(Evaluation(plan.round, "", 0.0, 0.0, (), arrived=False))
            if plan.last:
                yield from self.expect(Replan)
                continue
            yield from self._train(plan, broken)

    def _train(self, plan: Plan, broken: str) -> Steps:
        world = self.world
        seconds = self.draw(0.1, 2) * world.plan.slow.get(self.rank, 1)
        yield ("sleep", min(seconds, plan.window))
        reports = []
        for silo in plan.dealt:
            good = not broken and seconds <= plan.window and world.rng.random() >= world.plan.fails.get(self.rank, 0)
            examples = world.plan.examples[silo]
            reason = "" if good else "failed"
            reports.append(Report(silo, examples, 1, 1, 1.0, 1, 0.1, finished=good, elements=ELEMENTS, reason=reason,
                                  state=f"of {plan.round}"))  # fmt: skip
        self.say(Reports(plan.round, seconds, tuple(reports)))
        tally = yield from self.expect(Tally)
        while tally.quorum_met and not tally.settled and not tally.certain:
            if self.rank in tally.members.workers:
                moves = world.collectives_of(self.rank, "sum", tally.round, tally.members, tally.attempt)
                broken = yield ("move", moves, plan.window)
                self.say(Moved(tally.round, tally.attempt, broken))
            word = yield from self.expect(Tally, Settled)
            tally = word if isinstance(word, Tally) else tally.as_settled()
        if tally.quorum_met and world.plan.keeps and tally.silos:
            yield ("sleep", self.draw(0, 0.3))
            world.written |= {(silo, tally.round) for silo in tally.silos}

    def serve(self) -> Steps:
        """Be a server."""
        while True:
            plan, _ = yield from self.begin()
            if plan.checkpoint:
                yield ("sleep", self.draw(0, 0.3))
                self.say(Saved(plan.round - 1, self.title, (SavedFile(f"shard_{self.index}.h5", "x"),), 0.1))
            if plan.last:
                yield from self.expect(Replan)
                continue
            yield from self._apply(plan)

    def _apply(self, plan: Plan) -> Steps:
        tally = yield from self.expect(Tally)
        sum_of: int | None = None
        while tally.quorum_met and not tally.settled:
            if tally.certain:
                tally, sum_of = tally.as_settled(), tally.attempt
                break
            moves = self.world.collectives_of(self.rank, "sum", tally.round, tally.members, tally.attempt)
            broken = yield ("move", moves, plan.window)
            sum_of = None if broken else tally.attempt
            unsound = "numbers that are not finite" if self.world.unsound and not broken else ""
            self.say(Moved(tally.round, tally.attempt, broken, unsound))
            word = yield from self.expect(Tally, Settled)
            tally = word if isinstance(word, Tally) else tally.as_settled()
        if tally.settled:
            self.world.check_move(self.index, tally, sum_of)
            yield ("sleep", self.draw(0, 0.3))
            self.say(Applied(tally.round, self.index, "x", 0.1, 0.1, finite=not self.world.not_finite))
