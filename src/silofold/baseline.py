"""``silofold baseline local | central``: what federating is measured against, recorded like a run.

``local`` trains one model a silo, each on its own images alone. ``central`` trains one model on the images of all silos
together, in as many steps as the silos take together, with batches of the same sizes. Model, seed, local training and
rounds are those of the settings; cohort, strategy and server optimizer have no part in it. No MPI: the models are trained
in processes of this machine, each of which ends by itself when the first one is gone.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec
import numpy as np

from silofold import config
from silofold.core import console, files, plugins, recipes, seeds, topology, warned
from silofold.core.digest import sha256
from silofold.core.endings import DONE
from silofold.core.error_table import ERRORS
from silofold.core.errors import (
    CheckpointError,
    ConfigError,
    DivergedError,
    RequeueError,
    RunFolderError,
    SilofoldError,
    UserCodeError,
)  # fmt: skip
from silofold.core.fingerprint import difference
from silofold.core.reports import Cause, Score
from silofold.core.summary import Phases, RankPhases, SiloSummary, Summary
from silofold.core.user_code import is_none_of_its
from silofold.data import silo as silos
from silofold.evaluation import measures
from silofold.job import tell
from silofold.job.request import Request, read_settings
from silofold.record import array_files, checkpoint, control, history, whole
from silofold.record.rundir import RunFolder
from silofold.training import build, device, instruction_set, local, start_check

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection

    from numpy.typing import NDArray

    from silofold.protocols import Sink
    from silofold.training.flat import FlatModel

PLAIN = ("cohort", "strategy", "server_optimizer")
"""Plug-ins of a federated round, which a baseline leaves at their defaults."""


@dataclass(frozen=True)
class Work:
    """What is trained: the same in every process.

    Attributes
    ----------
    settings
        The resolved settings.
    folder, data
        The silos.
    groups
        Silos that each model trains on.
    """

    settings: config.Settings
    folder: Path
    data: silos.Manifest
    groups: tuple[tuple[int, ...], ...]

    @property
    def steps(self) -> list[int]:
        """Training steps of each silo in a round: those of the federated run, and of the models that it is part of."""
        sizes = [silo.train.examples for silo in self.data.silos]
        return [local.steps_per_epoch(size, self.settings.local) * self.settings.local.epochs for size in sizes]

    @property
    def examples(self) -> list[int]:
        """Training images of each model."""
        return [sum(self.data.silos[silo].train.examples for silo in group) for group in self.groups]


class State(NamedTuple):
    """A model between two rounds: (P,) float32 parameters, and its (T,) float32 momentum where that is kept."""

    vector: NDArray[np.float32]
    momentum: NDArray[np.float32] | None


class Step(NamedTuple):
    """What a process says of one model's round."""

    state: State
    outcome: local.Outcome
    scores: tuple[Score, ...]
    train_seconds: float
    evaluate_seconds: float


def main(options: argparse.Namespace) -> int:
    """Train a baseline, or go on with one."""
    settings = _settings(options)
    folder = Path(settings.data.folder)
    data = silos.read_manifest(folder)
    everyone = tuple(range(len(data.silos)))
    groups = (everyone,) if options.kind == "central" else tuple((silo,) for silo in everyone)
    work = Work(settings, folder, data, groups)
    if options.workers is not None and options.workers < 1:
        raise ConfigError("topology-ranks", f"--workers {options.workers}: expected at least 1")
    sinks: list[Sink] = [plugins.load("sink", table) for table in settings.sinks]
    target = RunFolder(options.out)
    states, earlier = _begin(target, work, options.kind)
    workers = min(options.workers or len(os.sched_getaffinity(0)), len(groups))
    with _leaving_word(target), Crew(work, workers) as crew:
        target.write_record(_record(work, options.kind, len(earlier) + 1, crew))
        sys.stdout.write(
            f"baseline {options.kind}: {len(groups)} model{'s' * (len(groups) > 1)} of {crew.parameters:,} parameters, "
            f"processes: {workers}; {sum(work.steps)} steps a round; training on {crew.places[0]['device']}\n"
        )
        sys.stdout.flush()
        try:
            last = _play(target, work, crew, sinks, states, earlier)
        except OSError as fault:
            raise RunFolderError("run-write", f"{fault.filename or target.path}: {fault.strerror}") from None
        if faults := whole.unkept(target, last, model=len(groups) == 1):
            raise RunFolderError(
                "run-incomplete", f"{target.path}: all rounds are done, but not all is saved: {'; '.join(faults)}"
            )
    told = f"done: {settings.rounds.count} rounds, accuracy {tell.accuracy_told(last, data)}; run folder {target.path}"
    control.leave_word(target, DONE, told)
    files.write_atomically(target.done, f"{last.model_sha256}\n".encode())
    sys.stdout.write(f"{console.shown(told)}\n")
    return 0


