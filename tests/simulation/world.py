"""A made-up cluster: a virtual clock, messages, collectives, deaths and pauses, all drawn from one seed."""

from __future__ import annotations

import collections
import functools
import heapq
import random
from typing import TYPE_CHECKING, Any, NamedTuple

from silofold import config, topology
from silofold.coordination import window as windows
from silofold.coordination.events import Asked, Died, Heard, TimeIsShort
from silofold.coordination.facts import GRACE
from simulation import aims
from simulation.process import FOR_EVER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from silofold import messages
    from silofold.coordination.events import Event, GiveUp
    from silofold.coordination.phases import Phase
    from silofold.messages import AnyMessage, Members, Regroup, StateOf, Tally
    from simulation.aims import Aim
    from simulation.process import Process

DELAYS = (1e-4, 1e-3, 0.02, 0.3)
"""Seconds that a message may take."""
STEPS = 200_000
"""Things that may happen in one job before it is taken for endless."""


class Violation(Exception):  # noqa: N818  (what the simulation looks for)
    """Something happened that must never happen.

    Parameters
    ----------
    why
        What it was.
    test
        The unit test that shows it; none: the coordinator's story tells.
    """

    def __init__(self, why: str, test: str = "") -> None:
        super().__init__(why)
        self.test = test


class Fault(NamedTuple):
    """An accident that is planned."""

    what: str
    rank: int
    at: float
    seconds: float


class Plan(NamedTuple):
    """What a seed means: a job and its accidents."""

    layout: topology.Layout
    settings: config.Settings
    examples: tuple[int, ...]
    nodes: tuple[str, ...]
    survives: bool
    shared: bool
    tied: bool
    faults: tuple[Fault, ...]
    slow: dict[int, float]
    fails: dict[int, float]
    wishes: tuple[tuple[float, Asked | TimeIsShort], ...]
    """What the job is asked, and when."""
    aimed: bool
    """Whether accidents are aimed at the phases."""
    keeps: bool = False
    """Whether silos keep a state from one of their rounds to the next."""

    @property
    def quiet(self) -> bool:
        """Whether nothing is planned that disturbs."""
        return not (self.faults or self.slow or self.fails or self.wishes or self.aimed)

    @property
    def only_one_dead_worker(self) -> bool:
        """Whether all that happens is that one worker of several dies, at the default settings but for the windows."""
        calm = not (self.tied or self.slow or self.fails or self.aimed or self.wishes) and self.survives
        killed = [self.layout.role(fault.rank)[0] for fault in self.faults if fault.what == "kill"]
        return (
            calm and killed == ["worker"] and len(self.faults) == 1
            and len(self.layout.worker_ranks) > 1 and self.settings.rounds.max_void > 1
        )  # fmt: skip


class Shape(NamedTuple):
    """Ranks that go on with a job."""

    layout: topology.Layout
    nodes: tuple[str, ...]


