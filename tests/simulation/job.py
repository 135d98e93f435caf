"""A whole job in virtual time: the real coordinator, made-up ranks, planned accidents, and what must always hold."""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from silofold import config, topology
from silofold.coordination import phases, recovery
from silofold.coordination import window as windows
from silofold.coordination.coordinator import Coordinator
from silofold.coordination.events import (
    CommitCheckpoint,
    Died,
    EndKind,
    Expel,
    Finished,
    Heard,
    Lost,
    RoundClosed,
    Send,
    Tallied,
    Tick,
)  # fmt: skip
from silofold.coordination.facts import Facts, Saved
from silofold.messages import Alive, Over, Plan, Tally
from silofold.messages import Expel as ExpelMessage
from simulation import pasted
from simulation import world as worlds
from simulation.ranks import ELEMENTS, Rank, Survivor
from simulation.world import Violation, World

if TYPE_CHECKING:
    from silofold.coordination.events import Action, Event
    from silofold.messages import Regroup


STARTS = 5
"""Of a job, at most."""
REPLAYED = 10
"""One job of so many is played again by its record."""
WAYS = {(way.source, way.event, way.target) for way in phases.TRANSITIONS}


class Outcome(NamedTuple):
    """How a job went."""

    kind: str
    """The end's kind, or ``violation``."""
    why: str
    plan: worlds.Plan
    log: list[tuple[object, ...]]
    events: int
    seconds: float
    rounds: list[RoundClosed]
    ways: collections.Counter[tuple[str, ...]]
    """How often each way of a machine was taken: its name, whence, the event's kind, and where to."""
    test: str
    """A unit test that shows the violation."""


def facts(
    *settings: str,
    layout: topology.Layout,
    certain: bool,
    saved: tuple[int, dict[str, str]] | None = None,
    keeps_state: bool = False,
    **rest: Any,
) -> Facts:
    """Say what the coordinator must know of a made-up job.

    Parameters
    ----------
    settings
        ``rounds.key=value`` each.
    layout
        Roles of the ranks.
    certain
        Whether sums cannot fail.
    saved
        Round and files of the checkpoint that it goes on from.
    keeps_state
        Whether silos keep a state.
    rest
        Further attributes of `Facts`.
    """
    return Facts(
        rounds=config.parse("", "simulation", settings).rounds,
        layout=layout,
        elements=ELEMENTS,
        deals=False,
        foresees=False,
        weight=lambda examples: examples,
        draw=lambda silos, number: silos,  # noqa: ARG005
        certain=lambda members: certain,  # noqa: ARG005
        gathers=False,
        script={},
        saved=Saved(*saved) if saved else None,
        keeps_state=keeps_state,
        **rest,
    )


def facts_of(plan: worlds.Plan, saved: CommitCheckpoint | None) -> Facts:
    """Say it of a start, which may go on from a checkpoint."""
    workers = plan.layout.worker_ranks
    found = facts(
        layout=plan.layout,
        certain=plan.shared,
        nodes=plan.nodes,
        examples=plan.examples,
        hosted=dict(zip(workers, topology.assign_silos(plan.examples, len(workers)), strict=True)),
        survives=plan.survives,
        tied=plan.tied,
        start_round=saved.round + 1 if saved else 1,
        counted=saved.counted if saved else 0,
        voids=saved.voids if saved else 0,
        saved=(saved.round, saved.files) if saved else None,
        keeps_state=plan.keeps,
        states=saved.states if saved else {},
    )
    return dataclasses.replace(found, rounds=plan.settings.rounds)


def step(coordinator: Coordinator, event: Event, now: float) -> list[Action]:
    """Tell a coordinator of an event, and see that what must hold of it does.

    Raises
    ------
    Violation
        It does not.
    """
    before = coordinator.phase
    actions = coordinator.handle(event, now)
    after = coordinator.phase
    way = type(before), phases.kind_of(event), type(after)
    if after is not before and way not in WAYS:
        raise Violation(f"no such transition: {' '.join(one.__name__ for one in way)}")
    check(coordinator, now)
    return actions


