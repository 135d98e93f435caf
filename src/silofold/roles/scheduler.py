"""The scheduler, rank 0: hears, hands on to the coordinator, and does what it says. It holds no parameters."""

from __future__ import annotations

import logging
import statistics
import time
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from silofold import machine, plugins, seeds
from silofold.comm.world import AgreedFault
from silofold.coordination import events
from silofold.coordination.coordinator import Coordinator
from silofold.coordination.events import EndKind, Finished, Lost, Opened, RoundClosed, Send, Tallied
from silofold.coordination.facts import Facts, Saved
from silofold.errors import DivergedError
from silofold.messages import Broken, Expel, Over
from silofold.record import checkpoint, control, deaths
from silofold.roles import faults
from silofold.roles.job import StopNow
from silofold.roles.listening import RankLost, next_event

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from silofold.comm.window import Node
    from silofold.comm.world import World
    from silofold.coordination.events import Action, Event
    from silofold.coordination.window import Lap
    from silofold.core.endings import Ending
    from silofold.messages import Members, Plan, Tally
    from silofold.protocols import Cohort
    from silofold.roles.job import Job
    from silofold.roles.recorder import Recorder

logger = logging.getLogger(__name__)
LOOK_EVERY = 0.5
"""Seconds between two looks at what the job is asked to do."""
A = TypeVar("A")


