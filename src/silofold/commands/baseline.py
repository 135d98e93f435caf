"""``silofold baseline local | central``: what federating is measured against, recorded like a run.

``local`` trains one model a silo, each on its own images alone. ``central`` trains one model on the images of all silos
together, in as many steps as the silos take together, with batches of the same sizes. Model, seed, local training and
rounds are those of the settings; cohort, strategy and server optimizer have no part in it. No MPI: the models are trained
in processes of this machine, by the code that trains silos in a run.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from silofold import config, plugins, run, topology
from silofold.commands.baseline_process import Bench, State, Work
from silofold.core import console
from silofold.core.endings import DONE
from silofold.core.error_table import ERRORS
from silofold.core.fingerprint import difference
from silofold.core.processes import Pool
from silofold.data import silo as silos
from silofold.errors import (
    CheckpointError,
    ConfigError,
    DivergedError,
    RequeueError,
    RunFolderError,
    SilofoldError,
    UserCodeError,
)  # fmt: skip
from silofold.messages import Cause, Phases, RankPhases, Score, SiloSummary, Summary, Unscored, sha256
from silofold.record import checkpoint, control, history, rundir, whole
from silofold.record.rundir import RunFolder
from silofold.roles import round_summary
from silofold.training import instruction_set
from silofold.training.local import Outcome

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from silofold.commands.baseline_process import Played
    from silofold.protocols import Sink

PLAIN = ("cohort", "strategy", "server_optimizer")
"""Plug-ins of a federated round, which a baseline leaves at their defaults."""


class Crew(NamedTuple):
    """Processes that train the models, each its own ones.

    Attributes
    ----------
    pool
        The processes.
    homes
        Models of each process.
    places
        Device, hardware, torch and threads of each process.
    parameters
        Of one model.
    """

    pool: Pool
    homes: list[tuple[int, ...]]
    places: list[dict[str, str]]
    parameters: int


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
    with _leaving_word(target), _crew(work, workers) as crew:
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
    told = f"done: {settings.rounds.count} rounds, accuracy {run.accuracy_told(last, data)}; run folder {target.path}"
    control.leave_word(target, DONE, told)
    rundir.write_atomically(target.done, f"{last.model_sha256}\n".encode())
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


@contextlib.contextmanager
def _crew(work: Work, workers: int) -> Iterator[Crew]:
    """Start the processes, and see that all have built the same model."""
    instruction_set.pin(work.settings.local.cpu_isa, for_children=True)
    os.environ.setdefault("PYTHONHASHSEED", "0")  # for the processes: a model may go through a set of names
    homes = topology.assign_silos(work.examples, workers)
    with Pool(Bench, [(work, index, models) for index, models in enumerate(homes)]) as pool:
        found = pool.ask_all("introduce")
        if differs := difference([fingerprint for *_, fingerprint in found], [0] * workers):
            raise UserCodeError(
                "model-unequal",
                f"model {work.settings.model['name']}: processes {differs[0]} and {differs[1]} built different models of "
                f"one seed: they differ in {differs[2]}; expected all randomness from torch, numpy.random or random",
            )
        yield Crew(pool, homes, [place for place, *_ in found], found[0][1])


def _play(
    target: RunFolder, work: Work, crew: Crew, sinks: list[Sink], states: Sequence[State | None], earlier: list[Summary]
) -> Summary:
    """Play the rounds that are left and return the last one."""
    rounds = work.settings.rounds
    record, recorded = history.History(target.metrics, earlier), list(earlier)
    for sink in sinks:
        sink.open(target.path, earlier)
    for number in range(len(earlier) + 1, rounds.count + 1):
        began = time.monotonic()
        played = crew.pool.ask_all("play", [(number, [states[model] for model in models]) for models in crew.homes])
        summary, states = _summarise(work, number, crew.homes, played, began)
        record.append(summary)
        for sink in sinks:
            sink.write(summary)
        recorded.append(summary)
        _look(work, recorded, [one for each in played for one in each.scores])
        last = number == rounds.count
        if last and len(states) == 1:
            rundir.write_atomically(target.model, crew.pool.ask("encode", states[0]))
        if last or (rounds.checkpoint_every and number % rounds.checkpoint_every == 0):
            _save(target, work, summary, states)
    record.close()
    for sink in sinks:
        sink.close()
    if len(states) == 1 and states[0] is not None:
        rundir.write_atomically(target.model, crew.pool.ask("encode", states[0]))
    return history.read(target.metrics)[-1]


def _look(work: Work, played: Sequence[Summary], scores: Sequence[Score | Unscored]) -> None:
    """See that every model trains and answers, since no other rank could make up for one that does not.

    Parameters
    ----------
    work
        What is trained.
    played
        The rounds up to now.
    scores
        The evaluation of the last one.

    Raises
    ------
    UserCodeError, DivergedError, RequeueError
        A model failed in ``rounds.max_void`` rounds in a row, or in all there are; most images are without an answer; the
        model raised on every silo that was to be evaluated.
    """
    rounds, last, name = work.settings.rounds, played[-1], work.settings.model["name"]
    rate = f"local.lr = {work.settings.local.lr:g}"
    unanswered = sum(one.unanswered for one in scores if isinstance(one, Score))
    if 2 * unanswered > last.test_examples:
        raise DivergedError(
            "diverged-model",
            f"round {last.round}: no finite logit for {unanswered} of {last.test_examples} test images, with {rate}",
        )
    raised = [one for one in scores if isinstance(one, Unscored) and one.cause is Cause.RAISED]
    if raised and not last.test_examples:
        silo = work.data.silos[raised[0].silo].name
        raise UserCodeError("model-raised", f"model {name}: round {last.round}, evaluating silo {silo}: {raised[0].reason}")
    window = min(rounds.max_void, rounds.count)
    recent = [summary.silos for summary in played[-window:]]
    if len(recent) < window:
        return
    failed = set.intersection(*({one.silo for one in silos if one.reason} for silos in recent))
    for one in [one for one in last.silos if one.silo in failed][:1]:
        story = f"round {last.round}, silo {one.name}: {one.reason}; so in {window} rounds in a row (rounds.max_void)"
        if one.cause is Cause.RAISED:
            raise UserCodeError("model-raised", f"model {name}: {story}")
        if one.cause is Cause.DIVERGED:
            raise DivergedError("diverged-rounds", f"{story}, with {rate}")
        raise RequeueError("rounds-void", story)


def _settings(options: argparse.Namespace) -> config.Settings:
    """Read the settings of a recipe, or of a run, with the plug-ins of the federated round at their defaults."""
    like = options.recipe if options.recipe.is_dir() else None
    request = run.Request(
        recipe=None if like else options.recipe,
        overrides=tuple(options.set),
        data=options.data,
        out=options.out,
        replay=like,
    )
    settings = run.read_settings(request)
    for line in plugins.strangers(settings, ["model", "sink"]) if like else ():
        console.say(line)
    if like:  # a replay writes fewer checkpoints than the run that it follows
        rounds = config.assemble(RunFolder(like).read_record().settings, str(like), options.set).rounds
        settings = msgspec.structs.replace(settings, rounds=rounds)
    if not settings.data.folder:
        raise ConfigError("data-missing", "no data: give --data DIR, or data.folder in the settings")
    plain = config.Settings()
    return msgspec.structs.replace(settings, **{key: getattr(plain, key) for key in PLAIN})


# --- the record ------------------------------------------------------------------------------------------------------


def _begin(target: RunFolder, work: Work, kind: str) -> tuple[list[State | None], list[Summary]]:
    """Take the run folder, and go on after the newest sound checkpoint in it, if there is one."""
    if not target.claim():
        return [None] * len(work.groups), []
    record = target.read_record()
    changes = config.differences(config.resolve(record.settings, str(target.record)), work.settings)
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
    found = checkpoint.read_arrays(path / name)
    if set(found) != {"momentum"}:
        raise CheckpointError("checkpoint-read", f"{path / name}: found no momentum in it")
    return State(vector, found["momentum"])


def _save(target: RunFolder, work: Work, summary: Summary, states: Sequence[State]) -> None:
    """Write a checkpoint in which each model is a shard of one long vector."""
    draft = checkpoint.draft_of(target.checkpoints, summary.round)
    files = [checkpoint.write_arrays(draft, f"shard_{i}.h5", {"model": state.vector}) for i, state in enumerate(states)]
    files += [
        checkpoint.write_arrays(draft, checkpoint.silo_name(i), {"momentum": state.momentum})
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


def _summarise(
    work: Work, number: int, homes: Sequence[tuple[int, ...]], played: Sequence[Played], began: float
) -> tuple[Summary, list[State]]:
    """Summarise a round; return the models after it as well, in their order."""
    states, outcomes = dict[int, State](), dict[int, Outcome]()
    for models, one in zip(homes, played, strict=True):
        states |= dict(zip(models, one.states, strict=True))
        outcomes |= dict(zip(models, one.outcomes, strict=True))
    after = [states[model] for model in sorted(states)]
    good = [outcomes[model] for model in sorted(outcomes) if not outcomes[model].reason]
    seen = sum(outcome.seen for outcome in good)
    home = {silo: model for model, group in enumerate(work.groups) for silo in group}
    summary = Summary(
        round=number,
        void=False,
        cohort=sorted(home),
        accepted=[silo for silo in sorted(home) if not outcomes[home[silo]].reason],
        train_loss=sum(outcome.sums["loss"] for outcome in good) / seen if seen else None,
        accuracy=None,
        accuracy_low=None,
        accuracy_high=None,
        test_loss=None,
        test_examples=0,
        silos=[_silo(work, silo, outcomes[home[silo]]) for silo in sorted(home)],
        seconds=Phases(
            broadcast=0.0,
            evaluate=max(one.evaluate_seconds for one in played),
            train=max(one.train_seconds for one in played),
            wait=0.0, reduce=0.0, apply=0.0, total=time.monotonic() - began,
        ),
        ranks=[
            RankPhases(role=f"process_{index}", train=one.train_seconds, evaluate=one.evaluate_seconds)
            for index, one in enumerate(played)
        ],
        bytes_down=0,
        bytes_up=0,
        model_sha256="",
        shard_sha256=[_digest([state]) for state in after],
    )  # fmt: skip
    told = [one for each in played for one in each.scores]
    scores = [one for one in told if isinstance(one, Score)]
    unscored = [one for one in told if isinstance(one, Unscored)]
    return round_summary.evaluated(summary, scores, unscored, _digest(after)), after


def _silo(work: Work, silo: int, outcome: Outcome) -> SiloSummary:
    info = work.data.silos[silo]
    return SiloSummary(
        silo=silo,
        name=info.name,
        accuracy=None,
        test_examples=info.test.examples,
        train_examples=info.train.examples,
        train_loss=outcome.sums["loss"] / outcome.seen if outcome.seen and not outcome.reason else None,
        reason=outcome.reason,
        failed=outcome.cause.of_the_silo,
        cause=outcome.cause,
        raised=outcome.raised,
    )


def _record(work: Work, kind: str, start: int, crew: Crew) -> dict[str, Any]:
    """Say in ``run.json`` what is needed to judge the baseline or to repeat it."""
    return run.facts(work.settings, work.data, start, crew.parameters) | {
        "baseline": kind,
        "steps_a_round": sum(work.steps),
        "ranks": [{"rank": index, "role": f"process_{index}"} | place for index, place in enumerate(crew.places)],
    }