def draw(seed: int, *, one_dead_worker: bool = False, start: int = 1, shape: Shape | None = None) -> Plan:
    """Draw a job, and the accidents of one of its starts, which may be that of its survivors."""
    rng = random.Random(seed)  # noqa: S311  (no secret)
    defaults = one_dead_worker or rng.random() < 0.3
    servers, workers = rng.randint(1, 3), rng.choice([2, 3, 4, 5] if one_dead_worker else [1, 2, 3, 3, 4, 4, 5, 6])
    standby = rng.choice([0, 0, 1])
    layout = topology.Layout(1 + servers + standby + workers, servers, standby)
    shared = rng.random() < 0.4
    nodes = ("a",) * layout.size if shared or rng.random() < 0.5 else tuple(rng.choice("ab") for _ in range(layout.size))
    chosen = [
        f"rounds.count={rng.randint(1, 5)}", f"rounds.start_window={rng.choice([5.0, 20.0])}",
        f"rounds.update_window={rng.choice([6.0, 12.0, 12.0, 30.0])}", f"rounds.checkpoint_every={rng.choice([0, 1, 2])}",
    ]  # fmt: skip
    if not one_dead_worker and rng.random() < 0.03:
        chosen += ["rounds.update_window=auto", "rounds.start_window=60.0"]
    if not defaults:
        chosen += [
            f"rounds.update_ratio={rng.choice([1.0, 0.5, 0.3, 0.3])}", f"rounds.start_quorum={rng.choice([1.0, 0.5, 1])}",
            f'rounds.close="{rng.choice(["all", "all", "quorum"])}"', "rounds.bench_after=3",
            f"rounds.max_void={rng.choice([1, 3])}",
        ]  # fmt: skip
    settings = config.parse("", "simulation", chosen)
    survives = one_dead_worker or rng.random() < 0.8
    silos = rng.randint(workers, 8)
    examples = tuple(rng.randint(5, 50) for _ in range(silos))
    tied = not one_dead_worker and rng.random() < 0.3
    keeps = not one_dead_worker and random.Random(f"{seed} keeps").random() < 0.3  # noqa: S311  (no secret)
    calm = Plan(layout, settings, examples, nodes, survives, shared, tied, (), {}, {}, (), aimed=False, keeps=keeps)
    if shape:
        calm = calm._replace(layout=shape.layout, nodes=shape.nodes)
    luck = random.Random(f"{seed} start {start}")  # noqa: S311  (no secret)
    if one_dead_worker:
        return calm._replace(faults=(Fault("kill", luck.choice(layout.worker_ranks), luck.expovariate(1 / 8), 0.0),))
    return _with_accidents(luck, calm)


def _with_accidents(rng: random.Random, plan: Plan) -> Plan:
    layout, others = plan.layout, range(1, plan.layout.size)
    if rng.random() < 0.85:
        return plan._replace(aimed=True)
    faults = [_accident(rng, layout, survives=plan.survives) for _ in range(rng.choice([0, 1, 1, 2, 3]))]
    slow = {} if rng.random() > 0.3 else {k: rng.choice([0.1, 0.5, 1, 1, 1, 12, 40]) for k in others}
    fails = {} if rng.random() > 0.3 else {k: rng.random() * 0.5 for k in others}
    kinds: list[Asked | TimeIsShort] = [Asked("round"), Asked("now"), Asked(scale=1), Asked(scale=-1), TimeIsShort("saved")]
    wishes = [] if rng.random() > 0.2 else [(rng.expovariate(1 / 8), rng.choice(kinds)) for _ in range(rng.randint(1, 2))]
    return plan._replace(faults=tuple(faults), slow=slow, fails=fails, wishes=tuple(wishes))


def _accident(rng: random.Random, layout: topology.Layout, *, survives: bool) -> Fault:
    what = rng.choice(["kill", "stop", "pause", "pause"])
    if what == "kill" and not survives:
        what = "pause"
    seconds = rng.choice([1, 4, 8, 20, 60]) if what == "pause" else 1e9
    return Fault(what, rng.randrange(layout.size), rng.expovariate(1 / 8), seconds)