class Scheduler:
    """Rank 0.

    Parameters
    ----------
    world
        The ranks.
    job
        The run.
    node
        Memory of this rank's node.
    recorder
        Writes down what happens.
    resumed
        Manifest of the checkpoint that the run goes on from; none in a new run.
    failures
        Failures in a row of each silo so far.
    laps
        How long the last rounds took to report.
    elements
        Length of the model's vector.
    """

    def __init__(
        self, world: World, job: Job, node: Node, recorder: Recorder, resumed: checkpoint.Manifest | None,
        failures: dict[int, int], laps: tuple[Lap, ...], elements: int,
    ) -> None:  # fmt: skip
        self._world, self._job, self._recorder = world, job, recorder
        self.vector: NDArray[np.float32] = np.empty(0, np.float32)
        self.coordinator = Coordinator(_facts(world, job, node, resumed, failures, laps, elements), time.monotonic())
        self._done: list[Action] = []
        """What has happened that the round has not come to yet."""
        self._next_look = 0.0
        self._began = 0.0
        self._dead: list[str] = []
        self._died: list[str] = []
        """Of those that tell, how."""
        self.started = time.time()
        """When the rounds began, seconds since 1970."""
        self._born: float | None = None
        """When this process began, on the run folder's clock: what was asked before is left over from a job that died."""
        earlier = control.read_status(job.folder) if world.troubled else None
        self._names = frozenset({self.started} | ({earlier.started} if earlier else set()))
        """What this job is asked by: after a loss also as the one whose place this scheduler takes."""
        self._allocation_end = machine.allocation_end()
        if self._allocation_end and self._allocation_end < self.started:
            logger.warning("SLURM_JOB_END_TIME is past: left over from another job, and ignored")
            self._allocation_end = None
        self._silent: tuple[int, ...] = ()
        self._expelled: tuple[int, ...] = ()
        """Ranks that do not answer when the run ends: MPI's farewell would wait for them."""

    @property
    def ending(self) -> tuple[Ending, str] | None:
        """How the job ends before the last round, and why."""
        return self.coordinator.ending

    # --- the round: each step goes on until the coordinator has come so far --------------------------------------------

    def plan(self) -> Plan:
        """Wait for ready ranks, draw the cohort among them, tell everyone."""
        plan = self._until(Opened).plan
        self._world.window = plan.window
        if plan.last:
            self._world.troubled |= plan.members.epoch > 0
            self._expelled = plan.expelled if self._world.survives else ()
        return plan

    def evaluate(self, plan: Plan, broken: str) -> None:
        """Nothing: evaluations arrive while others still train."""

    def is_over(self, plan: Plan) -> bool:
        """Wait for the evaluation of the last model; False if it is to be sent again, since somebody was lost."""
        del plan
        return isinstance(self._until((Finished, events.Again)), Finished)

    def train(self, plan: Plan) -> Tally:
        """Wait for the reports until the update window ends, and decide what counts."""
        del plan
        return self._until(Tallied).tally

    def update(self, tally: Tally) -> NDArray[np.float32]:
        """Nothing: no model byte passes through here."""
        del tally
        return self.vector

    def settle(self, tally: Tally, moved: NDArray[np.generic], broken: str) -> Tally:
        """Wait until every server has its sum; if a member is lost meanwhile, tally again without it."""
        del moved, broken
        return tally.as_settled() if tally.certain else self._until(Tallied).tally

    def apply(self, moved: NDArray[np.generic], tally: Tally) -> None:
        """Nothing: that every server has moved its shard is waited for in `record`."""

    def record(self, plan: Plan, tally: Tally) -> None:
        """Wait until the round is over; its summary is written with the evaluation, which comes with the next one."""
        del plan, tally
        self._until(RoundClosed)

    def dismiss(self, code: int) -> None:
        """Tell every rank that the run is over, and end those that stopped in its last step."""
        self._world.troubled |= bool(self._silent)
        for rank in {*self._silent, *self._expelled} & set(self._world.living) if self._world.survives else ():
            self._world.end_rank(rank)
        for rank in self._world.living[1:]:
            self._world.say(Over(code, self._world.troubled), rank)

    def close(self, ended: str = "", ending: Ending | None = None) -> None:
        """Close the record and the sinks, and leave word of how it went."""
        self._recorder.close()
        if ending:
            self._write_status(ended, ending.name)

    # --- events in, actions out ----------------------------------------------------------------------------------------

    def _until(self, kind: type[A] | tuple[type[A], ...]) -> A:
        """Hear, and do what follows, until something of this kind has happened."""
        while True:
            while self._done:
                action = self._done.pop(0)
                if isinstance(action, kind):
                    return action
            now = time.monotonic()
            if now >= self._next_look:
                self._look_around(now)
            else:
                self._handle(self._hear(), time.monotonic())

    def _hear(self) -> Event:
        event = next_event(self._world, min(self.coordinator.wake_at, self._next_look))
        match event:
            case events.Heard(_, Broken(error, story)):
                raise AgreedFault(error, story)
            case events.Died(rank):
                title = self._job.layout.title(rank)
                self._dead.append(title)
                if story := deaths.told(self._job.folder.log(title)):
                    self._died.append(f"{title}: {story}")
                    logger.warning("%s dies of a %s", title, story)
        return event

    def _handle(self, event: Event, now: float) -> None:
        if self.coordinator.ending is None and (short := self._short_of_time()):
            self._perform(self.coordinator.handle(short, now), now)
        self._perform(self.coordinator.handle(event, now), now)

    def _perform(self, actions: list[Action], now: float) -> None:
        """Do what the coordinator says; what the round waits for is kept for it.

        Raises
        ------
        RankLost, RequeueError, StopNow
            It has come to an end that is not the run's own.
        """
        for action in actions:
            match action:
                case Send(to, message):
                    self._world.say(message, to)
                case events.Warn(text):
                    logger.warning("%s", text)
                case events.Expel(rank, neighbours):
                    if not self._world.end_rank(rank) and neighbours:
                        self._world.say(Expel(rank), neighbours[0])
                case Finished():
                    self._finish(action)
                case _:
                    self._write_down(action, now)
                    self._done.append(action)

    def _write_down(self, action: Action, now: float) -> None:
        match action:
            case Opened(plan):
                self._recorder.begin(now, checkpoint=plan.checkpoint)
                self._began = now
            case events.Evaluated(evaluations):
                self._recorder.complete(evaluations)
            case events.CommitCheckpoint():
                self._recorder.commit(action)
            case RoundClosed():
                self._recorder.close_round(action)

    def _finish(self, finished: Finished) -> None:
        match finished.kind:
            case EndKind.STOP_NOW:
                raise StopNow
            case EndKind.LOST:
                raise RankLost(Lost(finished.why, finished.suspects))
            case EndKind.RESUMABLE:
                died = f"; dead: {', '.join(self._died[:3])}" if self._died else ""
                raise AgreedFault(finished.error, f"{finished.why}{died}")
            case EndKind.VOID:
                faults.give_up(self._job, self._recorder.voids, finished.why)
            case EndKind.NOT_FINITE:
                raise DivergedError("diverged-model", f"{finished.why}, with {faults.rates(self._job)}")
            case EndKind.OVER:
                self._silent = finished.silent
                self._done.append(finished)

    # --- surroundings ---------------------------------------------------------------------------------------------------

    def _look_around(self, now: float) -> None:
        """See what the job is asked to do, and say what it is about."""
        self._next_look = now + LOOK_EVERY
        self._write_status()
        if self._born is None:
            self._born = control.clock(self._job.folder) - machine.age()
        asked = control.take_requests(self._job.folder, self._born, self._names)
        for request in asked.dropped:
            logger.warning("the request %r is older than this job or names another one: dropped; ask again", request)
        if asked.stop or asked.scale:
            self._handle(events.Asked(asked.stop, asked.scale), now)
        self._recorder.check()

    def _short_of_time(self) -> events.TimeIsShort | None:
        """Whether another round like the last ones would not be over before the allocation is."""
        if self._allocation_end is None:
            return None
        left = self._allocation_end - time.time() - self._job.settings.rounds.end_margin
        if left >= (longest := max(self._recorder.durations, default=0.0)):
            return None
        return events.TimeIsShort(
            f"saved before the allocation's end: {max(left, 0):.0f} s are left, a round takes up to {longest:.0f} s"
        )

    def _write_status(self, ended: str = "", ending: str = "") -> None:
        title, machine_ = self._job.layout.title, self.coordinator
        phase, awaited = machine_.awaited()
        now, durations, members = time.monotonic(), self._recorder.durations, machine_.members
        status = control.Status(
            written=time.time(),
            started=self.started,
            host=self._world.places[self._world.rank][0],
            phase=phase,
            round=machine_.number,
            counted=machine_.counted,
            wanted=self._job.settings.rounds.count,
            round_seconds=now - self._began if self._began else 0.0,
            usual_seconds=statistics.median(durations) if durations else 0.0,
            waiting_for=[title(rank) for rank in sorted(awaited)],
            late={title(rank): count for rank, count in sorted(members.late.items()) if count},
            workers=[title(rank) for rank in sorted(members.hosting.hosts)],
            standbys=[title(rank) for rank in members.hosting.standbys],
            dead=self._dead,
            benched=sorted(machine_.benched),
            ended=ended,
            ending=ending,
        )
        control.write_status(self._job.folder, status)


