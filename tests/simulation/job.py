"""A whole job in virtual time: the real coordinator, made-up ranks, planned accidents, and what must always hold."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, NamedTuple

from silofold import topology
from silofold.coordination import window as windows
from silofold.coordination.coordinator import Coordinator
from silofold.coordination.events import CommitCheckpoint, EndKind, Expel, Finished, RoundClosed, Send, Tick
from silofold.coordination.facts import Facts
from silofold.messages import Expel as ExpelMessage
from silofold.messages import Over, Tally
from simulation import world as worlds
from simulation.ranks import ELEMENTS, Rank
from simulation.world import Violation, World

if TYPE_CHECKING:
    from silofold.coordination.events import Action
    from silofold.messages import Members


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
    transitions: collections.Counter[str]


def facts_of(plan: worlds.Plan) -> Facts:
    """Say what the coordinator must know of a made-up job."""
    workers = plan.layout.worker_ranks

    def certain(members: Members) -> bool:
        del members
        return plan.shared

    return Facts(
        layout=plan.layout,
        nodes=plan.nodes,
        rounds=plan.settings.rounds,
        examples=plan.examples,
        hosted=dict(zip(workers, topology.assign_silos(plan.examples, len(workers)), strict=True)),
        elements=ELEMENTS,
        survives=plan.survives,
        tied=plan.tied,
        keeps_state=False,
        deals=False,
        foresees=False,
        weight=lambda examples: examples,
        draw=lambda silos, number: silos,  # noqa: ARG005
        certain=certain,
        script={},
        state_file=lambda silo: f"silo_{silo}.h5",
    )


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
        self.plan = worlds.draw(seed, one_dead_worker=one_dead_worker)
        self.world = World(seed, self.plan)
        self.world.begin({rank: Rank(self.world, rank) for rank in range(1, self.plan.layout.size)})
        self.coordinator = Coordinator(facts_of(self.plan), self.world.now)
        self.rounds: list[RoundClosed] = []
        self.checkpoints: list[int] = []
        self.finished: Finished | None = None
        self.events = 0
        self.transitions: collections.Counter[str] = collections.Counter()

    def run(self) -> Outcome:
        """Let it happen."""
        try:
            while self.finished is None:
                self._step()
            self._check_end(self.finished)
            kind, why = self.finished.kind.value, self.finished.why
        except Violation as found:
            kind, why = "violation", str(found)
        return Outcome(kind, why, self.plan, self.world.log, self.events, self.world.now, self.rounds, self.transitions)

    def _step(self) -> None:
        event = self.world.hear(self.coordinator.wake_at) or Tick()
        before = type(self.coordinator.phase).__name__
        self.world.note("hears", event) if not isinstance(event, Tick) else None
        actions = self.coordinator.handle(event, self.world.now)
        self.events += 1
        after = type(self.coordinator.phase).__name__
        self.transitions[f"{before} → {after}"] += 1
        for action in actions:
            self._perform(action)
        self._check()

    def _perform(self, action: Action) -> None:
        world = self.world
        match action:
            case Send(to, message):
                world.note("says to", world.layout.title(to), message)
                if isinstance(message, Tally):
                    world.check_tally(message)
                if to not in world.dead:
                    world.send(0, to, message)
            case Expel(rank, neighbours):
                world.ended_by_us.add(rank)
                if self.plan.nodes[rank] == self.plan.nodes[0]:
                    world.kill(rank)
                elif neighbours:
                    world.send(0, neighbours[0], ExpelMessage(rank))
            case RoundClosed():
                self.rounds.append(action)
            case CommitCheckpoint():
                self.checkpoints.append(action.round)
            case Finished():
                self.finished = action
                for rank in sorted(self.coordinator.members.living):
                    world.send(0, rank, Over(action.code, troubled=False))
            case _:
                world.note(type(action).__name__, getattr(action, "text", ""))

    def _check(self) -> None:
        """What must hold after every event."""
        members = self.coordinator.members
        held = [silo for rank in members.hosting.hosts for silo in members.hosting.silos_of(rank)]
        if len(held) != len(set(held)):
            raise Violation(f"a silo is hosted twice: {sorted(held)}")
        if members.ready - members.living:
            raise Violation(f"a dead rank is ready: {members.ready - members.living}")
        if self.coordinator.wake_at > self.world.now + 2 * 86400:
            raise Violation("nothing has a deadline")

    def _check_end(self, finished: Finished) -> None:
        """What must hold at the end."""
        plan, world = self.plan, self.world
        kinds = {(fault.what, plan.layout.role(fault.rank)[0]) for fault in plan.faults}
        quiet = not plan.faults and not plan.slow and not plan.fails
        rounds = plan.settings.rounds
        window = windows.first(rounds.update_window)
        bound = (rounds.count + rounds.max_void * rounds.count + 6) * (3 * rounds.start_window + 3 * window + 20)
        if world.now > bound:
            raise Violation(f"the job took {world.now:.0f} s, at most {bound:.0f} are allowed")
        for closed in self.rounds:
            moved = world.moved.get(closed.plan.round, {})
            if bool(moved) != closed.tally.quorum_met or (moved and len(moved) != plan.layout.servers):
                raise Violation(f"round {closed.plan.round}: met {closed.tally.quorum_met}, {len(moved)} shards moved")
        if quiet and (finished.kind is not EndKind.OVER or any(not closed.tally.quorum_met for closed in self.rounds)):
            raise Violation(f"nothing happened, and it ended so: {finished}")
        if finished.kind is EndKind.LOST and not any(role == "server" for _, role in kinds):
            raise Violation(f"no server was struck, and it ended so: {finished.why}")
        if finished.kind is EndKind.OVER:
            counted = sum(closed.tally.quorum_met for closed in self.rounds)
            if counted != rounds.count or self.checkpoints[-1:] != [len(self.rounds)]:
                raise Violation(f"over after {counted} rounds of {rounds.count}, checkpoints {self.checkpoints}")
        struck = {fault.rank for fault in plan.faults} | set(plan.slow)
        if innocent := world.ended_by_us - struck:
            raise Violation(f"healthy ranks were ended: {innocent}")
        if plan.only_one_dead_worker:
            self._check_one_death(finished)

    def _check_one_death(self, finished: Finished) -> None:
        """One dead worker at default settings costs at most the round under way: never a rank, never the job."""
        voids = sum(not closed.tally.quorum_met for closed in self.rounds)
        if finished.kind is not EndKind.OVER or voids > 1 or self.world.ended_by_us:
            raise Violation(f"one dead worker: {finished.kind.value} ({finished.why}), {voids} void rounds")
        if len(self.world.dead) > 1:
            raise Violation(f"one dead worker cost others: {self.world.dead}")


def run(seed: int, *, one_dead_worker: bool = False) -> Outcome:
    """Simulate the job of a seed."""
    return Job(seed, one_dead_worker=one_dead_worker).run()