class World:
    """The cluster in which a plan comes true, as rank 0 sees it.

    Parameters
    ----------
    seed
        All that is drawn while the job runs follows from it.
    plan
        The job and its accidents.
    """

    def __init__(self, seed: str, plan: Plan) -> None:
        self.rng = random.Random(f"{seed} runs")  # noqa: S311  (no secret)
        self.plan, self.layout = plan, plan.layout
        self.now, self._heap, self._count, self._steps = 0.0, list[tuple[float, int, Any]](), 0, 0
        self._order: dict[tuple[int, int], float] = {}
        self.inbox: collections.deque[Event] = collections.deque()
        self.dead: set[int] = set()
        self.ranks: dict[int, Process] = {}
        self.ways: collections.Counter[tuple[str, ...]] = collections.Counter()
        """What has come of the waits of members, and of the searches for survivors."""
        self.given_up = ""
        """Why all ranks are ended, if they are."""
        self.orders: dict[int, Regroup] = {}
        """Who goes on, as each survivor has come to know it."""
        self.collectives: dict[tuple[Any, ...], Collective] = {}
        self.log: list[tuple[Any, ...]] = []
        self.settled: dict[int, tuple[Any, ...]] = {}
        self.kept: dict[int, int] = {}
        """Round of what each silo keeps: the last one in which its update counted."""
        self.written: set[tuple[int, int]] = set()
        self.told: collections.defaultdict[tuple[int, int], set[int]] = collections.defaultdict(set)
        self.moved: dict[int, dict[int, tuple[Any, ...]]] = collections.defaultdict(dict)
        self.ended_by_us: set[int] = set()
        self.struck: set[int] = set()
        """Ranks that an accident was aimed at."""
        self.not_finite, self.unsound = False, False
        """What servers tell from now on."""
        self.windows: list[float] = []
        """Of all plans."""
        self.aims: list[Aim] = []
        """What was aimed so far."""

    def begin(self, ranks: dict[int, Process]) -> None:
        """Let the ranks start, and plan the accidents."""
        self.ranks = ranks
        for fault in self.plan.faults:
            self.at(fault.at, functools.partial(self._strike, fault))
        for when, wish in self.plan.wishes:
            self.at(when, functools.partial(self.inbox.append, wish))

    def enter(self, phase: Phase | aims.Regrouping, *, last: bool) -> None:
        """Take note of the phase that rank 0 has come to: the aimed accident may be due."""
        aim = aims.choose(self.rng, self.plan, phase, last=last, struck=len(self.struck)) if self.plan.aimed else None
        if aim is None:
            return
        self.aims.append(aim)
        ranks = {"server": self.layout.server_ranks, "worker": self.layout.worker_ranks, "scheduler": range(1)}[aim.role]
        rank = self.rng.choice([rank for rank in ranks if rank not in self.struck] or list(ranks))
        after = self.rng.uniform(aim.low, aim.high)
        if aim.after_window:
            after += windows.first(self.plan.settings.rounds.update_window)
        self.note("is struck", self.layout.title(rank), aim.what) if aim.what != "stop now" else None
        match aim.what:
            case "stop now":
                self.after(after, functools.partial(self.inbox.append, Asked("now")))
            case "not finite":
                self.not_finite = True
            case "unsound":
                self.unsound = True
            case _:
                self.struck.add(rank)
                if aim.what != "kill":
                    self.after(aim.hold, functools.partial(self.ranks[rank].pause, FOR_EVER))
                if aim.what != "stop":
                    self.after(after, functools.partial(self.kill, rank))

    def _strike(self, fault: Fault) -> None:
        if fault.what == "kill":
            self.kill(fault.rank)
        else:
            self.note("pauses", self.layout.title(fault.rank), fault.seconds)
            self.ranks[fault.rank].pause(fault.seconds)

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Let something happen at an instant."""
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Let something happen in so many seconds."""
        self.at(self.now + seconds, action)

    def note(self, *what: Any) -> None:
        """Write down what happens, for who reads a violation."""
        self.log.append((round(self.now, 3), *what))

    def kill(self, rank: int) -> None:
        """End a rank; the others hear of it a little later."""
        victim = self.ranks[rank]
        if victim.alive:
            self.note("dies", self.layout.title(rank))
            victim.alive = False
            if not self.plan.survives:
                self.given_up = "the launcher ends all ranks"
            self.after(self.rng.uniform(0.001, 0.05), lambda: self._is_dead(rank))

    def _is_dead(self, rank: int) -> None:
        self.dead.add(rank)
        for collective in list(self.collectives.values()):
            collective.lose(rank)
        for other in self.ranks.values():
            if other.alive:
                self.after(self.rng.choice([0.0, 0.001, 0.02, 0.3]), functools.partial(other.receive, Died(rank)))

    def end_from(self, by: int, rank: int) -> None:
        """End the process of a rank that runs on another one's host."""
        if self.plan.nodes[by] == self.plan.nodes[rank] and self.ranks[rank].alive:
            self.note("ends", self.layout.title(by), self.layout.title(rank))
            self.ended_by_us.add(rank)
            self.kill(rank)

    def give_up(self, by: int, action: GiveUp) -> None:
        """End all ranks."""
        self.note("gives up", self.layout.title(by), action.story)
        self.given_up = self.given_up or action.story

    def beat(self, to: int) -> None:
        """Let a rank hear that rank 0 lives: nothing else follows from it."""
        self.after(self.rng.choice([1e-4, 0.3]), self.ranks[to].hear_beat)

    def send(self, source: int, to: int, message: AnyMessage) -> None:
        """Deliver a message: messages of one pair stay in their order."""
        when = self.now + DELAYS[int(self.rng.random() * len(DELAYS))]
        when = self._order[source, to] = max(when, self._order.get((source, to), 0.0) + 1e-6)
        self.at(when, functools.partial(self.ranks[to].receive, Heard(source, message)))

    def hear(self, deadline: float) -> Event | None:
        """Let time pass until rank 0 hears something, until the deadline, or until it can go on no more."""
        zero = self.ranks[0]
        while self.goes_on:
            works = self.now >= zero.paused_to
            if works and self.inbox:
                return self.inbox.popleft()
            until = deadline if works else zero.paused_to
            if not self._heap or self._heap[0][0] > until:
                if until >= FOR_EVER:
                    raise Violation("nobody ends a job whose scheduler has stopped")
                self.now = max(self.now, until)
                if works:
                    return None
            else:
                self._let_happen()
        return None

    def _let_happen(self) -> None:
        self._steps += 1
        if self._steps > STEPS:
            raise Violation("the job does not end")
        self.now, _, action = heapq.heappop(self._heap)
        action()

    # --- when the job cannot go on in its shape ---------------------------------------------------------------------

    @property
    def goes_on(self) -> bool:
        """Whether rank 0 is there, and nobody has ended the job."""
        return self.ranks[0].alive and not self.given_up

    def regroup(self, rank: int, order: Regroup) -> None:
        """Take note of what a survivor has come to know."""
        self.note("goes on", self.layout.title(rank), order)
        self.orders[rank] = order

    def find_survivors(self) -> Regroup | None:
        """Let time pass until all survivors know who goes on; none if they do not."""
        began = self.now
        rounds = self.plan.settings.rounds
        self.enter(aims.Regrouping(), last=False)
        window = max([windows.first(rounds.update_window), *self.windows])
        most = self.silence() + (len(self.ranks)) * (window + rounds.start_window + 5 * GRACE)
        while not self.given_up and not self._all_know():
            if not self._heap or self.now - began > most:
                raise Violation("the survivors of a loss do not find each other")
            self._let_happen()
        left = {rank for rank, process in self.ranks.items() if process.alive}
        orders = set(self.orders.values())
        if self.given_up or len(orders) != 1:
            self.given_up = self.given_up or "another rank died while the survivors regrouped"
            return None
        (order,) = orders
        if not set(order.ranks) <= left:  # the library cannot bring them together
            self.given_up = "another rank died while the survivors regrouped"
            return None
        return order

    def say_goodbye(self) -> None:
        """Let time pass until every rank has heard that the run is over."""
        began = self.now
        most = self.silence() + max([60.0, *self.windows])
        while left := [one.title for one in self.ranks.values() if one.rank and one.alive and one.works and not one.stopped]:
            if not self._heap or self.now - began > most:
                raise Violation(f"the run is over, and {', '.join(left)} have not heard it")
            self._let_happen()

    def _all_know(self) -> bool:
        left_behind = {rank for order in self.orders.values() for rank in order.expelled}
        return all(
            rank in self.orders or process.stopped or rank in left_behind
            for rank, process in self.ranks.items()
            if process.alive
        )

    # --- what must hold of what rank 0 says ------------------------------------------------------------------------

    def check_tally(self, tally: Tally, accepted: tuple[int, ...], weights: tuple[int, ...]) -> None:
        """Look at what is decided."""
        before = self.settled.get(tally.round)
        if before is not None and (not tally.settled or before != (tally.attempt, accepted)):
            raise Violation(f"round {tally.round}: another tally after a settled one")
        if tally.settled:
            self.settled[tally.round] = (tally.attempt, accepted)
        if len(accepted) != len(set(accepted)):
            raise Violation(f"a silo counts twice in {accepted}")
        if tally.quorum_met and (tally.settled or tally.certain):
            self.kept |= dict.fromkeys(accepted, tally.round)
        if tally.quorum_met and list(weights) != [self.plan.examples[silo] for silo in accepted]:
            raise Violation(f"weights do not fit the silos {accepted}: {weights}")

    def find_states(self, states: Mapping[int, StateOf]) -> None:
        """Begin with the states that a checkpoint names."""
        self.kept = {silo: state.round for silo, state in states.items()}
        self.written = set(self.kept.items())

    def check_states(self, title: str, plan: messages.Plan) -> None:
        """Look at the states that a worker is told to train from: what counted last, and it is on disk."""
        if not self.plan.keeps:
            return
        for silo, number in zip(plan.dealt, plan.states, strict=True):
            if number != self.kept.get(silo, 0) or (number and (silo, number) not in self.written):
                raise Violation(f"{title} is to train silo {silo} from round {number}: kept {self.kept.get(silo, 0)}")

    def check_told(self, to: int, tally: Tally) -> None:
        """Look at what of a tally a rank is told: a worker its own silos, each once; a server all weights."""
        if to in self.layout.server_ranks:
            return
        told = self.told[tally.round, tally.attempt]
        if twice := told & set(tally.silos):
            raise Violation(f"silos {twice} count in the sums of two workers")
        told |= set(tally.silos)

    def check_move(self, shard: int, tally: Tally, attempt: int | None) -> None:
        """Look at a server that moves its shard."""
        if not tally.quorum_met:
            raise Violation(f"round {tally.round} is void, and shard {shard} moves")
        if attempt != tally.attempt:
            raise Violation(f"shard {shard} is told to move by attempt {tally.attempt} and has the sum of {attempt}")
        if shard in self.moved[tally.round]:
            raise Violation(f"shard {shard} moves twice in round {tally.round}")
        self.moved[tally.round][shard] = (tally.members.workers, tally.silos, tally.weights)
        if len(set(self.moved[tally.round].values())) > 1:
            raise Violation(f"round {tally.round}: shards moved by different sums {self.moved[tally.round]}")

    def collectives_of(self, rank: int, kind: str, number: int, members: Members, attempt: int = 0) -> list[Collective]:
        """Return the collectives that a rank takes part in: one a shard, of its server and the workers."""
        if self.plan.shared:
            return []
        found = []
        for server in self.layout.server_ranks:
            if rank == server or rank not in self.layout.server_ranks:
                key = (kind, number, attempt, members.epoch, members.workers, server)
                found.append(self.collectives.setdefault(key, Collective(self, {server, *members.workers})))
        return found

    def silence(self) -> float:
        """Seconds without a word of rank 0 after which a rank gives it up."""
        return self.plan.settings.rounds.start_window + GRACE