def _facts(
    world: World, job: Job, node: Node, resumed: checkpoint.Manifest | None, failures: dict[int, int], laps: tuple[Lap, ...],
    elements: int,
) -> Facts:  # fmt: skip
    """Say what the coordinator must know of the job."""
    settings, servers = job.settings, tuple(job.layout.server_ranks)
    cohort: Cohort = plugins.load("cohort", settings.cohort)

    def certain(members: Members) -> bool:
        """Whether sums cannot fail: they are read where workers have left them, and any bits add up."""
        return job.uplink.exact and node.holds((*servers, *members.workers))

    return Facts(
        layout=job.layout,
        nodes=[host for host, _ in world.places],
        rounds=settings.rounds,
        examples=job.examples,
        hosted=job.hosted(),
        elements=elements,
        survives=world.survives,
        tied=settings.roles.near,
        keeps_state=settings.local.keep_momentum,
        deals=job.deals,
        foresees=bool(settings.data.memory),
        weight=job.strategy.weight,
        draw=lambda silos, number: cohort.draw(silos, seeds.generator(settings.seed, "cohort", number)),
        certain=certain,
        gathers=not job.uplink.sums,
        script={number: (summary.accepted, summary.void) for number, summary in job.script.items()},
        start_round=job.start_round,
        counted=job.counted,
        voids=job.voids,
        failures=failures,
        saved=Saved(resumed.round, resumed.files) if resumed else None,
        states=resumed.states if resumed else {},
        laps=laps,
        evaluation=sum(silo.test.examples for silo in job.data.silos) / settings.local.epochs,
    )
