"""The record of the rounds: what happened, as one summary a round, in ``metrics.jsonl``, the sinks and the checkpoints."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, TypeVar

import msgspec

from silofold.coordination import quorum
from silofold.core.errors import ReplayError
from silofold.core.reports import Cause, Score
from silofold.core.summary import Phases, RankPhases, SiloSummary, Summary
from silofold.record import checkpoint
from silofold.roles import faults, round_summary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from silofold.coordination.events import CommitCheckpoint, RoundClosed
    from silofold.core.messages import Evaluation
    from silofold.core.reports import Report
    from silofold.protocols import Sink
    from silofold.record.history import History
    from silofold.record.silo_state import Files
    from silofold.roles.job import Job

logger = logging.getLogger(__name__)
T = TypeVar("T", bound=msgspec.Struct)


class Recorder:
    """Writes down what the coordinator says has happened.

    Parameters
    ----------
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
    changes
        How the environment differs from that of the run that is replayed.
    states
        Files of what silos keep; none where they keep nothing.

    Attributes
    ----------
    durations : deque of float
        Seconds of the last ten rounds.
    voids : list of Summary
        Void rounds in a row up to the last one.
    """

    def __init__(
        self,
        job: Job,
        history: History,
        sinks: Sequence[Sink],
        settings: dict[str, Any],
        slices: Sequence[slice],
        changes: Sequence[str],
        states: Files | None,
    ) -> None:
        self._job, self._history, self._sinks = job, history, sinks
        self._settings, self._slices, self._changes, self._states = settings, slices, changes, states
        self._summary: Summary | None = None
        """Of the round before, as long as its model has not been evaluated."""
        self.voids = list(history.earlier[len(history.earlier) - job.voids :])
        self.durations: deque[float] = deque(maxlen=10)
        self._began = 0.0

    def begin(self, now: float, *, checkpoint: bool) -> None:
        """Take note that a round has been planned, and whether with a checkpoint: the one before ends with it."""
        if checkpoint and self._states:
            self._states.begin()
        if self._summary is not None:
            self._summary = _replace(self._summary, seconds=_replace(self._summary.seconds, total=now - self._began))
            self.durations.append(now - self._began)
        self._began = now

    def close_round(self, closed: RoundClosed) -> None:
        """Summarise a round, but for the evaluation: that comes with the next one."""
        plan, tally, verdict = closed.plan, closed.tally, closed.verdict
        trained = {report.silo: report for message in closed.reports.values() for report in message.reports}
        counted = [trained[silo] for silo in verdict.accepted]
        seen = sum(report.seen for report in counted)
        parameters = self._slices[-1].stop
        width = self._job.uplink.dtype.itemsize
        senders = self._job.uplink.senders(len(tally.members.workers), len(verdict.accepted))
        self._summary = Summary(
            round=plan.round,
            void=not tally.quorum_met,
            cohort=list(closed.cohort),
            accepted=list(verdict.accepted),
            train_loss=sum(report.loss_sum for report in counted) / seen if seen else None,
            accuracy=None,
            accuracy_low=None,
            accuracy_high=None,
            test_loss=None,
            test_examples=0,
            silos=self._silos_told(closed, trained),
            seconds=_phases(closed),
            ranks=self._rank_phases(closed),
            bytes_down=4 * parameters * len(plan.members.workers),
            bytes_up=width * parameters * senders if tally.quorum_met else 0,
            model_sha256="",
            states={silo: trained[silo].state for silo in verdict.accepted if tally.settled and trained[silo].state},
            shard_sha256=[closed.applied[shard].sha256 for shard in sorted(closed.applied)],
            window=plan.window,
            last_report=closed.last_report,
            timed_out=closed.timed_out,
        )
        self.voids = [*self.voids, self._summary] if self._summary.void else []
        if self._states:
            self._states.moved(self._summary.states, plan.round)

    def complete(self, evaluations: Mapping[int, Evaluation]) -> None:
        """Add the evaluation of the model after the round, and record it.

        Raises
        ------
        ReplayError
            It is a replay, and the model is not that of the record.
        DivergedError, UserCodeError
            The model does not answer any more.
        """
        if self._summary is None:
            return
        scores: dict[int, Score] = {s.silo: s for found in evaluations.values() for s in found.scores}
        unscored = [one for found in evaluations.values() for one in found.unscored]
        digest = next((found.model_sha256 for found in evaluations.values() if found.model_sha256), "")
        summary = round_summary.evaluated(self._summary, scores.values(), unscored, digest)
        self._summary = None
        self._history.append(summary)
        for sink in self._sinks:
            sink.write(summary)
        accuracy = "n/a" if summary.accuracy is None else summary.accuracy
        logger.info("round %d: %s", summary.round, "void" if summary.void else f"accuracy {accuracy}")
        if self._job.script:
            _compare(self._job.script[summary.round], summary, self._changes)
        faults.look_at_answers(self._job, summary, scores, evaluations.values())

    def commit(self, done: CommitCheckpoint) -> None:
        """Publish a checkpoint whose parts are all on disk."""
        manifest = checkpoint.Manifest(
            schema=checkpoint.SCHEMA,
            round=done.round,
            counted=done.counted,
            voids=done.voids,
            parameters=self._slices[-1].stop,
            bounds=[(span.start, span.stop) for span in self._slices],
            model_sha256=done.model_sha256,
            settings=self._settings,
            data_digest=self._job.data.digest,
            files=done.files,
            states=done.states,
        )
        checkpoint.publish(self._job.folder.checkpoints, manifest, self._job.settings.rounds.keep_checkpoints)
        if self._states:
            self._states.published()
        logger.info("checkpoint of round %d written (slowest rank %.3f s)", manifest.round, done.seconds)

    def check(self) -> None:
        """See that the record is still there.

        Raises
        ------
        RunFolderError
            The run folder is gone.
        """
        self._history.check()

    def close(self) -> None:
        """Close the record and the sinks."""
        self._history.close()
        for sink in self._sinks:
            sink.close()

    def _rank_phases(self, closed: RoundClosed) -> list[RankPhases]:
        layout = self._job.layout
        servers = [
            RankPhases(role=layout.title(rank), reduce=found.reduce_seconds, apply=found.apply_seconds)
            for shard, rank in enumerate(layout.server_ranks) if (found := closed.applied.get(shard))
        ]  # fmt: skip
        workers = [
            RankPhases(
                role=layout.title(rank),
                broadcast=found.broadcast_seconds,
                evaluate=found.seconds,
                train=closed.reports[rank].seconds if rank in closed.reports else 0.0,
            )
            for rank, found in sorted(closed.evaluations.items())
        ]
        return servers + workers

    def _silos_told(self, closed: RoundClosed, trained: Mapping[int, Report]) -> list[SiloSummary]:
        """Tell of every silo; there may be thousands, of which few had a part in the round."""
        told, refused = self._job.untold.copy(), closed.verdict.refused
        for silo in {*closed.cohort, *trained, *refused}:
            report, rank = trained.get(silo), closed.dealt.get(silo)
            worker = "" if rank is None else self._job.layout.title(rank)
            cause = quorum.cause_of(report, refused=silo in refused, dead=rank in closed.dead)
            told[silo] = _replace(
                told[silo],
                train_loss=report.loss_sum / report.seen if report and report.finished and report.seen else None,
                reason=f"{worker} died" if cause is Cause.DEAD else refused.get(silo, ""),
                failed=quorum.own_fault(report),
                cause=cause,
                raised=report.raised if report else "",
                worker=worker,
            )
        return told


def _phases(closed: RoundClosed) -> Phases:
    """Say where the seconds of a round went, but for its total."""
    evaluations, applied = closed.evaluations.values(), closed.applied.values()
    arrivals = [evaluation.broadcast_seconds + evaluation.seconds for evaluation in evaluations]
    spans = [message.seconds for message in closed.reports.values()]
    busy = min((a + s for a, s in zip(arrivals, spans, strict=False)), default=0.0)
    return Phases(
        broadcast=max((evaluation.broadcast_seconds for evaluation in evaluations), default=0.0),
        evaluate=max((evaluation.seconds for evaluation in evaluations), default=0.0),
        train=max(spans, default=0.0),
        wait=max(0.0, closed.tallied - closed.began - busy),
        reduce=max((message.reduce_seconds for message in applied), default=0.0),
        apply=max((message.apply_seconds for message in applied), default=0.0),
        total=0.0,
    )


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
        _compare_states(recorded, found)
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


def _compare_states(recorded: Summary, found: Summary) -> None:
    """Compare what silos keep with the record, where that tells it.

    Raises
    ------
    ReplayError
        A silo keeps something else.
    """
    pairs = {silo: (state, found.states.get(silo)) for silo, state in recorded.states.items()}
    if differs := [silo for silo, (then, now) in pairs.items() if now != then]:
        raise ReplayError(
            "replay-differs",
            f"different: round {found.round}: the model is that of the record, and silos {differs[:3]} keep another state",
        )
