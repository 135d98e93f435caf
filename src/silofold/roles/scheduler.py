"""The scheduler, rank 0: draws the cohort, keeps the deadlines, tallies, records. It holds no parameters."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections import deque
from typing import TYPE_CHECKING, NoReturn, TypeVar

import msgspec
import numpy as np

from silofold import machine, plugins, seeds, topology
from silofold.aggregation import tally as tallies
from silofold.comm import waiting
from silofold.comm.world import AgreedFault
from silofold.core.endings import RESUMABLE, STOPPED
from silofold.errors import DivergedError, ReplayError, RequeueError, UserCodeError
from silofold.evaluation.accuracy import wilson
from silofold.messages import (
    Alive,
    Applied,
    Broken,
    Cause,
    Evaluation,
    Expel,
    Gone,
    Members,
    Moved,
    Over,
    Phases,
    Plan,
    RankPhases,
    Ready,
    Reports,
    Saved,
    Score,
    SiloSummary,
    Summary,
    Tally,
)  # fmt: skip
from silofold.record import checkpoint, control
from silofold.roles.job import GRACE, RankLost, StopNow, prepare_end
from silofold.roles.roster import Roster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from silofold.aggregation.tally import Verdict
    from silofold.comm.window import Node
    from silofold.comm.world import World
    from silofold.core.endings import Ending
    from silofold.messages import AnyMessage, Report
    from silofold.protocols import Cohort, Sink
    from silofold.record.history import History
    from silofold.roles.job import Job

logger = logging.getLogger(__name__)
BEAT = 0.25
"""Share of the start window after which ranks that wait hear that the scheduler is alive."""
LOOK_EVERY = 0.5
"""Seconds between two looks at what the job is asked to do."""
T = TypeVar("T", bound=msgspec.Struct)


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
    history
        Where every round is recorded.
    sinks
        Where summaries go besides, already open.
    settings
        The resolved settings as plain values, for the checkpoints' manifests.
    slices
        Slice of each shard in the flat vector.
    resumed
        Manifest of the checkpoint that the run goes on from; none in a new run.
    changes
        How the environment differs from that of the run that is replayed.
    """

    def __init__(
        self,
        world: World,
        job: Job,
        node: Node,
        history: History,
        sinks: Sequence[Sink],
        settings: dict[str, Any],
        slices: Sequence[slice],
        resumed: checkpoint.Manifest | None,
        changes: Sequence[str],
    ) -> None:
        self._world, self._job, self._node, self._history, self._sinks = world, job, node, history, sinks
        self._settings, self._slices, self._changes = settings, slices, changes
        self._cohort: Cohort = plugins.load("cohort", job.settings.cohort)
        self.vector: NDArray[np.float32] = np.empty(0, np.float32)
        self._servers = set(job.layout.server_ranks)
        self._roster = Roster(job.hosted(), job.layout.standby_ranks, job.examples)
        self._number, self._counted, self._voids = job.start_round, job.counted, job.voids
        self._failures = tallies.failures_in_a_row(history.earlier, job.settings.rounds.bench_after)
        self._void_rounds = list(history.earlier[len(history.earlier) - job.voids :])
        self._epoch = 0
        self._ready: set[int] = set()
        self._listening: set[int] = set(self._servers)
        self._late: dict[int, int] = {}
        self._evaluations: dict[int, Evaluation] = {}
        self._reports: dict[int, Reports] = {}
        self._words: dict[int, Moved] = {}
        self._applied: dict[int, Applied] = {}
        self._saved: dict[str, Saved] = {}
        self._plan: Plan | None = None
        self._checkpoint: tuple[Plan, set[str]] | None = None
        self._last_checkpoint, self._overdue = resumed, False
        self._moved: dict[int, int] = {}
        """Round in which each silo's update was last accepted, since the start."""
        self._verdict: Verdict | None = None
        self._tally: Tally | None = None
        self._summary: Summary | None = None
        self._began = self._closed = 0.0
        self._next_beat = self._next_look = 0.0
        self._phase, self._waiting_for = "", set[int]()
        self._dead: list[str] = []
        self._durations: deque[float] = deque(maxlen=10)
        self._asked_scale = 0
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
        self.ending: tuple[Ending, str] | None = None
        """How the job ends before the last round, and why."""

    # --- the round ---------------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """Wait for ready ranks, draw the cohort among them, tell everyone."""
        rounds = self._job.settings.rounds
        self._enter("waiting for ready ranks", self._servers | (self._roster.hosts - set(self._late)))
        if self._asked_scale:
            self._scale(self._asked_scale)
            self._asked_scale = 0
        tied = self._job.settings.local.keep_momentum or self._job.settings.roles.near
        self._roster.rehost(self._ready, tied=tied)
        # nobody waits for a worker that missed the last window: when it comes back it joins the round after
        self._hear(lambda: self._ready >= self._servers | (self._roster.hosts - set(self._late)), rounds.start_window)
        for rank in self._roster.hosts - self._ready - set(self._late):
            logger.warning("%s is not ready: nobody waits for it until it is", self._job.layout.title(rank))
            self._late[rank] = 0
        present, silos = self._present()
        wanted = tallies.start_quorum(rounds.start_quorum, len(self._job.data.silos) - len(self._benched()))
        if len(silos) < wanted:
            # late ones too get their chance before the job is given up
            self._hear(lambda: self._ready >= self._servers | self._roster.hosts, rounds.start_window)
            present, silos = self._present()
        if missing := self._servers - self._ready:
            self._lose(missing, "are not ready for the next round")
        if len(silos) < wanted:
            if len(self._benched()) == len(self._job.data.silos):
                self._give_up(f"round {self._number}: no silo is left that may train (rounds.bench_after)")
            absent = (
                ", ".join(self._job.layout.title(rank) for rank in sorted(self._roster.hosts - self._ready)) or "no rank"
            )
            raise RequeueError(
                "start-quorum",
                f"round {self._number}: {len(silos)} silos were ready within rounds.start_window = {rounds.start_window} s, "
                f"rounds.start_quorum asks for {wanted}; missing: {absent}",
            )
        self._mind_the_end()
        last = self._is_over()
        cohort = [] if last else self._draw(silos, self._number)
        foresees = self._job.settings.data.memory and not last and not self._job.script
        here = {silo for rank in present for silo in self._roster.silos_of(rank)}
        carried = self._carried(set(range(len(self._job.data.silos))) - here)
        plan = Plan(
            round=self._number,
            members=Members(tuple(present), self._epoch, self._world.losses),
            hosted=(),
            cohort=tuple(cohort),
            dealt=(),
            upcoming=(),
            total_weight=sum(self._job.strategy.weight(self._job.examples[silo]) for silo in cohort),
            window=rounds.update_window,
            evaluate=self._number > 1 and (last or (self._number - 1) % rounds.evaluate_every == 0),
            checkpoint=self._checkpoint_due(last=last, complete=carried is not None),
            carried=carried or (),
            carried_from=self._last_checkpoint.round if self._last_checkpoint else 0,
            last=last,
            exit_code=self.ending[0].code if self.ending else 0,
            expelled=tuple(sorted(set(self._world.living[1:]) - self._ready)) if last else (),
        )
        self._begin(plan)
        dealt = self._deal(cohort, present)
        upcoming = self._deal(self._draw(silos, self._number + 1), present) if foresees else {}
        burden = {rank: sum(self._job.examples[silo] for silo in silos) for rank, silos in dealt.items()}
        for rank in sorted(self._ready, key=lambda rank: -burden.get(rank, 0)):  # who has the most to do begins first
            mine = {"hosted": self._roster.silos_of(rank), "dealt": dealt.get(rank, ()), "upcoming": upcoming.get(rank, ())}
            self._world.say(_replace(plan, **mine), rank)
        self._ready -= self._servers | set(present)
        self._listening = self._servers | self._ready
        if last:
            prepare_end(self._world, plan)
        return plan

    def evaluate(self, plan: Plan, broken: str) -> None:
        """Nothing yet: evaluations arrive while others still train. After the last round, wait for all of them."""
        del broken
        self._enter("last evaluation" if plan.last else "training", set(plan.members.workers))
        if plan.last:
            everyone = plan.members.workers
            self._hear(lambda: set(self._evaluations) >= self._alive(everyone), plan.window + GRACE)
            if self._evaluations:
                self._complete_summary()
                self._publish_checkpoint()
            if not self._evaluations or not self._hear(lambda: self._checkpoint is None, plan.window + GRACE):
                raise RequeueError("rank-silent", "the last model was not evaluated and saved in time; resume the run")

    def train(self, plan: Plan) -> Tally:
        """Wait for the reports until the update window ends, and decide what counts."""
        in_time = self._hear(lambda: self._is_closed(plan), plan.window + GRACE)
        missing = self._alive(plan.members.workers) - set(self._reports)
        if not in_time:
            self._note_late(missing, plan.round)
        for rank in missing:
            self._late.setdefault(rank, 0)
        if set(plan.members.workers) - set(self._reports):
            self._epoch += 1
        self._judge(plan)
        verdict = self._verdict or _NONE
        script = self._job.script.get(plan.round)
        met = verdict.quorum_met and bool(plan.cohort) if script is None else not script.void
        tally = self._say_tally(plan, attempt=1, met=met)
        self._complete_summary()
        self._closed = time.monotonic()
        return tally

    def update(self, tally: Tally) -> NDArray[np.float32]:
        """Nothing: no model byte passes through here."""
        del tally
        return self.vector

    def settle(self, tally: Tally, moved: NDArray[np.generic], broken: str) -> Tally:
        """Wait until every server has its sum; if a member is lost meanwhile, tally again without it."""
        del moved, broken
        if tally.certain:
            return tally.as_settled()
        plan, window = self._plan, self._job.settings.rounds.update_window
        if plan is None:
            raise AssertionError
        everyone = self._servers | set(tally.members.workers)
        self._enter("reduction", everyone)

        def whole() -> bool:
            return {rank for rank, word in self._words.items() if not word.broken} >= self._servers

        self._hear(lambda: whole() or any(word.broken for word in self._words.values()), window + GRACE)
        # a server's word that comes only now still counts: what is added up in workers' memory is not there a second time
        self._hear(lambda: whole() or set(self._words) >= self._alive(everyone), GRACE)
        if any(word.broken for word in self._words.values()):
            self._epoch += 1
        unsound = next((word.unsound for word in self._words.values() if word.unsound), "")
        if unsound:
            self._verdict = tallies.Verdict((), (), dict.fromkeys(tally.accepted, unsound), quorum_met=False)
            return self._say_tally(plan, attempt=tally.attempt + 1, met=False)
        if whole():
            return self._say(tally.as_settled())
        silent = self._alive(everyone) - set(self._words)
        self._epoch += 1
        if lost := silent & self._servers:
            self._lose(lost, "did not answer after the reduction")
        if tally.attempt > len(tally.members.workers):
            raise RequeueError("rank-lost", f"round {plan.round}: the reduction broke {tally.attempt} times; resume the run")
        self._note_late(silent, plan.round)
        for rank in set(self._reports) - self._alive(self._words):
            self._reports.pop(rank)
        self._judge(plan)
        return self._say_tally(plan, attempt=tally.attempt + 1, met=(self._verdict or _NONE).quorum_met)

    def apply(self, moved: NDArray[np.generic], tally: Tally) -> None:
        """Wait until every server has moved its shard."""
        del moved, tally
        self._enter("server step", self._servers)
        servers = self._job.layout.servers
        if not self._hear(lambda: len(self._applied) == servers, self._job.settings.rounds.update_window + GRACE):
            ranks = list(self._job.layout.server_ranks)
            self._lose({ranks[shard] for shard in set(range(servers)) - set(self._applied)}, "did not apply the update")
        if not all(message.finite for message in self._applied.values()):
            raise DivergedError(
                "diverged-model",
                f"round {self._number}: the global model is no longer finite after the servers' step, with {self._rates()}",
            )

    def record(self, plan: Plan, tally: Tally) -> None:
        """Summarise the round, but for the evaluation: that comes with the next one."""
        self._summary = self._summarise(plan, tally)
        if tally.settled:
            self._moved |= dict.fromkeys(tally.accepted, plan.round)
        self._number += 1
        self._voids = self._voids + 1 if self._summary.void else 0
        self._counted += not self._summary.void or self._job.settings.rounds.count_void
        before = self._benched()
        self._failures = tallies.count_failures(self._failures, self._summary, self._job.settings.rounds.bench_after)
        for silo in sorted(self._benched() - before):
            logger.warning("silo %d failed in %d rounds in a row and trains no more", silo, self._failures[silo])
        self._void_rounds = [*self._void_rounds, self._summary] if self._summary.void else []
        if self._voids >= self._job.settings.rounds.max_void and not self._job.script:
            self._give_up(f"{self._voids} void rounds in a row (rounds.max_void)")

    def _give_up(self, story: str) -> NoReturn:
        """End the job because rounds are void: by the true cause, where no repetition would mend it.

        Raises
        ------
        UserCodeError, DivergedError, RequeueError
            One of them.
        """
        voids = self._void_rounds[-self._job.settings.rounds.max_void :]
        cause = tallies.lasting(voids, self._job.settings.rounds.update_ratio)
        met = [silo for silo in voids[-1].silos if silo.cause is cause] if voids and cause is not Cause.NONE else []
        if met:
            others = f" and {len(met) - 1} other silos" if len(met) > 1 else ""
            story = f"{story}; round {voids[-1].round}, silo {met[0].name}{others}: {met[0].reason}"
        if cause is Cause.RAISED:
            raise UserCodeError("model-raised", f"model {self._job.settings.model['name']}: {story}")
        if cause is Cause.DIVERGED:
            raise DivergedError("diverged-rounds", f"{story}, with {self._rates()}")
        reasons = "; ".join(f"silo {silo}: {why}" for silo, why in (self._verdict or _NONE).refused.items())
        raise RequeueError("rounds-void", f"{story}; the last one: {reasons}")

    def _rates(self) -> str:
        """Tell the learning rates, which are what diverges."""
        local, server = self._job.settings.local, self._job.settings.server_optimizer
        told = ", ".join(f"{key} = {value}" for key, value in server.items() if key != "name") or "its defaults"
        return f"local.lr = {local.lr:g} and server_optimizer {server['name']} ({told})"

    def dismiss(self, code: int) -> None:
        """Tell every rank that the run is over, and end those that stopped in its last step."""
        silent = set(self._plan.members.workers) - set(self._evaluations) if self._plan else set()
        self._world.troubled |= bool(silent)
        for rank in self._alive(silent) if self._world.survives else ():
            self._world.end_rank(rank)
        for rank in self._world.living[1:]:
            self._world.say(Over(code, self._world.troubled), rank)

    def close(self, ended: str = "", ending: Ending | None = None) -> None:
        """Close the record and the sinks, and leave word of how it went."""
        self._history.close()
        for sink in self._sinks:
            sink.close()
        if ending:
            self._write_status(ended, ending.name)

    # --- listening -----------------------------------------------------------------------------------------------------

    def _hear(self, enough: Callable[[], bool], seconds: float) -> bool:
        """Take messages until there are enough; False if the time ran out first."""
        deadline = time.monotonic() + seconds
        while not enough():
            now = time.monotonic()
            if now >= self._next_look:
                self._look_around(now)
            try:
                rank, message = self._world.hear(min(deadline, self._next_look))
            except waiting.Timeout:
                if time.monotonic() >= deadline:
                    return False
                continue
            if isinstance(message, Broken):
                raise AgreedFault(message.id, message.story)
            self._take(rank, message)
        return True

    def _look_around(self, now: float) -> None:
        """See what the job is asked to do, say what it is about, and that it lives.

        Raises
        ------
        StopNow
            The job is to end in the middle of its round.
        RunFolderError
            The run folder is gone.
        """
        self._next_look = now + LOOK_EVERY
        self._write_status()
        if self._born is None:
            self._born = control.clock(self._job.folder) - machine.age()
        asked = control.take_requests(self._job.folder, self._born, self._names)
        for request in asked.dropped:
            logger.warning("the request %r is older than this job or names another one: dropped; ask again", request)
        if asked.stop == "now":
            raise StopNow
        if asked.stop:
            self.end_early(STOPPED, "stopped as asked")
        self._asked_scale += asked.scale
        self._history.check()
        if now >= self._next_beat:
            self._beat(now)

    def end_early(self, ending: Ending, story: str) -> None:
        """End the job after this round, with a checkpoint to go on from."""
        if self.ending is None:
            logger.warning("%s: the job ends after this round", story)
            self.ending = ending, story

    def _mind_the_end(self) -> None:
        """End the job, resumably, if another round like the last ones would not be over before the allocation is."""
        if self._allocation_end is None:
            return
        left = self._allocation_end - time.time() - self._job.settings.rounds.end_margin
        if left < (longest := max(self._durations, default=0.0)):
            story = f"saved before the allocation's end: {max(left, 0):.0f} s are left, a round takes up to {longest:.0f} s"
            self.end_early(RESUMABLE, story)

    def _scale(self, change: int) -> None:
        if self._job.settings.roles.near:
            logger.warning("not scaled: silos stay near their files (roles.near)")
            return
        if self._job.settings.local.keep_momentum:
            logger.warning("not scaled: silos keep their momentum (local.keep_momentum) and cannot move")
            return
        changed = self._roster.scale(change, self._ready)
        logger.warning("scaled by %+d of %+d workers: now %d", changed, change, len(self._roster.hosts))

    def _enter(self, phase: str, ranks: set[int]) -> None:
        self._phase, self._waiting_for = phase, ranks

    def _write_status(self, ended: str = "", ending: str = "") -> None:
        title = self._job.layout.title
        awaited = set()
        if self._phase.startswith("waiting"):
            awaited = self._waiting_for - self._ready
        elif self._phase == "training":
            awaited = self._waiting_for - set(self._reports)
        now = time.monotonic()
        status = control.Status(
            written=time.time(),
            started=self.started,
            host=self._world.places[self._world.rank][0],
            phase=self._phase,
            round=self._number,
            counted=self._counted,
            wanted=self._job.settings.rounds.count,
            round_seconds=now - self._began if self._began else 0.0,
            usual_seconds=statistics.median(self._durations) if self._durations else 0.0,
            waiting_for=[title(rank) for rank in sorted(self._alive(awaited))],
            late={title(rank): count for rank, count in sorted(self._late.items()) if count},
            workers=[title(rank) for rank in sorted(self._roster.hosts)],
            standbys=[title(rank) for rank in self._roster.standbys],
            dead=self._dead,
            benched=sorted(self._benched()),
            ended=ended,
            ending=ending,
        )
        control.write_status(self._job.folder, status)

    def _beat(self, now: float) -> None:
        """Tell those who wait that there is still someone to wait for."""
        self._next_beat = now + BEAT * self._job.settings.rounds.start_window
        done = set(self._evaluations) if self._plan and self._plan.last else set()
        for rank in self._alive(self._listening | done):
            self._world.say(Alive(), rank)

    def _take(self, rank: int, message: AnyMessage) -> None:
        current = self._plan.round if self._plan else 0
        match message:
            case Gone():
                self._bury(rank)
            case Ready():
                self._ready.add(rank)
                self._listening.add(rank)
                self._late.pop(rank, None)
            case Evaluation() if message.round == current:
                self._evaluations[rank] = message
                if self._plan and len(self._evaluations) == len(self._plan.members.workers):
                    self._complete_summary()
            case Reports() if message.round == current and self._tally is None:
                self._reports[rank] = message
                self._listening.add(rank)
            case Moved() if self._tally and (message.round, message.attempt) == (current, self._tally.attempt):
                self._words[rank] = message
            case Applied() if message.round == current:
                self._applied[message.shard] = message
            case Saved() if self._checkpoint and message.round == self._checkpoint[0].round - 1:
                self._saved[message.title] = message
            case Moved():
                pass  # of a worker, after the servers have settled the matter
            case _:
                logger.info("dropped: %s of %s comes too late", type(message).__name__, self._job.layout.title(rank))
        self._publish_checkpoint()

    def _bury(self, rank: int) -> None:
        """Take note of a death.

        Raises
        ------
        RankLost
            A server: its shard must come back from a checkpoint.
        RequeueError
            A worker that kept its silos' momentum.
        """
        title = self._job.layout.title(rank)
        logger.warning("%s is dead", title)
        self._dead.append(title)
        for ranks in (self._ready, self._listening):
            ranks.discard(rank)
        self._late.pop(rank, None)
        if self._tally is None:
            self._reports.pop(rank, None)
        self._epoch += 1
        if rank in self._servers:
            raise RankLost(f"{title} is dead")
        if self._job.settings.local.keep_momentum and self._roster.silos_of(rank):
            raise RequeueError("rank-lost", f"{title} is dead, and with it the momentum that its silos keep; resume the run")
        self._roster.bury(rank)

    def _lose(self, servers: Iterable[int], why: str) -> None:
        """Go on without servers that live but do not answer.

        Raises
        ------
        RankLost
            They are expelled.
        RequeueError
            They cannot be.
        """
        titles = ", ".join(self._job.layout.title(rank) for rank in sorted(servers))
        if not self._world.survives:
            raise RequeueError("rank-lost", f"{titles} {why}; resume the run")
        logger.warning("%s %s", titles, why)
        raise RankLost(f"{titles} {why}", servers)

    def _note_late(self, ranks: Iterable[int], number: int) -> None:
        """Count the windows that these ranks missed in a row, and expel who has missed too many."""
        for rank in ranks:
            self._late[rank] = self._late.get(rank, 0) + 1
            title = self._job.layout.title(rank)
            logger.warning("round %d: nothing of %s in time", number, title)
            if self._world.survives and self._late[rank] >= self._job.settings.rounds.bench_after:
                logger.warning("%s missed %d windows in a row and is expelled", title, self._late[rank])
                host = self._world.places[rank][0]
                beside = [other for other in self._listening if self._world.places[other][0] == host and other != rank]
                if not self._world.end_rank(rank) and beside:
                    self._world.say(Expel(rank), min(beside))

    def _alive(self, ranks: Iterable[int]) -> set[int]:
        return set(ranks) & set(self._world.living)

    def _is_closed(self, plan: Plan) -> bool:
        """Whether nothing more is to be waited for."""
        if set(self._reports) >= self._alive(plan.members.workers):
            return True
        if self._job.settings.rounds.close == "all" or self._job.script:
            return False
        finished = sum(report.finished for message in self._reports.values() for report in message.reports)
        return finished >= tallies.needed(self._job.settings.rounds.update_ratio, len(plan.cohort))

    def _judge(self, plan: Plan) -> None:
        """Decide what counts of the reports that are here."""
        self._verdict = tallies.judge(
            plan.cohort, [message.reports for message in self._reports.values()], self._job.examples,
            self._job.strategy.weight, self._job.settings.rounds.update_ratio, self._slices[-1].stop,
        )  # fmt: skip

    def _say_tally(self, plan: Plan, attempt: int, *, met: bool) -> Tally:
        verdict = self._verdict or _NONE
        accepted = set(verdict.accepted)
        sent = {rank: {report.silo for report in self._reports[rank].reports} for rank in sorted(self._reports)}
        silos = {rank: tuple(sorted(accepted & mine)) for rank, mine in sent.items()}
        workers = [rank for rank, mine in silos.items() if mine]
        members = Members(tuple(workers), self._epoch, self._world.losses)
        mine = tuple(silos[rank] for rank in workers)
        certain = self._is_certain(members)
        return self._say(Tally(plan.round, attempt, members, mine, verdict.weights, met, certain=certain))

    def _is_certain(self, members: Members) -> bool:
        """Whether the sums of this round cannot fail: they are read where workers have left them, and any bits add up."""
        settings, together = self._job.settings, self._node.holds((*self._servers, *members.workers))
        return together and settings.reduction == "exact" and self._job.strategy.needs == "sum"

    def _say(self, tally: Tally) -> Tally:
        """Tell a tally to every rank that heard the plan; those that are late find it when they come."""
        self._tally, self._words = tally, {}
        for rank in sorted(self._alive(self._servers.union(self._plan.members.workers if self._plan else ()))):
            self._world.say(tally, rank)
        return tally

    # --- parts of the plan -----------------------------------------------------------------------------------------------

    def _present(self) -> tuple[list[int], list[int]]:
        """List the workers that are ready, and their silos that may train."""
        present = sorted(self._ready & self._roster.hosts)
        silos = {silo for rank in present for silo in self._roster.silos_of(rank)}
        return present, sorted(silos - self._benched())

    def _benched(self) -> set[int]:
        """List the silos that failed too often in a row; a replay follows its record instead."""
        limit = self._job.settings.rounds.bench_after
        return set() if self._job.script else {silo for silo, count in self._failures.items() if count >= limit}

    def _is_over(self) -> bool:
        if self.ending:
            return True
        if self._job.script:
            return self._number > max(self._job.script)
        return self._counted >= self._job.settings.rounds.count

    def _draw(self, silos: list[int], number: int) -> list[int]:
        if self._job.script:
            return self._job.script[number].accepted
        return self._cohort.draw(silos, seeds.generator(self._job.settings.seed, "cohort", number))

    def _deal(self, silos: Sequence[int], present: Sequence[int]) -> dict[int, tuple[int, ...]]:
        """Tell who trains which of these silos: its host or, where nothing ties it there, who has the least to do."""
        hosts = {rank: self._roster.silos_of(rank) for rank in present}
        if self._job.deals:
            return topology.deal(silos, self._job.examples, hosts)
        wanted = set(silos)
        return {rank: tuple(silo for silo in held if silo in wanted) for rank, held in hosts.items()}

    def _checkpoint_due(self, *, last: bool, complete: bool) -> bool:
        """Whether the arriving model is saved: not twice, and later while a silo's kept momentum is out of reach."""
        done, every = self._number - 1, self._job.settings.rounds.checkpoint_every
        due = last or self._overdue or bool(every and done % every == 0)
        if done < self._job.start_round or not due:
            return False
        if not complete and not self._overdue:
            logger.warning("no checkpoint of round %d: momentum that moved since the last one is out of reach; "
                           "it is written when its worker is back", done)  # fmt: skip
        self._overdue = not complete
        return complete

    def _carried(self, absent: set[int]) -> tuple[int, ...] | None:
        """Absent silos whose kept momentum the checkpoint before holds; none if one of them has moved since then."""
        if not self._job.settings.local.keep_momentum:
            return ()
        before = self._last_checkpoint
        if any(self._moved.get(silo, 0) > (before.round if before else 0) for silo in absent):
            return None
        return tuple(sorted(silo for silo in absent if before and checkpoint.silo_name(silo) in before.files))

    def _begin(self, plan: Plan) -> None:
        now = time.monotonic()
        if self._summary is not None:
            self._summary = _replace(self._summary, seconds=_replace(self._summary.seconds, total=now - self._began))
            self._durations.append(now - self._began)
        self._began, self._plan, self._verdict, self._tally = now, plan, None, None
        self._evaluations, self._reports, self._words, self._applied = {}, {}, {}, {}
        if plan.checkpoint:
            # one that is still unfinished a whole period later is overtaken: its files are of no use any more
            ranks = [*self._servers, *(plan.members.workers if self._job.settings.local.keep_momentum else ())]
            self._checkpoint, self._saved = (plan, {self._job.layout.title(rank) for rank in ranks}), {}

    # --- the record ------------------------------------------------------------------------------------------------------

    def _summarise(self, plan: Plan, tally: Tally) -> Summary:
        verdict = self._verdict or _NONE
        trained = {report.silo: report for message in self._reports.values() for report in message.reports}
        counted = [trained[silo] for silo in tally.accepted]
        seen = sum(report.seen for report in counted)
        parameters = self._slices[-1].stop
        width = 8 if self._job.settings.reduction == "exact" and self._job.strategy.needs == "sum" else 4
        senders = len(tally.members.workers) if self._job.strategy.needs == "sum" else len(tally.accepted)
        evaluations, applied = self._evaluations.values(), self._applied.values()
        arrivals = [evaluation.broadcast_seconds + evaluation.seconds for evaluation in evaluations]
        spans = [message.seconds for message in self._reports.values()]
        busy = min((a + s for a, s in zip(arrivals, spans, strict=False)), default=0.0)
        return Summary(
            round=plan.round,
            void=not tally.quorum_met,
            cohort=list(plan.cohort),
            accepted=list(tally.accepted),
            train_loss=sum(report.loss_sum for report in counted) / seen if seen else None,
            accuracy=None,
            accuracy_low=None,
            accuracy_high=None,
            test_loss=None,
            test_examples=0,
            silos=self._silos_told({*plan.cohort, *trained, *verdict.refused}, trained, verdict),
            seconds=Phases(
                broadcast=max((evaluation.broadcast_seconds for evaluation in evaluations), default=0.0),
                evaluate=max((evaluation.seconds for evaluation in evaluations), default=0.0),
                train=max(spans, default=0.0),
                wait=max(0.0, self._closed - self._began - busy),
                reduce=max((message.reduce_seconds for message in applied), default=0.0),
                apply=max((message.apply_seconds for message in applied), default=0.0),
                total=0.0,
            ),
            ranks=self._rank_phases(),
            bytes_down=4 * parameters * len(plan.members.workers),
            bytes_up=width * parameters * senders if tally.quorum_met else 0,
            model_sha256="",
            shard_sha256=[self._applied[shard].sha256 for shard in sorted(self._applied)],
        )

    def _rank_phases(self) -> list[RankPhases]:
        layout = self._job.layout
        servers = [
            RankPhases(role=layout.title(rank), reduce=found.reduce_seconds, apply=found.apply_seconds)
            for shard, rank in enumerate(layout.server_ranks) if (found := self._applied.get(shard))
        ]  # fmt: skip
        workers = [
            RankPhases(
                role=layout.title(rank),
                broadcast=found.broadcast_seconds,
                evaluate=found.seconds,
                train=self._reports[rank].seconds if rank in self._reports else 0.0,
            )
            for rank, found in sorted(self._evaluations.items())
        ]
        return servers + workers

    def _silos_told(self, part: set[int], trained: dict[int, Report], verdict: Verdict) -> list[SiloSummary]:
        """Tell of every silo; there may be thousands, of which few had a part in the round."""
        told = self._job.untold.copy()
        for silo in part:
            report = trained.get(silo)
            told[silo] = _replace(
                told[silo],
                train_loss=report.loss_sum / report.seen if report and report.finished and report.seen else None,
                reason=verdict.refused.get(silo, ""),
                failed=report is not None and not report.finished and report.cause.of_the_silo,
                cause=tallies.cause_of(report, refused=silo in verdict.refused),
                raised=report.raised if report else "",
            )
        return told

    def _complete_summary(self) -> None:
        """Add the evaluation of the model after the round, and record it."""
        if self._summary is None:
            return
        scores: dict[int, Score] = {s.silo: s for found in self._evaluations.values() for s in found.scores}
        correct, examples = (sum(getattr(s, key) for s in scores.values()) for key in ("correct", "examples"))
        low, high = wilson(correct, examples) if examples else (None, None)
        # in the order of the silos, not of arrival: float sums depend on it
        loss = sum(scores[silo].loss_sum for silo in sorted(scores)) / examples if examples else None
        silos = self._summary.silos.copy()
        for silo, score in scores.items():
            if score.examples:
                silos[silo] = _replace(silos[silo], accuracy=score.correct / score.examples)
        summary = _replace(
            self._summary,
            accuracy=correct / examples if examples else None,
            accuracy_low=low,
            accuracy_high=high,
            test_loss=loss if loss is None or math.isfinite(loss) else None,
            test_examples=examples,
            silos=silos,
            model_sha256=next((found.model_sha256 for found in self._evaluations.values() if found.model_sha256), ""),
        )
        self._summary = None
        self._history.append(summary)
        for sink in self._sinks:
            sink.write(summary)
        accuracy = "n/a" if summary.accuracy is None else summary.accuracy
        logger.info("round %d: %s", summary.round, "void" if summary.void else f"accuracy {accuracy}")
        if self._job.script:
            _compare(self._job.script[summary.round], summary, self._changes)
        self._look_at_answers(summary, scores)

    def _look_at_answers(self, summary: Summary, scores: Mapping[int, Score]) -> None:
        """See whether the model still answers: an image without a finite logit counts as wrong.

        Raises
        ------
        DivergedError
            Most images are without an answer.
        UserCodeError
            The model raised on every silo that was to be evaluated.
        """
        unanswered = sum(score.unanswered for score in scores.values())
        if unanswered:
            story = (
                f"round {summary.round}: the global model gives no finite logit for {unanswered} of "
                f"{summary.test_examples} test images"
            )
            if 2 * unanswered > summary.test_examples:
                raise DivergedError("diverged-model", f"{story}, with {self._rates()}")
            logger.warning("%s: they count as wrong", story)
        unscored = [one for found in self._evaluations.values() for one in found.unscored]
        raised = [one for one in unscored if one.cause is Cause.RAISED]
        if raised and not any(score.examples for score in scores.values()):
            name, silo = self._job.settings.model["name"], self._job.data.silos[raised[0].silo].name
            raise UserCodeError(
                "model-raised", f"model {name}: round {summary.round}, evaluating silo {silo}: {raised[0].reason}"
            )

    def _publish_checkpoint(self) -> None:
        """Publish the checkpoint once all its parts are on disk and its round is recorded."""
        if self._checkpoint is None or self._summary is not None or not set(self._saved) >= self._checkpoint[1]:
            return
        plan, _ = self._checkpoint
        self._checkpoint = None
        digests = [found.model_sha256 for found in self._evaluations.values() if found.model_sha256]
        if not digests:
            logger.warning("checkpoint of round %d given up: nobody could tell the model's digest", plan.round - 1)
            return
        manifest = checkpoint.Manifest(
            schema=checkpoint.SCHEMA,
            round=plan.round - 1,
            counted=self._counted,
            voids=self._voids,
            parameters=self._slices[-1].stop,
            bounds=[(span.start, span.stop) for span in self._slices],
            model_sha256=digests[0],
            settings=self._settings,
            data_digest=self._job.data.digest,
            files={entry.file: entry.sha256 for saved in self._saved.values() for entry in saved.files},
        )
        changed = [
            checkpoint.silo_name(silo) for silo in plan.carried
            if self._last_checkpoint is None
            or manifest.files[checkpoint.silo_name(silo)] != self._last_checkpoint.files[checkpoint.silo_name(silo)]
        ]  # fmt: skip
        if changed:
            logger.warning("no checkpoint of round %d: %s changed in the one before", manifest.round, ", ".join(changed))
            self._overdue = True
            return
        checkpoint.publish(self._job.folder.checkpoints, manifest, self._job.settings.rounds.keep_checkpoints)
        self._last_checkpoint = manifest
        slowest = max(saved.seconds for saved in self._saved.values())
        logger.info("checkpoint of round %d written (slowest rank %.3f s)", manifest.round, slowest)