def check(coordinator: Coordinator, now: float) -> None:
    """See that what must hold of a coordinator after every event does.

    Raises
    ------
    Violation
        It does not.
    """
    members = coordinator.members
    held = [silo for rank in members.hosting.hosts for silo in members.hosting.silos_of(rank)]
    if len(held) != len(set(held)):
        raise Violation(f"a silo is hosted twice: {sorted(held)}")
    if members.ready - members.living:
        raise Violation(f"a dead rank is ready: {members.ready - members.living}")
    if coordinator.wake_at > now + 2 * 86400:
        raise Violation("nothing has a deadline")


def fail(why: str) -> NoReturn:
    """Say that something is wrong.

    Raises
    ------
    Violation
        Always.
    """
    raise Violation(why)


class Zero(Survivor):
    """Rank 0: the job's coordinator hears for it, until it looks for survivors."""

    looks = False

    def receive(self, event: Event) -> None:
        """Take what has arrived."""
        if self.looks:
            super().receive(event)
        elif self.alive and not (isinstance(event, Heard) and event.rank in self.known_dead):
            if isinstance(event, Died):
                self.known_dead.add(event.rank)
            self.world.inbox.append(event)

    def leave(self, loss: Lost, window: float) -> None:
        """Leave the round, and call the others together."""
        self.looks = True
        self.start(self.recover(loss, window))


