"""Servers and workers of a made-up job: their protocol is the real one, their work takes as long as a seed says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofold.coordination import member as members
from silofold.coordination import phases, recovery
from silofold.coordination import window as windows
from silofold.coordination.events import Dismissed, Expel, GiveUp, Lost, Regrouped, Send, Take
from silofold.coordination.facts import GRACE
from silofold.coordination.member import Member, MemberFacts, Waits
from silofold.coordination.recovery import Recovery
from silofold.messages import (
    Applied,
    Evaluation,
    Moved,
    Plan,
    Replan,
    Report,
    Reports,
    Saved,
    SavedFile,
    Score,
    Tally,
)  # fmt: skip
from simulation import pasted
from simulation.process import Process
from simulation.world import Violation

if TYPE_CHECKING:
    from silofold.coordination.events import Event, MemberAction
    from silofold.messages import AnyMessage
    from simulation.process import Steps
    from simulation.world import World

ELEMENTS = 100
MEMBER_WAYS = {(way.source, way.event, way.target) for way in members.WAYS}
RECOVERY_WAYS = {(way.source, way.event, way.target) for way in recovery.WAYS}


class LostError(Exception):
    """The job cannot go on in its present shape."""

    def __init__(self, loss: Lost) -> None:
        super().__init__(loss.story)
        self.loss = loss


class OverError(Exception):
    """The part of a rank in the run is over."""


class Survivor(Process):
    """A rank that looks for the others."""

    def recover(self, loss: Lost, window: float) -> Steps:
        """Find out who is left, as `silofold.roles.listening.regroup` does."""
        self.world.note("is lost", self.title, loss.story)
        rounds = self.world.plan.settings.rounds
        waited = window or windows.first(rounds.update_window)
        living = set(range(self.world.layout.size)) - self.known_dead
        facts = self.rank, living, loss, waited + rounds.start_window + GRACE
        machine = Recovery(*facts)
        began = self.world.now
        story: list[tuple[Event, float]] = []
        actions = machine.begin(began)
        while not (found := self._perform(actions)):
            event = yield ("hear", machine)
            before = machine.leader
            story.append((event, self.world.now))
            actions = machine.handle(event, self.world.now)
            if why := self._count(event, before, machine.leader, actions):
                raise Violation(why, pasted.test_of_survivor(*facts, began, story, why))
        if isinstance(found, Regrouped):
            self.world.regroup(self.rank, found.order)

    def _count(self, event: Event, before: int, after: int, actions: list[MemberAction]) -> str:
        """Count the way that was taken; return what is wrong with it."""
        source = recovery.LEADS if before == self.rank else recovery.FOLLOWS
        target = recovery.LEADS if after == self.rank else recovery.FOLLOWS
        last = actions[-1] if actions else None
        if isinstance(last, Regrouped | GiveUp):
            target = recovery.REGROUPED if isinstance(last, Regrouped) else recovery.GIVEN_UP
            if after != before:  # in one step: it leads, and decides
                self.world.ways["recovery", recovery.FOLLOWS, phases.kind_of(event).__name__, recovery.LEADS] += 1
                source = recovery.LEADS
        if source == target and after == before:
            return ""
        way = source, phases.kind_of(event), target
        if way not in RECOVERY_WAYS:
            return f"no such way: {source} {way[1].__name__} {target}"
        self.world.ways["recovery", source, way[1].__name__, target] += 1
        return ""

    def _perform(self, actions: list[MemberAction]) -> Take | Lost | Dismissed | Regrouped | GiveUp | None:
        """Do what a machine says, and return what its rank goes on with."""
        for action in actions:
            match action:
                case Send(to, message):
                    self.world.send(self.rank, to, message)
                case Expel(rank):
                    self.world.end_from(self.rank, rank)
                case GiveUp():
                    self.world.give_up(self.rank, action)
                    return action
                case _:
                    return action
        return None


class Rank(Survivor):
    """A server, a worker or a standby."""

    def __init__(self, world: World, rank: int) -> None:
        super().__init__(world, rank)
        self.role, self.index = world.layout.role(rank)
        rounds, nodes = world.plan.settings.rounds, world.plan.nodes
        beside = frozenset(other for other, node in enumerate(nodes) if node == nodes[rank])
        self._facts = MemberFacts(rank, world.layout, beside, world.plan.survives, rounds.start_window + GRACE)
        self._member = Member(self._facts)
        self._story: list[tuple[Waits | Event, float]] = []
        """What the member waited for and was told, and when."""
        self.start(self._live(), world.rng.uniform(0, 0.5))

    def _live(self) -> Steps:
        try:
            yield from self.serve() if self.role == "server" else self.work()
        except OverError:
            pass
        except LostError as lost:
            yield from self.recover(lost.loss, self._member.window)

    def wait(self, waits: Waits) -> Steps:
        """Wait, as `silofold.roles.listening.Listener` does."""
        member = self._member
        self._story.append((waits, self.world.now))
        actions = member.wait(waits, self.world.now)
        while not (found := self._perform(actions)):
            event = yield ("hear", member)
            self._story.append((event, self.world.now))
            actions = member.handle(event, self.world.now)
            if why := self._count_wait(event, waits, actions):
                raise Violation(why, pasted.test_of_member(self._facts, self._story, why))
        match found:
            case Take(message):
                return message
            case Lost():
                raise LostError(found)
        raise OverError

    def _count_wait(self, event: Event, waits: Waits, actions: list[MemberAction]) -> str:
        """Count the way that was taken; return what is wrong with it."""
        if not actions:
            return ""
        kind, last = phases.kind_of(event), actions[-1]
        match last:
            case Take():
                source, target = waits.name, members.WORK
            case Lost():
                source, target = members.ANY, members.LOST
            case Dismissed():
                source, target = members.ANY, members.OVER
            case GiveUp():
                source, target = members.ANY, members.GIVEN_UP
            case Expel(0):
                source, target = members.ANY, members.ANY
            case _:
                return ""
        if (source, kind, target) not in MEMBER_WAYS:
            return f"{self.title}: no such way: {waits.name} {kind.__name__} {target}: {last}"
        self.world.ways["member", source, kind.__name__, target] += 1
        return ""

    def say(self, message: AnyMessage) -> None:
        """Send to rank 0."""
        if self.alive:
            self.world.send(self.rank, 0, message)

    def begin(self) -> Steps:
        """Say ready, and take in the model of the next plan that this rank is a member of."""
        plan: Plan = yield from self.wait(Waits.PLAN)
        moves = self.world.collectives_of(self.rank, "model", plan.round, plan.members)
        broken = yield ("move", moves, plan.window)
        return plan, broken

    def follow(self, tally: Tally) -> Steps:
        """Wait for what follows an attempt to bring the updates together."""
        word = yield from self.wait(Waits.WORD)
        return word if isinstance(word, Tally) else tally.as_settled()

    def end(self) -> Steps:
        """Wait for the run's last word."""
        word = yield from self.wait(Waits.END)
        if not isinstance(word, Replan):
            raise OverError

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
                yield from self.end()
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
        tally: Tally = yield from self.wait(Waits.TALLY)
        while tally.quorum_met and not tally.settled and not tally.certain:
            if self.rank in tally.members.workers:
                moves = world.collectives_of(self.rank, "sum", tally.round, tally.members, tally.attempt)
                broken = yield ("move", moves, plan.window)
                self.say(Moved(tally.round, tally.attempt, broken))
            tally = yield from self.follow(tally)
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
                yield from self.end()
                continue
            yield from self._apply(plan)

    def _apply(self, plan: Plan) -> Steps:
        tally: Tally = yield from self.wait(Waits.TALLY)
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
            tally = yield from self.follow(tally)
        if tally.settled:
            self.world.check_move(self.index, tally, sum_of)
            yield ("sleep", self.draw(0, 0.3))
            self.say(Applied(tally.round, self.index, "x", 0.1, 0.1, finite=not self.world.not_finite))