@contextlib.contextmanager
def _leaving_word(target: RunFolder) -> Iterator[None]:
    """Leave word of the fault that ends a baseline, and none of an earlier one."""
    target.status.unlink(missing_ok=True)
    try:
        yield
    except SilofoldError as fault:
        control.leave_word(target, ERRORS[fault.id].ending, str(fault), fault.id)
        raise


def _play(
    target: RunFolder, work: Work, crew: Crew, sinks: list[Sink], states: Sequence[State | None], earlier: list[Summary]
) -> Summary:
    """Play the rounds that are left and return the last one."""
    rounds = work.settings.rounds
    record, played = history.History(target.metrics, earlier), list(earlier)
    for sink in sinks:
        sink.open(target.path, earlier)
    for number in range(len(earlier) + 1, rounds.count + 1):
        began = time.monotonic()
        steps = crew.play(number, states)
        states = after = [step.state for step in steps]
        summary = _summarise(work, number, crew.homes, steps, time.monotonic() - began)
        last = number == rounds.count
        record.append(summary)
        for sink in sinks:
            sink.write(summary)
        played.append(summary)
        _look(work, played, sum(score.unanswered for step in steps for score in step.scores))
        if last and len(after) == 1:
            files.write_atomically(target.model, crew.encode(after[0]))
        if last or (rounds.checkpoint_every and number % rounds.checkpoint_every == 0):
            _save(target, work, summary, after)
    record.close()
    for sink in sinks:
        sink.close()
    if len(states) == 1 and states[0] is not None:
        files.write_atomically(target.model, crew.encode(states[0]))
    return history.read(target.metrics)[-1]


def _look(work: Work, played: Sequence[Summary], unanswered: int) -> None:
    """See that every model trains and answers, since no other rank could make up for one that does not.

    Parameters
    ----------
    work
        What is trained.
    played
        The rounds up to now.
    unanswered
        Test images of the last one without a finite logit.

    Raises
    ------
    UserCodeError, DivergedError, RequeueError
        A model failed in ``rounds.max_void`` rounds in a row, or in all there are; or most images are without an answer.
    """
    rounds, last = work.settings.rounds, played[-1]
    rate = f"local.lr = {work.settings.local.lr:g}"
    if 2 * unanswered > last.test_examples:
        raise DivergedError(
            "diverged-model",
            f"round {last.round}: no finite logit for {unanswered} of {last.test_examples} test images, with {rate}",
        )
    window = min(rounds.max_void, rounds.count)
    recent = [summary.silos for summary in played[-window:]]
    if len(recent) < window:
        return
    failed = set.intersection(*({one.silo for one in silos if one.reason} for silos in recent))
    for one in [one for one in last.silos if one.silo in failed][:1]:
        story = f"round {last.round}, silo {one.name}: {one.reason}; so in {window} rounds in a row (rounds.max_void)"
        if one.cause is Cause.RAISED:
            raise UserCodeError("model-raised", f"model {work.settings.model['name']}: {story}")
        if one.cause is Cause.DIVERGED:
            raise DivergedError("diverged-rounds", f"{story}, with {rate}")
        raise RequeueError("rounds-void", story)