class Job:
    """One simulated job.

    Parameters
    ----------
    seed
        All that happens follows from it.
    one_dead_worker
        Whether nothing happens but the death of one worker of several, at default settings.
    """

    def __init__(self, seed: int, *, one_dead_worker: bool = False) -> None:
        self._seed, self._one_dead_worker, self._starts = seed, one_dead_worker, 0
        self._shape: worlds.Shape | None = None
        self.ways: collections.Counter[tuple[str, ...]] = collections.Counter()
        self.rounds: list[RoundClosed] = []
        self.saved: CommitCheckpoint | None = None
        self.events = 0
        self._start()

    def _start(self) -> None:
        """Start the ranks, from the newest checkpoint if there is one."""
        self._starts += 1
        self.plan = worlds.draw(self._seed, one_dead_worker=self._one_dead_worker, start=self._starts, shape=self._shape)
        self._begin(facts_of(self.plan, self.saved))

    def _begin(self, known: Facts) -> None:
        self.facts = known
        self.world = World(f"{self._seed} {self._starts}", self.plan)
        zero = Zero(self.world, 0)
        self.world.begin({0: zero} | {rank: Rank(self.world, rank) for rank in range(1, self.plan.layout.size)})
        self.world.find_states(self.facts.states)
        self.rounds = self.rounds[: self.facts.start_round - 1]
        self.coordinator = Coordinator(self.facts, self.world.now)
        self.finished: Finished | None = None
        self.story: list[tuple[Event, float]] = []
        """All that this start's coordinator was told, and when."""
        self._enter()

    def run(self) -> Outcome:
        """Let it happen; what ends before its time is started again, as a user would."""
        try:
            while True:
                while self.finished is None:
                    self._step()
                self._shape = self._regrouped(self.finished)
                self._check_end(self.finished)
                if self.finished.kind is EndKind.OVER:
                    self.world.say_goodbye()
                self.ways += self.world.ways
                over = self.finished.kind is EndKind.OVER and not self.finished.code
                if over or self._starts >= STARTS or self._one_dead_worker:
                    break
                self._start()
            if self.finished.kind is EndKind.OVER and self.rounds and self._seed % REPLAYED == 0:
                Replay(self._seed, self.plan, self.rounds).run()
            kind, why, test = self.finished.kind.value, self.finished.why, ""
        except Violation as found:
            kind, why = "violation", str(found)
            test = found.test or pasted.test_of(self._seed, self.facts, self.story, self.coordinator.phase, why)
        return Outcome(kind, why, self.plan, self.world.log, self.events, self.world.now, self.rounds, self.ways, test)

    def _regrouped(self, finished: Finished) -> worlds.Shape | None:
        """Let the survivors of a loss find each other, and return the shape in which they go on."""
        if finished.kind is not EndKind.LOST:
            return None
        world, zero = self.world, self.world.ranks[0]
        if isinstance(zero, Zero) and zero.alive:
            zero.leave(Lost(finished.why, finished.suspects), world.windows[-1] if world.windows else 0.0)
        order = world.find_survivors()
        self._check_order(order)
        if order is None:
            return None
        layout, roles = world.layout, recovery.shape
        servers, standby = roles(len(order.ranks), layout.size - len(order.ranks), layout.servers, len(layout.standby_ranks))
        return worlds.Shape(
            topology.Layout(len(order.ranks), servers, standby), tuple(self.plan.nodes[rank] for rank in order.ranks)
        )

    def _check_order(self, order: Regroup | None) -> None:
        """One lost rank costs no other one, where ranks survive each other."""
        world, plan = self.world, self.plan
        struck = {fault.rank for fault in plan.faults} | world.struck
        if order and (innocent := set(order.expelled) - struck):
            raise Violation(f"healthy ranks were left behind: {innocent}")
        alone = len(struck) == 1 and struck <= world.dead and not plan.slow
        if plan.survives and alone and plan.layout.size > recovery.LEAST_RANKS:
            healthy = tuple(rank for rank in range(plan.layout.size) if rank not in struck)
            if order is None or order.ranks != healthy:
                raise Violation(f"one rank was lost, and so it went on: {order} ({world.given_up})")

    def _step(self) -> None:
        event = self.world.hear(self.coordinator.wake_at)
        if not self.world.goes_on:
            lost = not self.world.given_up
            why = "the scheduler is dead" if lost else self.world.given_up
            self.finished = Finished(EndKind.LOST if lost else EndKind.RESUMABLE, why=why)
            return
        event = event or Tick()
        before = self.coordinator.phase
        self.world.note("hears", event) if not isinstance(event, Tick) else None
        self.events += 1
        self.story.append((event, self.world.now))
        actions = step(self.coordinator, event, self.world.now)
        after = self.coordinator.phase
        if not pasted.telling(event, actions, moved=after is not before):
            self.story.pop()
        for action in actions:
            self._perform(action)
        if after is not before:
            self.world.ways["coordinator", type(before).__name__, phases.kind_of(event).__name__, type(after).__name__] += 1
            self._enter()

    def _enter(self) -> None:
        machine = self.coordinator
        counted = machine.counted + isinstance(machine.phase, phases.Applying)
        self.world.enter(machine.phase, last=counted >= self.plan.settings.rounds.count)

    def _perform(self, action: Action) -> None:
        world = self.world
        match action:
            case Send(to, Alive()):
                world.beat(to)
            case Send(to, message):
                world.note("says to", world.layout.title(to), message)
                if isinstance(message, Tally):
                    world.check_told(to, message)
                if isinstance(message, Plan):
                    world.windows.append(message.window)
                    world.check_states(world.layout.title(to), message)
                if to not in world.dead:
                    world.send(0, to, message)
            case Expel(rank, neighbours):
                if self.plan.nodes[rank] == self.plan.nodes[0]:
                    world.end_from(0, rank)
                elif neighbours:
                    world.ended_by_us.add(rank)
                    world.send(0, neighbours[0], ExpelMessage(rank))
            case Tallied(tally, verdict):
                world.check_tally(tally, verdict.accepted, verdict.weights)
            case RoundClosed():
                self.rounds.append(action)
            case CommitCheckpoint():
                self.saved = action
            case Finished():
                self.finished = action
                for rank in sorted(self.coordinator.members.living) if action.kind is EndKind.OVER else ():
                    world.send(0, rank, Over(action.code, troubled=False))
            case _:
                world.note(type(action).__name__, getattr(action, "text", ""))

    def _check_end(self, finished: Finished) -> None:
        """What must hold at the end."""
        plan, world = self.plan, self.world
        rounds = plan.settings.rounds
        window = windows.first(rounds.update_window)
        bound = (rounds.count + rounds.max_void * rounds.count + 6) * (3 * rounds.start_window + 3 * window + 20)
        if world.now > bound:
            raise Violation(f"the job took {world.now:.0f} s, at most {bound:.0f} are allowed")
        played = self.rounds[self.facts.start_round - 1 :]
        for closed in played:
            moved = world.moved.get(closed.plan.round, {})
            if bool(moved) != closed.tally.quorum_met or (moved and len(moved) != plan.layout.servers):
                raise Violation(f"round {closed.plan.round}: met {closed.tally.quorum_met}, {len(moved)} shards moved")
        if plan.quiet and (finished.kind is not EndKind.OVER or any(not closed.tally.quorum_met for closed in played)):
            raise Violation(f"nothing happened, and it ended so: {finished}")
        if finished.kind is EndKind.LOST and not (self._server_struck() or plan.keeps):
            raise Violation(f"no server was struck, and it ended so: {finished.why}")
        if world.given_up and not (world.struck | {fault.rank for fault in plan.faults}):
            raise Violation(f"nobody was struck, and all were ended: {world.given_up}")
        if finished.kind is EndKind.OVER:
            counted = sum(closed.tally.quorum_met for closed in self.rounds)
            saved = self.saved.round if self.saved else 0
            early = self.coordinator.ending is not None and counted <= rounds.count
            if (counted != rounds.count and not early) or saved != len(self.rounds):
                raise Violation(f"over after {counted} rounds of {rounds.count}, checkpoint {saved}")
        struck = {fault.rank for fault in plan.faults} | set(plan.slow) | world.struck
        if innocent := world.ended_by_us - struck:
            raise Violation(f"healthy ranks were ended: {innocent}")
        if plan.only_one_dead_worker:
            self._check_one_death(finished, sum(not closed.tally.quorum_met for closed in played))

    def _server_struck(self) -> bool:
        roles = [self.plan.layout.role(fault.rank)[0] for fault in self.plan.faults]
        return bool({"server", "scheduler"} & {*roles, *(aim.role for aim in self.world.aims)})

    def _check_one_death(self, finished: Finished, voids: int) -> None:
        """One dead worker at default settings costs at most the round under way: never a rank, never the job."""
        if finished.kind is not EndKind.OVER or voids > 1 or self.world.ended_by_us:
            raise Violation(f"one dead worker: {finished.kind.value} ({finished.why}), {voids} void rounds")
        if len(self.world.dead) > 1:
            raise Violation(f"one dead worker cost others: {self.world.dead}")


