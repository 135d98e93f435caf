"""The scheduler, rank 0: draws the cohort, keeps the deadlines, tallies, records. It holds no parameters."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, TypeVar

import msgspec
import numpy as np

from silofold import plugins, seeds
from silofold.aggregation import tally as tallies
from silofold.comm import waiting
from silofold.errors import ReplayError, RequeueError
from silofold.evaluation.accuracy import wilson
from silofold.messages import (
    Applied,
    Evaluation,
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
from silofold.record import checkpoint
from silofold.roles.job import GRACE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from silofold.aggregation.tally import Verdict
    from silofold.comm.world import World
    from silofold.messages import AnyMessage, Report
    from silofold.protocols import Cohort, Sink
    from silofold.record.history import History
    from silofold.roles.job import Job

logger = logging.getLogger(__name__)
T = TypeVar("T", bound=msgspec.Struct)


class Scheduler:
    """Rank 0.

    Parameters
    ----------
    world
        The ranks.
    job
        The run.
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
        history: History,
        sinks: Sequence[Sink],
        settings: dict[str, Any],
        slices: Sequence[slice],
        resumed: checkpoint.Manifest | None,
        changes: Sequence[str],
    ) -> None:
        self._world, self._job, self._history, self._sinks = world, job, history, sinks
        self._settings, self._slices, self._changes = settings, slices, changes
        self._cohort: Cohort = plugins.load("cohort", job.settings.cohort)
        self.vector: NDArray[np.float32] = np.empty(0, np.float32)
        self._hosted = dict(zip(job.layout.worker_ranks, job.hosted, strict=True))
        self._number, self._counted, self._voids = job.start_round, job.counted, job.voids
        self._ready: set[int] = set()
        self._late: set[int] = set()
        self._evaluations: dict[int, Evaluation] = {}
        self._reports: dict[int, Reports] = {}
        self._applied: dict[int, Applied] = {}
        self._saved: dict[str, Saved] = {}
        self._plan: Plan | None = None
        self._checkpoint: tuple[Plan, set[str]] | None = None
        self._last_checkpoint, self._overdue = resumed, False
        self._moved: dict[int, int] = {}
        """Round in which each silo's update was last accepted, since the start."""
        self._verdict: Verdict | None = None
        self._summary: Summary | None = None
        self._began = self._closed = 0.0

    # --- the round ---------------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """Wait for ready ranks, draw the cohort among them, tell everyone."""
        rounds, layout = self._job.settings.rounds, self._job.layout
        servers, workers = set(layout.server_ranks), set(layout.worker_ranks)
        # nobody waits for a worker that missed the last window: when it comes back it joins the round after
        self._hear(lambda: self._ready >= servers | (workers - self._late), rounds.start_window)
        present = sorted(self._ready & workers)
        silos = sorted(silo for rank in present for silo in self._hosted[rank])
        wanted = tallies.start_quorum(rounds.start_quorum, len(self._job.data.silos))
        if len(silos) < wanted or not self._ready >= servers:
            # late ones too get their chance before the job is given up
            self._hear(lambda: self._ready >= servers | workers, rounds.start_window)
            present = sorted(self._ready & workers)
            silos = sorted(silo for rank in present for silo in self._hosted[rank])
        if len(silos) < wanted or not self._ready >= servers:
            missing = ", ".join(layout.title(rank) for rank in sorted((servers | workers) - self._ready))
            raise RequeueError(
                f"round {self._number}: {len(silos)} silos were ready within rounds.start_window = {rounds.start_window} s, "
                f"rounds.start_quorum asks for {wanted}; missing: {missing}"
            )
        last = self._is_over()
        cohort = [] if last else self._draw(silos)
        carried = self._carried(set(range(len(self._job.data.silos))) - set(silos))
        plan = Plan(
            round=self._number,
            workers=tuple(present),
            cohort=tuple(cohort),
            total_weight=sum(self._job.strategy.weight(self._job.examples[silo]) for silo in cohort),
            window=rounds.update_window,
            evaluate=self._number > 1 and (last or (self._number - 1) % rounds.evaluate_every == 0),
            checkpoint=self._checkpoint_due(last=last, complete=carried is not None),
            carried=carried or (),
            carried_from=self._last_checkpoint.round if self._last_checkpoint else 0,
            last=last,
        )
        self._begin(plan)
        for rank in (*layout.server_ranks, *present):
            self._world.say(plan, rank)
        self._ready -= servers | set(present)
        return plan

    def evaluate(self, plan: Plan) -> None:
        """Nothing yet: evaluations arrive while others still train. After the last round, wait for all of them."""
        if plan.last:
            complete = self._hear(
                lambda: len(self._evaluations) == len(plan.workers) and self._checkpoint is None, plan.window + GRACE
            )
            if not complete:
                raise RequeueError("the last model was not evaluated and saved in time; resume the run")

    def train(self, plan: Plan) -> Tally:
        """Wait for the reports until the update window ends, and decide what counts."""
        rounds = self._job.settings.rounds
        self._hear(lambda: len(self._reports) == len(plan.workers), plan.window + GRACE)
        self._late = set(plan.workers) - set(self._reports)
        for rank in self._late:
            logger.warning("round %d: no report of %s in time", plan.round, self._job.layout.title(rank))
        reports = {report.silo: report for message in self._reports.values() for report in message.reports}
        self._verdict = verdict = tallies.judge(
            plan.cohort, reports, self._job.examples, self._job.strategy.weight, rounds.update_ratio, self._job.hosted
        )
        script = self._job.script.get(plan.round)
        met = verdict.quorum_met and bool(plan.cohort) if script is None else not script.void
        contributors = [rank for rank in plan.workers if set(self._hosted[rank]) & set(verdict.accepted)]
        tally = Tally(plan.round, tuple(contributors), verdict.accepted, verdict.weights, met)
        for rank in (*self._job.layout.server_ranks, *plan.workers):
            self._world.say(tally, rank)
        self._complete_summary()
        self._closed = time.monotonic()
        return tally

    def update(self, tally: Tally) -> NDArray[np.float32]:
        """Nothing: no model byte passes through here."""
        del tally
        return self.vector

    def apply(self, received: NDArray[np.generic], tally: Tally) -> None:
        """Wait until every server has moved its shard."""
        del received
        servers = self._job.layout.servers
        if not self._hear(lambda: len(self._applied) == servers, self._job.settings.rounds.update_window + GRACE):
            missing = sorted(set(range(servers)) - set(self._applied))
            raise RequeueError(f"round {tally.round}: no word of servers {missing} after the reduction; resume the run")

    def record(self, plan: Plan, tally: Tally) -> None:
        """Summarise the round, but for the evaluation: that comes with the next one."""
        self._summary = self._summarise(plan, tally)
        if tally.quorum_met:
            self._moved |= dict.fromkeys(tally.accepted, plan.round)
        self._number += 1
        self._voids = self._voids + 1 if self._summary.void else 0
        self._counted += not self._summary.void or self._job.settings.rounds.count_void
        if self._voids >= self._job.settings.rounds.max_void and not self._job.script:
            reasons = "; ".join(f"silo {silo}: {why}" for silo, why in (self._verdict or _NONE).refused.items())
            raise RequeueError(f"{self._voids} void rounds in a row (rounds.max_void); the last one: {reasons}")

    def close(self) -> None:
        """Close the record and the sinks."""
        self._history.close()
        for sink in self._sinks:
            sink.close()

    # --- listening -----------------------------------------------------------------------------------------------------

    def _hear(self, enough: Callable[[], bool], seconds: float) -> bool:
        """Take messages until there are enough; False if the time ran out first."""
        deadline = time.monotonic() + seconds
        while not enough():
            try:
                rank, message = self._world.hear(deadline)
            except waiting.Timeout:
                return False
            self._take(rank, message)
        return True

    def _take(self, rank: int, message: AnyMessage) -> None:
        current = self._plan.round if self._plan else 0
        match message:
            case Ready():
                self._ready.add(rank)
                self._late.discard(rank)
            case Evaluation() if message.round == current:
                self._evaluations[rank] = message
                if self._plan and len(self._evaluations) == len(self._plan.workers):
                    self._complete_summary()
            case Reports() if message.round == current:
                self._reports[rank] = message
            case Applied() if message.round == current:
                self._applied[message.shard] = message
            case Saved() if self._checkpoint and message.round == self._checkpoint[0].round - 1:
                self._saved[message.title] = message
            case _:
                logger.info("dropped: %s of %s comes too late", type(message).__name__, self._job.layout.title(rank))
        self._publish_checkpoint()

    # --- parts of the plan -----------------------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        if self._job.script:
            return self._number > max(self._job.script)
        return self._counted >= self._job.settings.rounds.count

    def _draw(self, silos: list[int]) -> list[int]:
        if self._job.script:
            return self._job.script[self._number].accepted
        return self._cohort.draw(silos, seeds.generator(self._job.settings.seed, "cohort", self._number))

    def _checkpoint_due(self, *, last: bool, complete: bool) -> bool:
        """Whether the arriving model is saved: not twice, and later while a silo's kept momentum is out of reach."""
        done, every = self._number - 1, self._job.settings.rounds.checkpoint_every
        due = last or self._overdue or bool(every and done % every == 0)
        if done < self._job.start_round or not due:
            return False
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
        self._began, self._plan, self._verdict = now, plan, None
        self._evaluations, self._reports, self._applied = {}, {}, {}
        if plan.checkpoint:
            # one that is still unfinished a whole period later is overtaken: its files are of no use any more
            titles = {self._job.layout.title(rank) for rank in (*self._job.layout.server_ranks, *plan.workers)}
            self._checkpoint, self._saved = (plan, titles), {}

    # --- the record ------------------------------------------------------------------------------------------------------

    def _summarise(self, plan: Plan, tally: Tally) -> Summary:
        verdict = self._verdict or _NONE
        trained = {report.silo: report for message in self._reports.values() for report in message.reports}
        counted = [trained[silo] for silo in tally.accepted]
        seen = sum(report.seen for report in counted)
        parameters = self._slices[-1].stop
        width = 8 if self._job.settings.reduction == "exact" and self._job.strategy.needs == "sum" else 4
        senders = len(tally.workers) if self._job.strategy.needs == "sum" else len(tally.accepted)
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
            silos=[self._silo_summary(silo, trained.get(silo), verdict) for silo in range(len(self._job.data.silos))],
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
            bytes_down=4 * parameters * len(plan.workers),
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

    def _silo_summary(self, silo: int, report: Report | None, verdict: Verdict) -> SiloSummary:
        info = self._job.data.silos[silo]
        return SiloSummary(
            silo=silo,
            name=info.name,
            accuracy=None,
            test_examples=info.test.examples,
            train_examples=info.train.examples,
            train_loss=report.loss_sum / report.seen if report and report.finished and report.seen else None,
            reason=verdict.refused.get(silo, ""),
        )

    def _complete_summary(self) -> None:
        """Add the evaluation of the model after the round, and record it."""
        if self._summary is None:
            return
        scores: dict[int, Score] = {s.silo: s for found in self._evaluations.values() for s in found.scores}
        correct, examples = (sum(getattr(s, key) for s in scores.values()) for key in ("correct", "examples"))
        low, high = wilson(correct, examples) if examples else (None, None)
        silos = [
            _replace(silo, accuracy=scores[silo.silo].correct / scores[silo.silo].examples)
            if silo.silo in scores and scores[silo.silo].examples else silo
            for silo in self._summary.silos
        ]  # fmt: skip
        summary = _replace(
            self._summary,
            accuracy=correct / examples if examples else None,
            accuracy_low=low,
            accuracy_high=high,
            # in the order of the silos, not of arrival: float sums depend on it
            test_loss=sum(scores[silo].loss_sum for silo in sorted(scores)) / examples if examples else None,
            test_examples=examples,
            silos=silos,
            model_sha256=next((found.model_sha256 for found in self._evaluations.values() if found.model_sha256), ""),
        )
        self._summary = None
        self._history.append(summary)
        for sink in self._sinks:
            sink.write(summary)
        logger.info("round %d: %s", summary.round, "void" if summary.void else f"accuracy {summary.accuracy}")
        if self._job.script:
            _compare(self._job.script[summary.round], summary, self._changes)

    def _publish_checkpoint(self) -> None:
        """Publish the checkpoint once all its parts are on disk and its round is recorded."""
        if self._checkpoint is None or self._summary is not None or set(self._saved) < self._checkpoint[1]:
            return
        plan, _ = self._checkpoint
        self._checkpoint = None
        digests = [found.model_sha256 for found in self._evaluations.values() if found.model_sha256]
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
    if found.model_sha256 == recorded.model_sha256:
        return
    shards = "with another number of servers it cannot be said which shard"
    if len(found.shard_sha256) == len(recorded.shard_sha256):
        pairs = zip(found.shard_sha256, recorded.shard_sha256, strict=True)
        different = [str(index) for index, (now, then) in enumerate(pairs) if now != then]
        shards = f"shard {different[0]}" if different else "no shard: the recorded model digest itself was changed"
    if missing := sorted(set(recorded.accepted) - set(found.accepted)):
        shards += f"; not accepted this time: silos {', '.join(map(str, missing))}"
    raise ReplayError(
        f"different: round {found.round}, {shards}: the model is {found.model_sha256[:16]}…, "
        f"recorded is {recorded.model_sha256[:16]}…; "
        f"environment: {'; '.join(changes) or 'torch, CPU, numpy and MPI are those of the record'}"
    )
