"""The coordinator under events in any order, as hypothesis draws and shrinks them: what ranks may say, and when, is free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from silofold.coordination.coordinator import Coordinator
from silofold.coordination.events import (
    Asked,
    CommitCheckpoint,
    Died,
    Expel,
    Finished,
    Heard,
    RoundClosed,
    Send,
    Tallied,
    Tick,
    TimeIsShort,
)  # fmt: skip
from silofold.coordination.phases import Closed, Gathering, Reducing
from silofold.core import topology
from silofold.core.messages import (  # fmt: skip
    Applied,
    Evaluation,
    Moved,
    Plan,
    Ready,
    Replan,
    Reports,
    Saved,
    SavedFile,
    Settled,
    Tally,
)
from silofold.core.reports import Cause, Report  # fmt: skip
from simulation import job
from simulation.ranks import ELEMENTS

if TYPE_CHECKING:
    from silofold.coordination.events import Event
    from silofold.coordination.facts import Facts
    from silofold.coordination.quorum import Verdict

LAYOUT = topology.Layout(7, 2, 1)
EXAMPLES = (10, 20, 30, 40)
SERVERS, OTHERS = list(LAYOUT.server_ranks), [*LAYOUT.standby_ranks, *LAYOUT.worker_ranks]
RANKS = st.integers(1, LAYOUT.size - 1)


class AnyOrder(RuleBasedStateMachine):
    """Every rank keeps to its role, and to nothing else: messages come late, twice, or of an earlier round."""

    def __init__(self) -> None:
        super().__init__()
        self.machine: Coordinator | None = None
        self.now = 0.0
        self.plans: dict[int, Plan] = {}
        self.tallies: dict[int, Tally] = {}
        self.settled: dict[int, Tally] = {}
        self.finished: list[Finished] = []
        self.closed: list[RoundClosed] = []
        self.saved: list[int] = []
        self.dead: set[int] = set()
        self.free = set(range(1, LAYOUT.size))
        """Ranks that have nothing to do and have not said so."""

    @initialize(
        ratio=st.sampled_from([1.0, 0.5]), quorum=st.sampled_from([1.0, 0.5]), close=st.sampled_from(["all", "quorum"]),
        voids=st.integers(1, 3), tied=st.booleans(), certain=st.booleans(), survives=st.booleans(), auto=st.booleans(),
    )  # fmt: skip
    def begin(
        self, *, ratio: float, quorum: float, close: str, voids: int, tied: bool, certain: bool, survives: bool, auto: bool
    ) -> None:
        workers = LAYOUT.worker_ranks
        chosen = [
            "rounds.count=3", "rounds.start_window=5", f"rounds.update_window={'auto' if auto else 60}",
            f"rounds.update_ratio={ratio}", f"rounds.start_quorum={quorum}", f"rounds.close={close}",
            f"rounds.max_void={voids}", "rounds.bench_after=2",
        ]  # fmt: skip
        self.facts: Facts = job.facts(
            *chosen, layout=LAYOUT, certain=certain, nodes=("a",) * LAYOUT.size, examples=EXAMPLES, survives=survives,
            tied=tied, hosted=dict(zip(workers, topology.assign_silos(EXAMPLES, len(workers)), strict=True)),
        )  # fmt: skip
        self.machine = Coordinator(self.facts, 0.0)

    def tell(self, event: Event, after: float = 0.0) -> None:
        assert self.machine is not None
        self.now += after
        over = isinstance(self.machine.phase, Closed)
        actions = job.step(self.machine, event, self.now)
        for action in actions:
            self._look(action)
        if over:
            assert not [one for one in actions if isinstance(one, Finished | Send | Expel)]

    def _look(self, action: Any) -> None:
        match action:
            case Send(to, message):
                assert to not in self.dead
                if isinstance(message, Plan):
                    self.plans[to] = message
                if isinstance(message, Tally):
                    self.tallies[to] = message
                if isinstance(message, Settled):
                    self.tallies[to] = self.tallies[to].as_settled()
                told = isinstance(message, Tally | Settled)
                if isinstance(message, Replan) or (told and self._frees(to, self.tallies[to])):
                    self.free.add(to)
            case Tallied(tally, verdict):
                self._look_at_tally(tally, verdict)
            case Expel(rank):
                assert rank not in self.dead
            case RoundClosed():
                self.closed.append(action)
            case CommitCheckpoint():
                self.saved.append(action.round)
            case Finished():
                self.finished.append(action)

    def _frees(self, rank: int, tally: Tally) -> bool:
        return not tally.quorum_met or (rank in OTHERS and (tally.settled or tally.certain))

    def _look_at_tally(self, tally: Tally, verdict: Verdict) -> None:
        before = self.settled.get(tally.round)
        assert before is None or before == tally
        if tally.settled:
            self.settled[tally.round] = tally
        assert len(verdict.accepted) == len(set(verdict.accepted))
        if tally.quorum_met:
            assert list(verdict.weights) == [EXAMPLES[silo] for silo in verdict.accepted]
            assert verdict.accepted

    def alive(self, rank: int) -> bool:
        return rank not in self.dead

    @rule(seconds=st.sampled_from([0.0, 0.5, 2.0, 5.0, 62.0, 3602.0]))
    def time_passes(self, seconds: float) -> None:
        self.tell(Tick(), seconds)

    @rule()
    def the_deadline_comes(self) -> None:
        assert self.machine is not None
        self.tell(Tick(), max(0.0, min(self.machine.phase.deadline, self.now + 7200) - self.now))

    @rule(rank=RANKS)
    def ready(self, rank: int) -> None:
        if self.alive(rank) and rank in self.free:
            self.free.discard(rank)
            self.tell(Heard(rank, Ready("")))

    @rule()
    def all_are_ready(self) -> None:
        for rank in range(1, LAYOUT.size):
            self.ready(rank)

    @rule(rank=st.sampled_from(OTHERS), whole=st.booleans(), cause=st.sampled_from([Cause.RAISED, Cause.LATE]))
    def reports(self, rank: int, *, whole: bool, cause: Cause) -> None:
        if self.alive(rank) and (plan := self.plans.get(rank)):
            found = tuple(
                Report(silo, EXAMPLES[silo], 1, 1, 1.0, 1, 0.1, finished=whole, elements=ELEMENTS,
                       cause=Cause.NONE if whole else cause)
                for silo in plan.dealt
            )  # fmt: skip
            self.tell(Heard(rank, Reports(plan.round, 0.1, found)))

    @rule()
    def all_report(self) -> None:
        for rank in OTHERS:
            self.reports(rank, whole=True, cause=Cause.NONE)

    @rule(rank=st.sampled_from(OTHERS), arrived=st.booleans())
    def evaluates(self, rank: int, *, arrived: bool) -> None:
        if self.alive(rank) and (plan := self.plans.get(rank)):
            self.tell(Heard(rank, Evaluation(plan.round, "d" if arrived else "", 0.1, 0.1, (), arrived=arrived)))

    @rule()
    def all_evaluate(self) -> None:
        for rank in OTHERS:
            self.evaluates(rank, arrived=True)

    @rule(rank=RANKS, broken=st.sampled_from(["", "", "a member is dead"]), unsound=st.sampled_from(["", "", "not finite"]))
    def moved(self, rank: int, broken: str, unsound: str) -> None:
        if self.alive(rank) and (tally := self.tallies.get(rank)):
            self.tell(Heard(rank, Moved(tally.round, tally.attempt, broken, "" if rank in OTHERS else unsound)))

    @precondition(lambda self: self.machine is not None and isinstance(self.machine.phase, Reducing))
    @rule()
    def all_have_moved(self) -> None:
        for rank in range(1, LAYOUT.size):
            self.moved(rank, "", "")

    @rule(finite=st.sampled_from([True, True, True, False]))
    def all_apply(self, *, finite: bool) -> None:
        for shard, rank in enumerate(SERVERS):
            # a server moves when it is told that all have their sums, and not before
            if self.alive(rank) and (tally := self.tallies.get(rank)) and (tally.settled or tally.certain):
                self.free.add(rank)
                self.tell(Heard(rank, Applied(tally.round, shard, "x", 0.1, 0.1, finite=finite)))

    @rule(rank=st.sampled_from(SERVERS))
    def saves(self, rank: int) -> None:
        plan = self.plans.get(rank)
        if self.alive(rank) and plan and plan.checkpoint:
            title = LAYOUT.title(rank)
            self.tell(Heard(rank, Saved(plan.round - 1, title, (SavedFile(title, "x"),), 0.1)))

    @rule(rank=RANKS)
    def dies(self, rank: int) -> None:
        assert self.machine is not None
        if self.alive(rank):
            self.dead.add(rank)
            self.tell(Died(rank))

    @rule(event=st.sampled_from([Asked("round"), Asked(scale=1), Asked(scale=-1), TimeIsShort("saved")]))
    def asked(self, event: Event) -> None:
        self.tell(event)

    @invariant()
    def what_always_holds(self) -> None:
        if self.machine is None:
            return
        machine, rounds = self.machine, self.facts.rounds
        assert len(self.finished) == isinstance(machine.phase, Closed)
        assert [one.plan.round for one in self.closed] == list(range(1, machine.number))
        assert machine.counted == sum(one.tally.quorum_met for one in self.closed) <= rounds.count
        assert sorted(set(self.saved)) == self.saved
        assert machine.voids <= rounds.max_void
        if isinstance(machine.phase, Gathering):
            assert machine.phase.deadline <= self.now + rounds.start_window
        for one in self.closed:
            assert one.tally.settled is one.tally.quorum_met
            assert set(one.verdict.accepted) <= set(one.cohort)
            assert set(one.dealt) == set(one.cohort)
            assert one.last_report is None or one.last_report >= 0
        windows = [one.plan.window for one in self.closed]
        if rounds.update_window == "auto" and windows:
            assert windows[0] == 3600
            assert min(windows) >= 60


AnyOrder.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
TestAnyOrder = AnyOrder.TestCase