class Collective:
    """A broadcast or reduction: each member is done at an instant of its own, or it breaks, for some or for all."""

    def __init__(self, world: World, ranks: set[int]) -> None:
        self._world, self._ranks = world, ranks
        self._entered: dict[int, Callable[[str], None]] = {}
        self._over: set[int] = set()
        self._revoked = False

    def enter(self, rank: int, window: float, wake: Callable[[str], None]) -> None:
        """Take part; `wake` is told what broke it, or nothing."""
        world = self._world
        self._entered[rank] = wake
        if self._revoked or (world.plan.survives and self._ranks & world.dead):
            self._end(rank, "a member is dead")
            return
        world.after(window, lambda: self._time_out(rank))
        if set(self._entered) >= self._ranks:
            for member in sorted(self._ranks):
                world.after(world.rng.uniform(0, 0.2), functools.partial(self._end, member, ""))

    def lose(self, rank: int) -> None:
        """Break where the library tells of deaths."""
        if rank in self._ranks and not self._revoked:
            self._revoke()

    def _time_out(self, rank: int) -> None:
        if rank not in self._over:
            self._end(rank, "the window is over")
            self._revoke()

    def _revoke(self) -> None:
        if self._world.plan.survives:
            self._revoked = True
            for member in sorted(set(self._entered) - self._over):
                self._world.after(self._world.rng.uniform(0, 0.1), functools.partial(self._end, member, "revoked"))

    def _end(self, rank: int, broken: str) -> None:
        if rank not in self._over and not (self._revoked and not broken):
            self._over.add(rank)
            self._entered[rank](broken)
