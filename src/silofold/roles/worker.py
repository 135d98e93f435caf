"""The worker: hosts silos, trains in them, and sends weighted updates, never data."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from silofold import faults, seeds, topology
from silofold.aggregation import exact
from silofold.core.user_code import is_none_of_its, lacks_memory, token, told
from silofold.data.silo import SPLITS
from silofold.errors import CheckpointError, SilofoldError
from silofold.messages import (
    Cause,
    Evaluation,
    Moved,
    Report,
    Reports,
    Score,
    Tally,
    Unscored,
    sha256,
)  # fmt: skip
from silofold.record import rundir, silo_state
from silofold.roles.listening import Listener
from silofold.roles.shelf import UNREADABLE
from silofold.roles.total import Total, largest
from silofold.training import build, flat, local, start_check
from silofold.training.side_by_side import Member

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from silofold.comm.world import World
    from silofold.data.silo import SplitName
    from silofold.messages import Plan
    from silofold.roles.job import Job
    from silofold.roles.shelf import Shelf
    from silofold.training.side_by_side import Trainer

logger = logging.getLogger(__name__)
MOMENTUM = "momentum"
"""Name of it in a silo's state."""
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
        self._world, self._job, self._silos, self._draws = world, job, silos, draws
        self._trainer, self._model = trainer, trainer.model
        self._listener = Listener(world, job)
        self._title = job.layout.title(world.rank)
        self.vector, self._total = vector, Total(room, self._model.vector.device)
        self._start = self._model.vector
        """(P,) float32, the model that has arrived, on the device."""
        self._broken = ""
        self._met: set[tuple[int, str]] = set()
        """Silos and kinds of exceptions that have been warned of."""
        self._faults = faults.planned(self._title)
        self._rows: dict[int, NDArray[np.float32]] = {}
        self._kept: dict[int, tuple[int, torch.Tensor]] = {}
        """Round and (T,) float32 momentum of silos that keep it, as far as they were trained here."""
        self._new: dict[int, torch.Tensor] = {}
        """Momentum of silos that were trained in this round: it is theirs if their updates count."""
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
            self.vector = flat.aligned(self._model.size)  # late bytes may still land in the old one
            if plan.last:
                self._world.say(Evaluation(plan.round, "", 0.0, 0.0, (), arrived=False), topology.SCHEDULER)
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
        self._world.say(evaluation, topology.SCHEDULER)
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
        self._total.clear()
        self._rows.clear()
        self._new.clear()
        self._kept = {silo: kept for silo, kept in self._kept.items() if silo in {*plan.hosted, *plan.dealt}}
        self._reports = tuple(self._train_all(plan))
        self._total.to_host()
        seconds = time.perf_counter() - begin
        self._world.say(Reports(plan.round, seconds, self._reports), topology.SCHEDULER)
        for report in self._reports:
            if not report.finished:
                logger.warning("round %d silo %d: failed: %s", plan.round, report.silo, report.reason)
        return self._listener.tally()

    def update(self, tally: Tally) -> NDArray[Any]:
        """Return the weighted sum of this worker's updates, or each of them."""
        if self._job.uplink.sums:
            return self._total.room
        rows = [self._rows[silo] for silo in sorted(self._rows) if silo in tally.silos]
        return np.stack(rows) if rows else np.empty((0, len(self.vector)), np.float32)

    def settle(self, tally: Tally, moved: NDArray[Any], broken: str) -> Tally:
        """Tell whether this worker's part has moved, and wait for what follows."""
        del moved
        if tally.certain:
            return tally.as_settled()
        if self._world.rank in tally.members.workers:
            self._world.say(Moved(tally.round, tally.attempt, broken), topology.SCHEDULER)
        return self._listener.word(tally)

    def apply(self, sent: NDArray[Any], tally: Tally) -> None:
        """Keep the momentum of the silos whose updates count, on disk too: another worker may train them next."""
        del sent
        for silo in tally.silos if self._new else ():
            self._kept[silo] = tally.round, self._new[silo]
            silo_state.write(self._job.folder.states, silo, tally.round, _arrays(self._new[silo]))

    def record(self, plan: Plan, tally: Tally) -> None:
        """Nothing: what is worth recording is logged when the model has been evaluated."""

    def _score(self, silo: int, number: int) -> Score | Unscored:
        """Evaluate the model that has arrived; a fault costs this silo's score alone."""
        try:
            samples = self._silos.take((silo, "test"))
        except UNREADABLE as fault:
            logger.warning("silo %d: cannot be evaluated: %s", silo, fault)
            return Unscored(silo, Cause.MEMORY if lacks_memory(fault) else Cause.DATA, str(fault))
        try:
            seed = seeds.torch_seed(self._job.settings.seed, "evaluate", number, silo) if self._draws else None
            return Score(silo, *local.evaluate(self._model, samples, seed))
        except SilofoldError:  # the model returns what it must not, which no other silo can mend
            raise
        except BaseException as fault:
            if is_none_of_its(fault):
                raise
            again = (silo, token(fault)) in self._met  # the end of the run tells it once more
            self._met.add((silo, token(fault)))
            logger.log(logging.INFO if again else logging.WARNING, "silo %d: cannot be evaluated: %s", silo, told(fault))
            logger.info("silo %d", silo, exc_info=True)  # the file alone
            return Unscored(silo, Cause.MEMORY if lacks_memory(fault) else Cause.RAISED, told(fault))

    def _train_all(self, plan: Plan) -> Iterator[Report]:
        """Train silos in turn, in groups of ``local.side_by_side``; those that cannot be read are in none."""
        group: list[tuple[int, local.Samples, torch.Tensor | None]] = []
        states = dict(zip(plan.dealt, plan.states, strict=bool(plan.states)))
        for silo, split in self._silos.in_turn(_of("train", plan.dealt), _of("train", plan.upcoming)):
            try:
                samples = self._silos.take((silo, split))
                momentum = self._momentum_of(silo, states[silo]) if states else None
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
        settings = self._job.settings
        self._model.load(self._start)
        members = [Member(samples, kept, (settings.seed, plan.round, silo)) for silo, samples, kept in group]
        try:
            planned = faults.in_training(self._faults, plan.round)
            outcomes = self._trainer.train(members, self._planned + plan.window)
        except SilofoldError:  # the model has become another one: no later round would be sound
            raise
        except BaseException as fault:
            if is_none_of_its(fault):
                raise
            logger.info("silos %s", [silo for silo, *_ in group], exc_info=True)
            off = local.broken_off(fault, 0.0)
            for silo, samples, _ in group:
                yield _failed(silo, len(samples.labels), off.reason, off.cause, off.raised)
            return
        for index, ((silo, *_), member, done) in enumerate(zip(group, members, outcomes, strict=True)):
            self._trainer.take(index)
            yield self._report(silo, member, done, plan, planned)

    def _momentum_of(self, silo: int, number: int) -> torch.Tensor:
        """Make the momentum that a silo begins with: what it kept after a round, 0 for none, whoever trained it then."""
        if not number:
            return torch.zeros_like(self._model.gradient)
        known, kept = self._kept.get(silo, (0, self._model.gradient))
        if known == number:
            return kept.clone()
        found = silo_state.read(self._job.folder.states, silo, number, len(self._model.gradient))
        if set(found) != {MOMENTUM}:
            raise CheckpointError("checkpoint-read", f"silo {silo}: found {sorted(found)} in its state, expected {MOMENTUM}")
        return torch.from_numpy(found[MOMENTUM]).to(self._model.vector.device)

    def _report(self, silo: int, member: Member, done: local.Outcome, plan: Plan, planned: str) -> Report:
        """Add up what the model has become in a silo, if it counts, and tell of it."""
        examples = len(member.samples.labels)
        update = self._model.vector.sub_(self._start)  # in place: the model is loaded anew before it is used again
        if planned == "nan":
            update[0] = math.nan
        reason, cause, state = done.reason, done.cause, ""
        weight = self._job.strategy.weight(examples)
        if not reason and (objection := self._objection(update, plan.total_weight)):
            reason, cause = objection, Cause.DIVERGED
        if not reason:
            if self._job.uplink.sums:
                self._total.add(update, weight)
            else:
                self._rows[silo] = update.cpu().numpy().copy()
            if member.momentum is not None:
                self._new[silo] = member.momentum
                state = silo_state.digest(_arrays(member.momentum))
        elements = len(update) - (planned == "short")
        examples += planned == "lie"
        return Report(
            silo, examples, done.steps, done.seen, done.loss_sum if not reason else 0.0, done.correct, done.seconds,
            finished=not reason, elements=elements, reason=reason, cause=cause, state=state,
        )  # fmt: skip

    def _objection(self, update: torch.Tensor, total_weight: int) -> str:
        """Say why a (P,) float32 update cannot be added; empty if it can."""
        extreme = largest(update)
        if math.isfinite(extreme) and (not self._job.uplink.exact or exact.in_range(extreme, total_weight)):
            return ""
        at = int(torch.nan_to_num(update, nan=math.inf).abs().argmax())
        element, moved = self._job.elements.at(at), float(update[at])
        if not math.isfinite(extreme):
            return f"the update is not finite: {element} moved by {moved:g}"
        return exact.out_of_range(element, moved, total_weight)

    def _save(self, plan: Plan, *, first: bool) -> None:
        """Write what the plan or the settings ask for: the worker's own copy, the final model."""
        folder, settings, number = self._job.folder, self._job.settings, plan.round - 1
        if settings.rounds.worker_checkpoints and number:
            path = folder.worker_checkpoint(self._title, settings.local.batch_size, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            rundir.write_atomically(path, self._file())
        if plan.last and first:
            rundir.write_atomically(folder.model, self._file())

    def _file(self) -> bytes:
        """Encode the model as the file of a state dict, which code of the user's own may have a part in."""
        name = self._job.settings.model["name"]
        with build.running(name):
            start_check.look_at_file(self._model, name)
            return self._model.encode()

    def _log(self, number: int, scores: list[Score]) -> None:
        """Tell how the silos fared that were trained or evaluated here: not always the same ones."""
        trained = {report.silo: report for report in self._reports if report.seen}
        tested = {score.silo: score for score in scores}
        for silo in sorted(trained.keys() | tested.keys()):
            told = []
            if report := trained.get(silo):
                told += [f"loss: {report.loss_sum / report.seen:.4f}", f"train acc: {report.correct / report.seen:.4f}"]
            if score := tested.get(silo):
                accuracy = f"{score.correct / score.examples:.4f}" if score.examples else "n/a"
                told += [f"test acc: {accuracy} of {score.examples}"]
            logger.info("round %d silo %s: %s", number, self._job.data.silos[silo].name, ", ".join(told))


def _arrays(momentum: torch.Tensor) -> dict[str, NDArray[np.float32]]:
    return {MOMENTUM: momentum.cpu().numpy()}


def _of(split: SplitName, silos: Sequence[int]) -> list[SiloSplit]:
    return [(silo, split) for silo in silos]


def _failed(silo: int, examples: int, reason: str, cause: Cause, raised: str = "") -> Report:
    """Report a silo that has not been trained."""
    return Report(
        silo, examples, 0, 0, 0.0, 0, 0.0, finished=False, elements=0, reason=reason, cause=cause, raised=raised
    )  # fmt: skip