_NONE = tallies.Verdict((), (), {}, quorum_met=False)


def _replace(struct: T, **changes: object) -> T:
    return msgspec.structs.replace(struct, **changes)


def _compare(recorded: Summary, found: Summary, changes: Sequence[str]) -> None:
    """Compare a replayed round with the recorded one.

    Raises
    ------
    ReplayError
        The models differ.
    """
    if found.model_sha256 == recorded.model_sha256 or not recorded.model_sha256:  # nobody lived to tell it
        return
    shards = "with another number of servers it cannot be said which shard"
    if len(found.shard_sha256) == len(recorded.shard_sha256):
        pairs = zip(found.shard_sha256, recorded.shard_sha256, strict=True)
        different = [str(index) for index, (now, then) in enumerate(pairs) if now != then]
        shards = f"shard {different[0]}" if different else "no shard: the recorded model digest itself was changed"
    if missing := sorted(set(recorded.accepted) - set(found.accepted)):
        shards += f"; not accepted this time: silos {', '.join(map(str, missing))}"
    raise ReplayError(
        "replay-differs",
        f"different: round {found.round}, {shards}: the model is {found.model_sha256[:16]}…, "
        f"recorded is {recorded.model_sha256[:16]}…; "
        f"environment: {'; '.join(changes) or 'torch, CPU, numpy and MPI are those of the record'}",
    )