class Replay(Job):
    """A recorded job that is played again, undisturbed: it must decide the same.

    Parameters
    ----------
    seed
        Of the job.
    plan
        Its last start's.
    rounds
        What was recorded.
    """

    def __init__(self, seed: int, plan: worlds.Plan, rounds: list[RoundClosed]) -> None:
        calm = plan._replace(faults=(), slow={}, fails={}, wishes=(), aimed=False)
        chosen = ["start_quorum=1.0", "start_window=300.0", "update_window=86400.0", "checkpoint_every=0"]
        chosen += [f"count={plan.settings.rounds.count}", f"max_void={plan.settings.rounds.max_void}"]
        self._calm = calm._replace(settings=config.parse("", "simulation", [f"rounds.{one}" for one in chosen]))
        self._recorded = [(one.plan.round, one.verdict.accepted, one.tally.quorum_met) for one in rounds]
        super().__init__(seed)

    def _start(self) -> None:
        self._starts += 1
        self.plan = self._calm
        script = {number: (list(accepted), not met) for number, accepted, met in self._recorded}
        self._begin(dataclasses.replace(facts_of(self._calm, None), script=script))

    def run(self) -> Outcome:
        """Play it, and compare.

        Raises
        ------
        Violation
            Something else was decided.
        """
        while self.finished is None:
            self._step()
        played = [(one.plan.round, one.verdict.accepted, one.tally.quorum_met) for one in self.rounds]
        if self.finished.kind is not EndKind.OVER or played != self._recorded:
            raise Violation(f"a replay decided {played}, recorded were {self._recorded}; it ended so: {self.finished}")
        return Outcome("over", "", self.plan, self.world.log, self.events, self.world.now, self.rounds, self.ways, "")


def run(seed: int, *, one_dead_worker: bool = False) -> Outcome:
    """Simulate the job of a seed."""
    return Job(seed, one_dead_worker=one_dead_worker).run()
