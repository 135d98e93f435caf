"""Members and survivors under words in any order, as hypothesis draws and shrinks them."""

from __future__ import annotations

import collections
import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from silofold import topology
from silofold.coordination.events import Died, Dismissed, Expel, GiveUp, Heard, Lost, Regrouped, Send, Take, Tick
from silofold.coordination.facts import GRACE
from silofold.coordination.member import AWAITED, Member, MemberFacts, Waits
from silofold.coordination.recovery import LEAST_RANKS, Recovery, shape
from silofold.messages import (
    Alive,
    Halt,
    Here,
    Members,
    Over,
    Plan,
    Ready,
    Regroup,
    Replan,
    Settled,
    Tally,
)  # fmt: skip
from silofold.messages import Expel as ExpelMessage

if TYPE_CHECKING:
    from silofold.coordination.events import Event, MemberAction
    from silofold.messages import AnyMessage

LAYOUT = topology.Layout(6, 1, 1)
SILENCE = 22.0
ANY = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


def plan_of(workers: tuple[int, ...], *, last: bool = False, expelled: tuple[int, ...] = ()) -> Plan:
    return Plan(
        round=1, members=Members.of(workers, 0, 0), hosted=(), dealt=(), upcoming=(), states=(), total_weight=1, window=6.0,
        evaluate=False, checkpoint=False, last=last, exit_code=0, expelled=expelled,
    )  # fmt: skip


def tally_of(*, met: bool = True, settled: bool = False, certain: bool = False) -> Tally:
    return Tally(1, 1, Members.of((3, 4, 5), 0, 0), (), (), (), quorum_met=met, settled=settled, certain=certain)


WORDS = st.one_of(
    st.builds(plan_of, st.sampled_from([(3, 4, 5), (4, 5)]), last=st.booleans(), expelled=st.sampled_from([(), (5,)])),
    st.builds(tally_of, met=st.booleans(), settled=st.booleans(), certain=st.booleans()),
    st.sampled_from([Settled(1, 1), Replan(1), Over(0, troubled=False), Over(75, troubled=True), Alive(), ExpelMessage(4)]),
)