def _settings(options: argparse.Namespace) -> config.Settings:
    """Read the settings of a recipe, or of a run, with the plug-ins of the federated round at their defaults."""
    like = options.recipe if options.recipe.is_dir() else None
    request = Request(
        recipe=None if like else options.recipe,
        overrides=tuple(options.set),
        data=options.data,
        out=options.out,
        replay=like,
    )
    settings = read_settings(request)
    for line in plugins.strangers(settings, ["model", "sink"]) if like else ():
        console.say(line)
    if like:  # a replay writes fewer checkpoints than the run that it follows
        rounds = recipes.assemble(RunFolder(like).read_record().settings, str(like), options.set).rounds
        settings = msgspec.structs.replace(settings, rounds=rounds)
    if not settings.data.folder:
        raise ConfigError("data-missing", "no data: give --data DIR, or data.folder in the settings")
    plain = config.Settings()
    return msgspec.structs.replace(settings, **{key: getattr(plain, key) for key in PLAIN})


# --- processes -------------------------------------------------------------------------------------------------------


class Crew:
    """Processes that train the models, each its own ones.

    Parameters
    ----------
    work
        What is trained.
    workers
        How many processes.

    Attributes
    ----------
    places
        Device, hardware, torch and threads of each process.
    parameters
        Parameters of one model.
    homes
        Models of each process.
    """

    def __init__(self, work: Work, workers: int) -> None:
        instruction_set.pin(work.settings.local.cpu_isa, for_children=True)
        os.environ.setdefault("PYTHONHASHSEED", "0")  # for the processes: a model may go through a set of names
        context = multiprocessing.get_context("spawn")
        self.homes = topology.assign_silos(work.examples, workers)
        self._pipes: list[Connection] = []
        self._processes = []
        for index, models in enumerate(self.homes):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, work, index, models), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        benches = [self._answer(index) for index in range(workers)]
        self.places: list[dict[str, str]] = [place for place, _, _ in benches]
        self.parameters: int = benches[0][1]
        if differs := difference([found for _, _, found in benches], [0] * workers):
            raise UserCodeError(
                "model-unequal",
                f"model {work.settings.model['name']}: processes {differs[0]} and {differs[1]} built different models of "
                f"one seed: they differ in {differs[2]}; expected all randomness from torch, numpy.random or random",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.terminate()

    def play(self, number: int, states: Sequence[State | None]) -> list[Step]:
        """Train every model for a round; None stands for a model as the seed makes it."""
        for pipe, models in zip(self._pipes, self.homes, strict=True):
            pipe.send((number, [states[model] for model in models]))
        steps: dict[int, Step] = {}
        for index, models in enumerate(self.homes):
            steps |= dict(zip(models, self._answer(index), strict=True))
        return [steps[model] for model in sorted(steps)]

    def encode(self, state: State) -> bytes:
        """Encode a model as a file for torch.load."""
        self._pipes[0].send((0, [state]))
        return bytes(self._answer(0))

    def _answer(self, index: int) -> Any:
        try:
            found = self._pipes[index].recv()
        except (EOFError, ConnectionError):
            raise RequeueError(
                "rank-lost", f"process {index} of the baseline is gone, out of memory perhaps; the same command goes on"
            ) from None
        if isinstance(found, SilofoldError):
            raise found
        return found


def serve(pipe: Connection, work: Work, index: int, models: tuple[int, ...]) -> None:
    """Train models for as long as the parent asks; the main function of a process.

    Parameters
    ----------
    pipe
        To the parent: rounds and states in, steps out.
    work
        What is trained.
    index
        Number of this process.
    models
        The models that are its own.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer; this process ends when the pipe does
    warned.settle(console.say if index == 0 else str)  # all build and try the same model: one of them tells
    try:
        bench = Bench(work, index, models)
        warned.settle(console.say)
        pipe.send((bench.place, bench.parameters, bench.fingerprint))
        while True:
            number, states = pipe.recv()
            if number:
                pipe.send([bench.play(number, model, state) for model, state in zip(models, states, strict=True)])
            else:
                pipe.send(bench.encode(states[0]))
    except SilofoldError as fault:
        pipe.send(fault)
    except (EOFError, ConnectionError):
        return


class Bench:
    """One process: the model on its device, and the images of the silos that it trains on.

    Parameters
    ----------
    work
        What is trained.
    index
        Number of the process: GPUs are dealt out in turn.
    models
        The models that are its own.

    Attributes
    ----------
    place
        What decides the bits here.
    parameters
        Parameters of a model.
    fingerprint
        What the start check found.
    """

    def __init__(self, work: Work, index: int, models: Sequence[int]) -> None:
        self._work = work
        place = device.choose(work.settings.device, index, work.settings.local.threads)
        self.place = device.describe(place)
        data, settings, name = work.data, work.settings, work.settings.model["name"]
        models_made = [
            build.build(settings.model, data.classes, data.image_shape, settings.seed, place)
            for _ in range(1 if index or ":" not in name else 2)
        ]
        self._model: FlatModel = models_made[0]
        sizes = start_check.shapes(
            [silo.train.examples for silo in data.silos], [silo.test.examples for silo in data.silos], settings.local
        )
        rest = settings.local, sizes, data.image_shape, len(data.classes), name
        self.fingerprint, self._draws = start_check.check(self._model, *rest)
        self.place["model_structure"] = self.fingerprint.structure
        for again in models_made[1:]:
            start_check.check_again(self._model, again, *rest)
        self._initial = self._model.host.copy()
        self.parameters = len(self._initial)
        self._samples, self._test = {}, {}
        for model in models:
            parts = [silos.read_split(work.folder, data.silos[silo], "train", data) for silo in work.groups[model]]
            images, labels = (np.concatenate([getattr(part, key) for part in parts]) for key in ("images", "labels"))
            self._samples[model] = local.load(images, labels, place)
            for silo in work.groups[model]:
                part = silos.read_split(work.folder, data.silos[silo], "test", data)
                self._test[silo] = local.load(part.images, part.labels, place)

    def play(self, number: int, model: int, state: State | None) -> Step:
        """Train a model for a round as a worker trains a silo, and evaluate it on the silos that are its own."""
        settings, began = self._work.settings, time.perf_counter()
        before = State(self._initial, None) if state is None else state
        self._model.load(before.vector)
        momentum = self._model.gradient.new_zeros(self._model.gradient.shape)
        if before.momentum is not None:
            momentum.copy_(momentum.new_tensor(before.momentum))
        rng = seeds.generator(settings.seed, "shuffle", number, model)
        local.seed_all(seeds.torch_seed(settings.seed, "dropout", number, model))
        try:
            outcome = self._train(model, momentum, rng)
        except SilofoldError:  # the model has become another one: no later round would be sound
            raise
        except BaseException as fault:  # a user's model may raise anything; the one before stands
            if is_none_of_its(fault):
                raise
            outcome = local.broken_off(fault, time.perf_counter() - began)
        self._model.to_host()
        if not outcome.reason and not np.isfinite(self._model.host).all():
            outcome = outcome._replace(reason="the model is no longer finite", cause=Cause.DIVERGED)
        if outcome.reason:
            after = before
            self._model.load(before.vector)
        else:
            after = State(self._model.host.copy(), momentum.cpu().numpy() if settings.local.keep_momentum else None)
        trained = time.perf_counter()
        due = number % settings.rounds.evaluate_every == 0 or number == settings.rounds.count
        tests = {silo: self._test[silo] for silo in self._work.groups[model]} if due else {}
        with build.running(settings.model["name"]):
            scores = tuple(self._score(silo, samples, number) for silo, samples in tests.items())
        return Step(after, outcome, scores, trained - began, time.perf_counter() - trained)

    def _score(self, silo: int, samples: local.Samples, number: int) -> Score:
        seed = seeds.torch_seed(self._work.settings.seed, "evaluate", number, silo) if self._draws else None
        return Score(silo, *local.evaluate(self._model, samples, seed))

    def _train(self, model: int, momentum: Any, rng: np.random.Generator) -> local.Outcome:
        """Train on one silo as a worker does; on several pooled, in pieces of the silos' sizes drawn anew in each epoch."""
        samples, settings = self._samples[model], self._work.settings.local
        group = self._work.groups[model]
        if len(group) == 1:
            return local.Training(self._model, samples, settings, momentum, rng, math.inf).to_end()
        once = msgspec.structs.replace(settings, epochs=1)
        cuts = np.cumsum([self._work.data.silos[silo].train.examples for silo in group])[:-1]
        done = []
        for _ in range(settings.epochs):
            for piece in np.split(rng.permutation(len(samples.labels)), cuts):
                part = local.Samples(samples.images[piece], samples.labels[piece])
                done.append(local.Training(self._model, part, once, momentum, rng, math.inf).to_end())
        steps, seen, correct = (sum(getattr(one, key) for one in done) for key in ("steps", "seen", "correct"))
        loss, seconds = (math.fsum(getattr(one, key) for one in done) for key in ("loss_sum", "seconds"))
        bad = next((one for one in done if one.reason), done[0])
        return local.Outcome(steps, seen, loss, correct, seconds, bad.reason, bad.cause)

    def encode(self, state: State) -> bytes:
        """Encode a model as a file for torch.load."""
        self._model.load(state.vector)
        name = self._work.settings.model["name"]
        with build.running(name):
            start_check.look_at_file(self._model, name)
            return self._model.encode()


# --- the record ------------------------------------------------------------------------------------------------------


def _begin(target: RunFolder, work: Work, kind: str) -> tuple[list[State | None], list[Summary]]:
    """Take the run folder, and go on after the newest sound checkpoint in it, if there is one."""
    if not target.claim():
        return [None] * len(work.groups), []
    record = target.read_record()
    changes = recipes.differences(recipes.resolve(record.settings, str(target.record)), work.settings)
    if record.baseline != kind:
        changes.append(f"the kind of run: {record.baseline} -> {kind}")
    if record.data_digest != work.data.digest:
        changes.append("data: other silos")
    if changes:
        raise RunFolderError("run-differs", f"{target.path}: the run in it was started with others: " + "; ".join(changes))
    checkpoint.clear_drafts(target.checkpoints)
    for path in checkpoint.found(target.checkpoints):
        try:
            manifest = checkpoint.read_manifest(path)
            checkpoint.check_files(path, manifest, manifest.files)
            checkpoint.check_model(path, manifest)
            states = [_state(path, manifest, model) for model in range(len(work.groups))]
        except CheckpointError as fault:
            console.say(f"{fault}; trying the checkpoint before")
            continue
        earlier = [summary for summary in history.read(target.metrics) if summary.round <= manifest.round]
        if len(earlier) == manifest.round:
            return list(states), earlier
    return [None] * len(work.groups), []


def _state(path: Path, manifest: checkpoint.Manifest, model: int) -> State:
    if len(manifest.bounds) <= model:
        raise CheckpointError(
            "checkpoint-fit", f"{path}: found {len(manifest.bounds)} models, expected one a group of silos"
        )
    vector = checkpoint.read_shards(path, manifest, slice(*manifest.bounds[model]))["model"]
    name = checkpoint.silo_name(model)
    if name not in manifest.files:
        return State(vector, None)
    found = array_files.read_arrays(path / name)
    if set(found) != {"momentum"}:
        raise CheckpointError("checkpoint-read", f"{path / name}: found no momentum in it")
    return State(vector, found["momentum"])


def _save(target: RunFolder, work: Work, summary: Summary, states: Sequence[State]) -> None:
    """Write a checkpoint in which each model is a shard of one long vector."""
    draft = checkpoint.draft_of(target.checkpoints, summary.round)
    files = [array_files.write_arrays(draft, f"shard_{i}.h5", {"model": state.vector}) for i, state in enumerate(states)]
    files += [
        array_files.write_arrays(draft, checkpoint.silo_name(i), {"momentum": state.momentum})
        for i, state in enumerate(states) if state.momentum is not None
    ]  # fmt: skip
    size = len(states[0].vector)
    manifest = checkpoint.Manifest(
        schema=checkpoint.SCHEMA,
        round=summary.round,
        counted=summary.round,
        voids=0,
        parameters=size * len(states),
        bounds=[(i * size, (i + 1) * size) for i in range(len(states))],
        model_sha256=summary.model_sha256,
        settings=msgspec.to_builtins(work.settings),
        data_digest=work.data.digest,
        files={file.file: file.sha256 for file in files},
    )
    checkpoint.publish(target.checkpoints, manifest, work.settings.rounds.keep_checkpoints)


def _digest(states: Sequence[State]) -> str:
    return sha256(*(state.vector.astype("<f4", copy=False).data for state in states))


def _summarise(work: Work, number: int, homes: Sequence[tuple[int, ...]], steps: Sequence[Step], seconds: float) -> Summary:
    scores = {score.silo: score for step in steps for score in step.scores}
    share = measures.count(*(sum(getattr(score, key) for score in scores.values()) for key in ("correct", "examples")))
    good = [step for step in steps if not step.outcome.reason]
    seen = sum(step.outcome.seen for step in good)
    home = {silo: model for model, group in enumerate(work.groups) for silo in group}
    loss = sum(scores[silo].loss_sum for silo in sorted(scores)) / share.examples if share.examples else None
    return Summary(
        round=number,
        void=False,
        cohort=sorted(home),
        accepted=[silo for silo in sorted(home) if not steps[home[silo]].outcome.reason],
        train_loss=sum(step.outcome.loss_sum for step in good) / seen if seen else None,
        accuracy=share.accuracy,
        accuracy_low=share.low,
        accuracy_high=share.high,
        test_loss=loss if loss is None or math.isfinite(loss) else None,
        test_examples=share.examples,
        silos=[_silo(work, silo, steps[home[silo]].outcome, scores.get(silo)) for silo in sorted(home)],
        seconds=Phases(
            broadcast=0.0, evaluate=max(sum(steps[m].evaluate_seconds for m in models) for models in homes),
            train=max(sum(steps[m].train_seconds for m in models) for models in homes),
            wait=0.0, reduce=0.0, apply=0.0, total=seconds,
        ),
        ranks=[
            RankPhases(
                role=f"process_{index}",
                train=sum(steps[model].train_seconds for model in models),
                evaluate=sum(steps[model].evaluate_seconds for model in models),
            )
            for index, models in enumerate(homes)
        ],
        bytes_down=0,
        bytes_up=0,
        model_sha256=_digest([step.state for step in steps]),
        shard_sha256=[_digest([step.state]) for step in steps],
    )  # fmt: skip


def _silo(work: Work, silo: int, outcome: local.Outcome, score: Score | None) -> SiloSummary:
    info = work.data.silos[silo]
    return SiloSummary(
        silo=silo,
        name=info.name,
        accuracy=score.correct / score.examples if score and score.examples else None,
        test_examples=info.test.examples,
        train_examples=info.train.examples,
        train_loss=outcome.loss_sum / outcome.seen if outcome.seen and not outcome.reason else None,
        reason=outcome.reason,
        failed=outcome.cause.of_the_silo,
        cause=outcome.cause,
        raised=outcome.raised,
        untested=score.lacks if score else "",
    )


def _record(work: Work, kind: str, start: int, crew: Crew) -> dict[str, Any]:
    """Say in ``run.json`` what is needed to judge the baseline or to repeat it."""
    return tell.facts(work.settings, work.data, start, crew.parameters) | {
        "baseline": kind,
        "steps_a_round": sum(work.steps),
        "ranks": [{"rank": index, "role": f"process_{index}"} | place for index, place in enumerate(crew.places)],
    }
