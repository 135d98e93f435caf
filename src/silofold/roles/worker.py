"""The worker: hosts silos, trains in them, and sends weighted updates, never data."""

from __future__ import annotations

import functools
import logging
import math
import time
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from silofold.core import files, topology
from silofold.core.digest import sha256
from silofold.core.memory import aligned
from silofold.core.messages import Evaluation, Moved, Reports, Tally
from silofold.core.reports import Cause, Report, Score, Unscored
from silofold.core.user_code import lacks_memory
from silofold.data.silo import SPLITS
from silofold.roles import fault_injection as faults
from silofold.roles.listening import Listener
from silofold.roles.momenta import Momenta
from silofold.roles.shelf import UNREADABLE
from silofold.roles.total import Total, Updates
from silofold.training.member import Member
from silofold.training.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from silofold.comm.world import World
    from silofold.core.messages import Plan
    from silofold.data.silo import SplitName
    from silofold.roles.job import Job
    from silofold.roles.shelf import Shelf
    from silofold.training import local
    from silofold.training.side_by_side import Trainer

logger = logging.getLogger(__name__)
SiloSplit: TypeAlias = "tuple[int, SplitName]"
"""The index of a silo, and one of its splits: they are read apart, since training needs the one and evaluation the other."""


class Worker:
    """A rank that trains, or a standby that will when silos are given to it.

    Parameters
    ----------
    world
        The ranks.
    job
        The run.
    trainer
        Holds the run's model and trains it.
    vector
        (P,) float32 that receives the global model, or the node's memory in which it arrives.
    room
        (P,) int64 or float32 in which the weighted sum of the updates is left.
    silos
        Their splits on the training device.
    draws
        Whether the model draws random numbers in evaluation.
    """

    def __init__(
        self,
        world: World,
        job: Job,
        trainer: Trainer,
        vector: NDArray[np.float32],
        room: NDArray[Any],
        silos: Shelf[SiloSplit, local.Samples],
        *,
        draws: bool,
    ) -> None:
        self._world, self._job, self._silos = world, job, silos
        self._session, self._model = Session(trainer, job.settings, draws=draws), trainer.model
        self._listener = Listener(world, job)
        self._title = job.layout.title(world.rank)
        self.vector, self._updates = vector, Updates(job, Total(room, self._model.vector.device))
        self._start = self._model.vector
        """(P,) float32, the model that has arrived, on the device."""
        self._broken = ""
        self._faults = faults.planned(self._title)
        self._momenta = Momenta(job.folder, self._model.gradient)
        self._reports: tuple[Report, ...] = ()
        self._planned = 0.0

    def plan(self) -> Plan:
        """Say ready and wait for the round's plan."""
        plan = self._listener.plan()
        self._planned = time.monotonic()
        return plan

    def evaluate(self, plan: Plan, broken: str) -> None:
        """Take in the model that has arrived, evaluate it on the hosted silos, and save what is asked for."""
        self._silos.host((silo, split) for silo in plan.hosted for split in SPLITS)
        self._broken = broken
        if broken:
            logger.warning("round %d: the model did not arrive: %s", plan.round, broken)
            self.vector = aligned(self._model.size)  # late bytes may still land in the old one
            if plan.last:
                self._world.send(Evaluation(plan.round, "", 0.0, 0.0, (), arrived=False), topology.SCHEDULER)
            return
        begin = time.monotonic()
        self._model.load(self.vector)
        on_gpu = self._model.vector.device.type != "cpu"
        self._start = self._model.vector.clone() if on_gpu else torch.from_numpy(self.vector)
        first = self._world.rank == plan.members.workers[0]
        # the second one's stands in when the first does not live to tell
        digest = sha256(self.vector.astype("<f4", copy=False).data) if self._world.rank in plan.members.workers[:2] else ""
        tested = self._silos.in_turn(_of("test", plan.hosted if plan.evaluate else ()))
        found = [self._score(silo, plan.round - 1) for silo, _ in tested]
        scores = [one for one in found if isinstance(one, Score)]
        unscored = tuple(one for one in found if isinstance(one, Unscored))
        now = time.monotonic()
        evaluation = Evaluation(plan.round, digest, now - begin, begin - self._planned, tuple(scores), unscored)
        if plan.last:  # the scheduler writes DONE when it has heard this
            self._save(plan, first=first)
        self._world.send(evaluation, topology.SCHEDULER)
        self._log(plan.round - 1, scores)
        if not plan.last:
            self._save(plan, first=first)

    def is_over(self, plan: Plan) -> bool:
        """Wait for the run's last word; False if its end is planned again."""
        del plan
        return self._listener.is_over()

    def train(self, plan: Plan) -> Tally:
        """Train the silos that are dealt to this worker, report, and wait for the tally."""
        begin = time.perf_counter()
        self._updates.clear()
        self._momenta.begin({*plan.hosted, *plan.dealt})
        self._reports = tuple(self._train_all(plan))
        self._updates.total.to_host()
        seconds = time.perf_counter() - begin
        self._world.send(Reports(plan.round, seconds, self._reports), topology.SCHEDULER)
        for report in self._reports:
            if not report.finished:
                logger.warning("round %d silo %d: failed: %s", plan.round, report.silo, report.reason)
        return self._listener.tally()

    def update(self, tally: Tally) -> NDArray[Any]:
        """Return the weighted sum of this worker's updates, or each of them."""
        return self._updates.of(tally.silos)

    def settle(self, tally: Tally, moved: NDArray[Any], broken: str) -> Tally:
        """Tell whether this worker's part has moved, and wait for what follows."""
        del moved
        if tally.certain:
            return tally.as_settled()
        if self._world.rank in tally.members.workers:
            self._world.send(Moved(tally.round, tally.attempt, broken), topology.SCHEDULER)
        return self._listener.word(tally)

    def apply(self, sent: NDArray[Any], tally: Tally) -> None:
        """Keep the momentum of the silos whose updates count, on disk too: another worker may train them next."""
        del sent
        self._momenta.settle(tally.silos, tally.round)

    def record(self, plan: Plan, tally: Tally) -> None:
        """Nothing: what is worth recording is logged when the model has been evaluated."""

    def _score(self, silo: int, number: int) -> Score | Unscored:
        """Evaluate the model that has arrived; a fault costs this silo's score alone."""
        try:
            samples = self._silos.take((silo, "test"))
        except UNREADABLE as fault:
            logger.warning("silo %d: cannot be evaluated: %s", silo, fault)
            return Unscored(silo, Cause.MEMORY if lacks_memory(fault) else Cause.DATA, str(fault))
        return self._session.score(silo, number, samples)

    def _train_all(self, plan: Plan) -> Iterator[Report]:
        """Train silos in turn, in groups of ``local.side_by_side``; those that cannot be read are in none."""
        group: list[tuple[int, local.Samples, torch.Tensor | None]] = []
        states = dict(zip(plan.dealt, plan.states, strict=bool(plan.states)))
        for silo, split in self._silos.in_turn(_of("train", plan.dealt), _of("train", plan.upcoming)):
            try:
                samples = self._silos.take((silo, split))
                momentum = self._momenta.of(silo, states[silo]) if states else None
            except UNREADABLE as fault:
                yield _failed(silo, 0, str(fault), Cause.MEMORY if lacks_memory(fault) else Cause.DATA)
                continue
            if self._broken:
                yield _failed(silo, 0, f"the model did not arrive: {self._broken}", Cause.ABSENT)
                continue
            group.append((silo, samples, momentum))
            if len(group) == self._job.settings.local.side_by_side:
                yield from self._train_group(group, plan)
                group = []
        if group:
            yield from self._train_group(group, plan)

    def _train_group(self, group: Sequence[tuple[int, local.Samples, torch.Tensor | None]], plan: Plan) -> Iterator[Report]:
        """Train silos from the model that has arrived; an exception costs the updates of all of them."""
        seed = self._job.settings.seed
        self._model.load(self._start)
        members = [Member(samples, kept, (seed, plan.round, silo)) for silo, samples, kept in group]
        planned = functools.partial(faults.in_training, self._faults, plan.round)
        outcomes = self._session.train(members, self._planned + plan.window, planned)
        for index, (member, done) in enumerate(zip(members, outcomes, strict=True)):
            silo, examples = member.key[-1], len(member.samples.labels)
            if done.cause in {Cause.RAISED, Cause.MEMORY}:
                yield _failed(silo, examples, done.reason, done.cause, done.raised)
                continue
            self._session.take(index)
            yield self._report(silo, member, done, plan, planned())

    def _report(self, silo: int, member: Member, done: local.Outcome, plan: Plan, planned: str) -> Report:
        """Add up what the model has become in a silo, if it counts, and tell of it."""
        examples = len(member.samples.labels)
        update = self._model.vector.sub_(self._start)  # in place: the model is loaded anew before it is used again
        if planned == "nan":
            update[0] = math.nan
        reason, cause, state = done.reason, done.cause, ""
        if not reason and (objection := self._updates.add(silo, examples, update, plan.total_weight)):
            reason, cause = objection, Cause.DIVERGED
        if not reason and member.momentum is not None:
            state = self._momenta.add(silo, member.momentum)
        elements = len(update) - (planned == "short")
        examples += planned == "lie"
        return Report(
            silo, examples, done.steps, done.seen, done.sums["loss"] if not reason else 0.0, int(done.sums["correct"]),
            done.seconds, finished=not reason, elements=elements, reason=reason, cause=cause, state=state,
        )  # fmt: skip

    def _save(self, plan: Plan, *, first: bool) -> None:
        """Write what the plan or the settings ask for: the worker's own copy, the final model."""
        folder, settings, number = self._job.folder, self._job.settings, plan.round - 1
        if settings.rounds.worker_checkpoints and number:
            path = folder.worker_checkpoint(self._title, settings.local.batch_size, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_atomically(path, self._session.encode())
        if plan.last and first:
            files.write_atomically(folder.model, self._session.encode())

    def _log(self, number: int, scores: list[Score]) -> None:
        """Tell how the silos fared that were trained or evaluated here: not always the same ones."""
        trained = {report.silo: report for report in self._reports if report.seen}
        tested, task = {score.silo: score for score in scores}, self._model.task
        for silo in sorted(trained.keys() | tested.keys()):
            told = []
            if report := trained.get(silo):
                found = task.measures({"loss": report.loss_sum, "correct": report.correct}, report.seen)
                told += [f"loss: {found['loss']:.4f}", f"train acc: {found['accuracy']:.4f}"]
            if score := tested.get(silo):
                found = task.measures({"loss": score.loss_sum, "correct": score.correct}, score.examples)
                accuracy = f"{found['accuracy']:.4f}" if found else "n/a"
                told += [f"test acc: {accuracy} of {score.examples}"]
            logger.info("round %d silo %s: %s", number, self._job.data.silos[silo].name, ", ".join(told))


def _of(split: SplitName, silos: Sequence[int]) -> list[SiloSplit]:
    return [(silo, split) for silo in silos]


def _failed(silo: int, examples: int, reason: str, cause: Cause, raised: str = "") -> Report:
    """Report a silo that has not been trained."""
    return Report(
        silo, examples, 0, 0, 0.0, 0, 0.0, finished=False, elements=0, reason=reason, cause=cause, raised=raised
    )  # fmt: skip