class AnyWord(RuleBasedStateMachine):
    """One member: the scheduler says whatever it likes, others call, die, or are silent."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.end: list[MemberAction] = []
        self.taken: list[AnyMessage] = []
        self.may: set[Waits] = {Waits.PLAN}
        self.ended_scheduler = 0

    @initialize(rank=st.sampled_from([1, 2, 3]), beside=st.booleans(), survives=st.booleans())
    def begin(self, rank: int, *, beside: bool, survives: bool) -> None:
        near = frozenset(range(6)) if beside else frozenset({rank})
        self.facts = MemberFacts(rank, LAYOUT, near, survives, SILENCE)
        self.member = Member(self.facts)

    def look(self, actions: list[MemberAction], waited: Waits) -> None:
        for action in actions:
            match action:
                case Take(message):
                    assert isinstance(message, AWAITED[waited])
                    self.taken.append(message)
                    self.may = self._follows(message)
                case Lost() | Dismissed() | GiveUp():
                    self.end.append(action)
                case Expel(rank):
                    assert rank != self.facts.rank
                    if not rank:
                        assert self.facts.survives
                        assert rank in self.facts.beside
                        self.ended_scheduler += 1
                case Send(to, message):
                    assert (to, type(message)) == (0, Ready)

    def _follows(self, message: AnyMessage) -> set[Waits]:
        match message:
            case Plan():
                return {Waits.END} if message.last else {Waits.TALLY}
            case Tally():
                again = message.quorum_met and not message.settled and not message.certain
                return {Waits.WORD} if again else {Waits.PLAN}
            case Over():
                return set()
        return {Waits.PLAN}

    @precondition(lambda self: not self.end and self.may and self.member.waits is None)
    @rule(broken=st.integers(0, 9))
    def goes_on(self, broken: int) -> None:
        (waits,) = self.may if broken else (Waits.DISMISSAL,)
        actions = self.member.wait(waits, self.now)
        assert [type(one) for one in actions] == ([Send] if waits is Waits.PLAN else [])

    def tell(self, event: Event) -> None:
        waited = self.member.waits
        actions = self.member.handle(event, self.now)
        if waited is None:
            assert actions == []
        else:
            self.look(actions, waited)

    @rule(word=WORDS)
    def the_scheduler_says(self, word: AnyMessage) -> None:
        self.tell(Heard(0, word))

    @rule(word=st.sampled_from([Halt(30.0), Here()]), rank=st.sampled_from([1, 2, 3, 4]))
    def another_rank_calls(self, word: AnyMessage, rank: int) -> None:
        self.tell(Heard(rank, word))

    @rule(rank=st.sampled_from([0, 0, 4, 5]))
    def dies(self, rank: int) -> None:
        self.tell(Died(rank))

    @rule(seconds=st.sampled_from([0.1, 5.0, SILENCE, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.tell(Tick())

    @invariant()
    def what_always_holds(self) -> None:
        if not hasattr(self, "member"):
            return
        member = self.member
        if member.waits is None:
            assert member.wake_at == math.inf
        else:
            assert not self.end
            assert member.wake_at <= self.now + max(SILENCE, GRACE)
        assert len(self.end) <= 1

    def teardown(self) -> None:
        """Whatever happened: a silent scheduler is waited for no longer than the documents say."""
        if hasattr(self, "member") and self.member.waits is not None:
            began = self.now
            while self.member.waits is not None:
                self.now = self.member.wake_at
                self.tell(Tick())
            assert self.now - began <= 2 * SILENCE + GRACE


class AnyOrder(RuleBasedStateMachine):
    """Ranks that look for each other: they begin when they like, and die when they like."""

    RANKS = 6

    def __init__(self) -> None:
        super().__init__()
        self.now, self.dead = 0.0, set[int]()
        self.machines: dict[int, Recovery] = {}
        self.orders: dict[int, Regroup] = {}
        self.given_up: set[int] = set()
        self.queues: dict[tuple[int, int], collections.deque[Event]] = collections.defaultdict(collections.deque)
        """Sender and receiver → what is on its way; a rank that dies sends news of it to all."""
        self.known_dead: dict[int, set[int]] = collections.defaultdict(set)

    def perform(self, rank: int, actions: list[MemberAction]) -> None:
        for action in actions:
            match action:
                case Send(to, message):
                    assert to != rank
                    self.queues[rank, to].append(Heard(rank, message))
                case Expel(other):
                    assert other != rank
                    self.dies(other)
                case Regrouped(order):
                    assert rank in order.ranks
                    assert len(order.ranks) >= LEAST_RANKS
                    assert list(order.ranks) == sorted(order.ranks)
                    self.orders[rank] = order
                case GiveUp():
                    self.given_up.add(rank)

    def busy(self, rank: int) -> bool:
        return rank in self.machines and rank not in self.orders and rank not in self.given_up and rank not in self.dead

    @rule(rank=st.integers(1, RANKS - 1))
    def dies(self, rank: int) -> None:
        if rank not in self.dead:
            self.dead.add(rank)
            for other in set(range(self.RANKS)) - {rank}:
                self.queues[rank, other].append(Died(rank))

    @rule(rank=st.integers(0, RANKS - 1), seconds=st.sampled_from([0.0, 30.0]))
    def begins(self, rank: int, seconds: float) -> None:
        """Learn of the loss: by the death of rank 0, which happened before, or by a call."""
        self.dead.add(0)
        if rank and rank not in self.dead and rank not in self.machines:
            self.known_dead[rank].add(0)
            living = set(range(self.RANKS)) - self.known_dead[rank]
            self.machines[rank] = Recovery(rank, living, Lost("the scheduler is dead", (), seconds), 20.0)
            self.perform(rank, self.machines[rank].begin(self.now))

    @rule(sender=st.integers(0, RANKS - 1), receiver=st.integers(0, RANKS - 1))
    def arrives(self, sender: int, receiver: int) -> None:
        queue = self.queues[sender, receiver]
        if queue and receiver in self.machines and receiver not in self.dead:
            event = queue.popleft()
            if isinstance(event, Died):
                self.known_dead[receiver].add(event.rank)
            if self.busy(receiver):
                self.perform(receiver, self.machines[receiver].handle(event, self.now))

    @rule()
    def all_arrives(self) -> None:
        for _ in range(40):
            for pair in list(self.queues):
                self.arrives(*pair)

    @rule(seconds=st.sampled_from([0.5, 10.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        until = self.now + seconds
        while waiting := [(self.machines[rank].wake_at, rank) for rank in self.machines if self.busy(rank)]:
            due, rank = min(waiting)
            if due > until:
                break
            self.now = max(self.now, due)
            self.perform(rank, self.machines[rank].handle(Tick(), self.now))
        self.now = until

    @invariant()
    def whoever_is_told_the_same_leader_hears_the_same(self) -> None:
        by_leader: dict[int, set[Regroup]] = collections.defaultdict(set)
        for order in self.orders.values():
            by_leader[order.ranks[0]].add(order)
        assert all(len(orders) == 1 for orders in by_leader.values())

    @invariant()
    def everybody_has_a_deadline(self) -> None:
        assert all(self.machines[rank].wake_at < self.now + 100 for rank in self.machines if self.busy(rank))

    def teardown(self) -> None:
        """Once nobody dies any more, all find an end: the same order where nobody of it has died."""
        for rank in range(1, self.RANKS):
            self.begins(rank, 0.0)
        for _ in range(12):
            self.all_arrives()
            self.time_passes(30.0)
        left = set(range(1, self.RANKS)) - self.dead
        assert not any(map(self.busy, self.machines))
        assert left <= set(self.orders) | self.given_up


TestAnyWord = AnyWord.TestCase
TestAnyWord.settings = ANY
TestSurvivors = AnyOrder.TestCase
TestSurvivors.settings = ANY


@pytest.mark.parametrize(
    ("ranks", "lost", "servers", "standby", "expected"),
    [
        (6, 1, 2, 0, (2, 0)), (6, 1, 2, 2, (2, 1)), (3, 1, 2, 0, (1, 0)), (3, 2, 1, 1, (1, 0)), (4, 1, 3, 0, (2, 0)),
        (5, 3, 2, 2, (2, 0)),
    ],
)  # fmt: skip
def test_the_shape_of_the_survivors(ranks: int, lost: int, servers: int, standby: int, expected: tuple[int, int]) -> None:
    assert shape(ranks, lost, servers, standby) == expected
    topology.Layout(ranks, *expected)


def test_a_rank_that_was_stopped_itself_does_not_blame_the_scheduler() -> None:
    member = Member(MemberFacts(3, LAYOUT, frozenset(range(6)), survives=True, silence=SILENCE))
    member.wait(Waits.PLAN, 0.0)
    assert member.handle(Tick(), 500.0) == []
    assert member.handle(Heard(0, Alive()), 501.0) == []
    assert member.wake_at == 501.0 + SILENCE
    assert member.handle(Tick(), member.wake_at) == [Expel(0, ())]


def test_a_rank_elsewhere_waits_until_the_news_of_the_silent_scheduler_can_reach_it() -> None:
    member = Member(MemberFacts(3, LAYOUT, frozenset({3}), survives=True, silence=SILENCE))
    member.wait(Waits.PLAN, 0.0)
    assert member.handle(Tick(), SILENCE) == []
    assert [type(one) for one in member.handle(Died(0), SILENCE + 1)] == [Lost]


def test_who_is_merely_slow_at_the_end_is_ended_when_the_run_is_over() -> None:
    member = Member(MemberFacts(3, LAYOUT, frozenset(range(6)), survives=True, silence=SILENCE))
    member.wait(Waits.PLAN, 0.0)
    assert [type(one) for one in member.handle(Heard(0, plan_of((3, 4), last=True, expelled=(5,))), 1.0)] == [Take]
    member.wait(Waits.END, 2.0)
    assert member.handle(Heard(0, Over(0, troubled=True)), 3.0)[0] == Expel(5, ())
