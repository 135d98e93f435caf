"""A run from its settings to DONE: start-up that fails on every rank or on none, then the rounds.

What is read from disk once (settings, manifest) is read by rank 0 and shared, so that ranks cannot disagree. Roles that do
not train never import torch.
"""

from __future__ import annotations

import functools
import gc
import itertools
import logging
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias, cast

import msgspec
import numpy as np

import silofold
from silofold import config, faults, machine, plugins, rehearsal, timeline, topology
from silofold.comm import world as worlds
from silofold.comm.fabric import Fabrics
from silofold.comm.window import Node
from silofold.coordination import quorum, recovery, window
from silofold.core import console, warned
from silofold.core.elements import Elements
from silofold.core.endings import DONE, INTERNAL, INTERRUPTED, RESUMABLE, STOPPED
from silofold.core.error_table import ERRORS
from silofold.core.fingerprint import Fingerprint, difference
from silofold.data import silo as silos
from silofold.errors import (
    CheckpointError,
    ConfigError,
    RequeueError,
    RunFolderError,
    SilofoldError,
    UserCodeError,
)  # fmt: skip
from silofold.evaluation.accuracy import chance
from silofold.messages import Broken, Regroup, Summary, sha256
from silofold.record import (
    checkpoint,
    control,
    deaths,
    history,
    log,
    losses,
    rundir,
    silo_state,
    surroundings,
    whole,
)  # fmt: skip
from silofold.record.rundir import RunFolder
from silofold.roles.job import Job, StopNow
from silofold.roles.listening import Listener, RankLost, RunOver, regroup
from silofold.roles.shelf import Shelf
from silofold.round import play

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from silofold.comm.world import World
    from silofold.core.endings import Ending
    from silofold.roles.scheduler import Scheduler
    from silofold.roles.worker import SiloSplit, Worker
    from silofold.round import Role
    from silofold.training.flat import FlatModel
    from silofold.training.local import Samples
    from silofold.training.side_by_side import Trainer
    from silofold.training.start_check import Found

logger = logging.getLogger(__name__)
Inputs: TypeAlias = tuple[config.Settings, silos.Manifest, list[Summary]]
"""What is read from disk once: settings, manifest, and the rounds that a replay follows."""


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes
    ----------
    recipe
        The TOML file of the settings; none when a run is resumed or replayed.
    overrides
        ``key=value`` each.
    data
        Folder of silos; none where the settings name it.
    out
        The run folder.
    resume
        Whether `out` must hold a run to go on with.
    replay
        Folder of a run whose rounds are played again.
    rehearse
        Whether all is done that comes before the first round, and no more.
    """

    recipe: Path | None
    overrides: tuple[str, ...]
    data: Path | None
    out: Path
    resume: bool = False
    replay: Path | None = None
    rehearse: bool = False

    @functools.cached_property
    def folder(self) -> RunFolder:
        """The run folder, as this job holds it."""
        return RunFolder(self.out)


class Trainee(NamedTuple):
    """What a rank that trains has: the model, its silos, the device in words, and what the start check found."""

    trainer: Trainer
    shelf: Shelf[SiloSplit, Samples]
    device: dict[str, str]
    found: Found


class Beginning(msgspec.Struct, frozen=True, kw_only=True):
    """Where the rounds begin: anew, or after a checkpoint."""

    after: int = 0
    """Round of the checkpoint; 0 for a new run."""
    counted: int = 0
    voids: int = 0
    manifest: checkpoint.Manifest | None = None


def train(request: Request) -> int:
    """Run a federation, resume one, or replay one; called on every rank. Past the start it ends the process itself.

    Returns
    -------
    int
        Exit code of this rank: 0 on success, 2 on bad input, 75 if the run can be resumed.
    """
    # a model may change the current folder: what is told by its relative path would lie elsewhere from then on
    request = replace(request, out=request.out.absolute(), replay=request.replay.absolute() if request.replay else None)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # mpirun hands it to every rank; it is for the scheduler
    try:
        world = worlds.connect()
    except SilofoldError as fault:
        console.up()
        return fault.exit_code if fault.told_elsewhere else console.error(fault)
    if world.rank == 0:
        console.up()
    try:
        for generation in itertools.count(1):
            if world.rank == 0 and not request.rehearse:  # whoever leads the survivors, too
                _heed_signals(RunFolder(request.out))
            world, request = _live(world, request, generation)
    except BaseException:  # noqa: BLE001  (whatever it is, the other ranks must not wait for this one)
        _abort(world, request)
    raise AssertionError


def _heed_signals(folder: RunFolder) -> None:
    """Take a signal of the batch system for a wish like any other; that it cannot be noted must not end the round."""

    def wish(*_: object) -> None:
        try:
            control.ask_stop(folder, now=False)
        except SilofoldError as fault:
            logger.warning("a signal asks for a stop, but %s", fault)

    for name in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(name, wish)


def _live(world: World, request: Request, generation: int) -> tuple[World, Request]:
    """Play the run to its end, which ends this process; return only when ranks were lost that it cannot go on without."""
    world, (role, job, fabrics) = _begin(world, request)
    planned = faults.planned(job.layout.title(world.rank)) if generation == 1 else []
    played = cast("Role", faults.Rigged(role, planned, job.start_round)) if planned else role
    scheduler = _scheduler(world, role)
    try:
        code = _rounds(world, played, job, fabrics)
        if scheduler:
            _close(scheduler, job)
            scheduler.dismiss(code)
        worlds.finish(world, code)
    except StopNow:
        if scheduler:
            scheduler.close("stopped at once, as asked", STOPPED)
        sys.stdout.write(f"stopped at once, as asked; go on with --resume {job.folder.path}\n")
        world.abort(RESUMABLE.code)  # with 0, Open MPI takes it for the end of one rank alone
    except RankLost as loss:
        faults.strike(planned, 0, "before", "regroup")
        order = _without(loss, role, job, world, request)
        faults.strike(planned, 0, "after", "regroup")
        world = world.among(order.ranks, generation)
        faults.strike(planned, 0, "before", "restart")
        overrides = (*request.overrides, *_shape(world, job))
        return world, replace(request, recipe=None, resume=True, out=job.folder.path, overrides=overrides)


def _scheduler(world: World, role: Role) -> Scheduler | None:
    return cast("Scheduler", role) if world.rank == topology.SCHEDULER else None


def _without(loss: RankLost, role: Role, job: Job, world: World, request: Request) -> Regroup:
    """Find the survivors, who go on as if the job had been started anew, but at once."""
    if request.replay:
        raise RequeueError("rank-lost", f"{loss}; start the replay again")
    if job.folder.done.exists():  # lost after its last word
        worlds.finish(world, 0)
    logger.warning("%s: going on from the newest checkpoint", loss)
    if scheduler := _scheduler(world, role):
        scheduler.close()
        job.folder.release()
    return regroup(world, job, loss.loss)


def _begin(world: World, request: Request) -> tuple[World, tuple[Role, Job, Fabrics]]:
    """Give each rank its number and make its role; a fault, or the end of a rehearsal, ends this process."""
    try:
        inputs = _read_inputs(world, request)
        roles = inputs[0].roles
        world = world.reordered(topology.arrange([host for host, _ in world.places], roles.servers, roles.placement))
        return world, _prepare(world, request, inputs)
    except RunOver as over:
        worlds.finish(world, over.exit_code)
    except SilofoldError as fault:  # agreed on by all ranks
        if world.rank == 0:
            _leave_word(request, fault)
            console.error(fault)
        worlds.finish(world, fault.exit_code)


def _rounds(world: World, role: Role, job: Job, fabrics: Fabrics) -> int:
    """Play the rounds, and return the exit code."""
    try:
        return play(role, job, fabrics)
    except RunOver as over:
        return over.exit_code
    except UserCodeError as fault:
        if not world.rank:
            raise
        logger.info("rank %d ends the job", world.rank, exc_info=fault)
        world.say(Broken(fault.id, fault.message), topology.SCHEDULER)  # who tells it once, and ends all ranks
        return Listener(world, job).dismissal()


def _shape(world: World, job: Job) -> tuple[str, str]:
    """Give the roles of the survivors as settings."""
    roles = job.settings.roles
    servers, standby = recovery.shape(world.size, job.layout.size - world.size, roles.servers, roles.standby)
    return f"roles.servers={servers}", f"roles.standby={standby}"


def _abort(world: World, request: Request) -> NoReturn:
    """End all ranks because of the exception at hand, in one line where it is a fault that we know.

    A rank that fails by a mistake of the program dies alone where the others survive that: they have not made it.
    """
    fault = sys.exc_info()[1]
    ending = INTERNAL
    if isinstance(fault, SilofoldError):
        ending = ERRORS[fault.id].ending
        console.error(fault)
    elif isinstance(fault, OSError):
        vanished = isinstance(fault, FileNotFoundError)
        broken = RunFolderError("run-vanished" if vanished else "run-write", f"rank {world.rank}: {fault}")
        ending = ERRORS[broken.id].ending
        console.error(broken)
    elif isinstance(fault, KeyboardInterrupt):
        ending = INTERRUPTED
        console.say(f"rank {world.rank} was interrupted (SIGINT)")
    else:
        sys.stderr.write(f"silofold: rank {world.rank}: internal error\n{traceback.format_exc()}")
    logger.info("rank %d ends the job", world.rank, exc_info=fault)  # the file alone: standard error has it in one line
    if ending is INTERNAL and not isinstance(fault, SilofoldError) and world.survives:
        world.end_rank(world.rank)
    _leave_word(request, fault, ending)
    world.abort(ending.code)


def _leave_word(request: Request, fault: BaseException | None, ending: Ending = INTERNAL) -> None:
    """Write into the folder's status how the job ends, if the folder is this job's."""
    if request.folder.ours:
        known = isinstance(fault, SilofoldError)
        cause = fault.id if isinstance(fault, SilofoldError) else ""
        control.leave_word(
            request.folder, ERRORS[cause].ending if known else ending, str(fault) or type(fault).__name__, cause
        )


# --- start-up --------------------------------------------------------------------------------------------------------


def _prepare(world: World, request: Request, inputs: Inputs) -> tuple[Role, Job, Fabrics]:
    """Agree on everything that comes before the first round.

    Raises
    ------
    RunOver
        It was a rehearsal.
    """
    began = time.time()
    settings, data, script = inputs
    reach = _reach(world, settings, data) if settings.roles.near else None
    with world.together():
        layout = topology.Layout(world.size, settings.roles.servers, settings.roles.standby)
        if layout.role(world.rank)[0] in {"worker", "standby"}:
            from silofold.training import instruction_set  # noqa: PLC0415  (training: not on all ranks)

            instruction_set.pin(settings.local.cpu_isa)  # before a plug-in can import torch
        job = Job(
            settings=settings,
            layout=layout,
            data=data,
            folder=request.folder,
            strategy=plugins.load("strategy", settings.strategy),
            script={summary.round: summary for summary in script},
            reach=reach,
        )
        job.hosted()
        plugins.load("cohort", settings.cohort)
        plugins.load("server_optimizer", settings.server_optimizer)
    beginning = _claim(world, job, request)
    job.folder.ours = not request.rehearse
    title, kind = layout.title(world.rank), layout.role(world.rank)[0]
    with world.together():
        _begin_log(world, job, title, rehearse=request.rehearse)
    # all workers build and try the same model: what it warns of then is told by one of them, and stands in all logs
    warned.settle(
        logger.info if kind in {"worker", "standby"} and world.rank != layout.worker_ranks.start else logger.warning
    )
    with world.together():
        trainee = _host(world, job) if kind in {"worker", "standby"} else None
    warned.settle(logger.warning)
    elements = _agree_on_elements(world, layout, trainee[0].model.elements if trainee else None)
    with world.together():
        slices = topology.shard_slices(elements.size, layout.servers)
    beginning = _restore_point(world, job, request, beginning, slices)
    job = replace(job, start_round=beginning.after + 1, counted=beginning.counted, voids=beginning.voids, elements=elements)
    node = _node(world, job, slices[-1].stop)
    _hand_out(world, job, trainee[0].model.host if trainee else None, slices, node)
    environment = _environment(world.places[world.rank][0], trainee)
    people = [msgspec.json.decode(answer) for answer in world.gather(msgspec.json.encode(environment))]
    _compare_models(world, job, trainee, people)
    if request.rehearse:
        if world.rank == 0:
            sys.stdout.write(rehearsal.story(job, slices, people))
        raise RunOver(0)
    with world.together():
        role = _make_role(world, job, request, beginning, slices, node, trainee, people)
    fabrics = Fabrics(world, layout, slices, node, settings.rounds.start_window)
    took = time.time() - began
    logger.info("ready after %.1f s", took)
    world.patience = settings.rounds.start_window + 2 * took  # should the survivors of a loss have to start again
    if world.rank == 0:
        _introduce(job, slices[-1].stop, people)
    return role, job, fabrics


def _begin_log(world: World, job: Job, title: str, *, rehearse: bool) -> None:
    """Begin the log and the trace of this rank; a rehearsal leaves none."""
    if rehearse:
        logging.getLogger("silofold").addHandler(logging.NullHandler())
        return
    try:
        deaths.heed(log.start(job.folder.log(title), title))
    except OSError as fault:
        raise RunFolderError("run-write", f"{fault.filename}: {fault.strerror}") from None
    world.note_in(job.folder.trace(title))


def _read_inputs(world: World, request: Request) -> Inputs:
    """Read settings, manifest and, for a replay, the recorded rounds on rank 0, and share them."""
    text, manifest, folder, script = b"", b"", "", b"[]"
    with world.together():
        if world.rank == 0:
            settings = read_settings(request)
            for line in plugins.strangers(settings) if request.replay else ():
                console.say(line)
            text = msgspec.json.encode(settings)
            folder = settings.data.folder
            if not folder:
                raise ConfigError("data-missing", "no data: give --data DIR, or data.folder in the settings")
            manifest = silos.manifest_bytes(Path(folder))
            if request.replay:
                script = msgspec.json.encode(history.read(RunFolder(request.replay).metrics))
    text, manifest, script = world.share(text), world.share(manifest), world.share(script)
    settings = msgspec.json.decode(text, type=config.Settings)
    with world.together():
        data = silos.parse_manifest(manifest, Path(settings.data.folder) / silos.MANIFEST)
        _check_sizes(settings, data)
        rounds = msgspec.json.decode(script, type=list[Summary])
        if request.replay and not rounds:
            raise RunFolderError("run-empty", f"{RunFolder(request.replay).metrics}: holds no round that could be replayed")
        if request.replay:
            _check_rounds(RunFolder(request.replay), rounds, data)
    return settings, data, rounds


def _check_rounds(folder: RunFolder, rounds: list[Summary], data: silos.Manifest) -> None:
    """Refuse a record that tells of other silos: what follows it would look for them."""
    if fault := next(history.contradictions(rounds, [silo.name for silo in data.silos]), None):
        raise RunFolderError("run-read", f"{folder.metrics}, {fault}")


def _reach(world: World, settings: config.Settings, data: silos.Manifest) -> tuple[frozenset[int], ...]:
    """Find out which ranks see the file of each silo."""
    folder = Path(settings.data.folder)
    mine = bytes((folder / silo.file).exists() for silo in data.silos)
    seen = world.gather(mine)
    return tuple(frozenset(rank for rank, sees in enumerate(seen) if sees[silo]) for silo in range(len(data.silos)))


def read_settings(request: Request) -> config.Settings:
    """Resolve the settings: those of the run that is resumed or replayed, else those of the recipe."""
    overrides = list(request.overrides)
    if request.data:
        overrides.append(config.set_text("data.folder", str(request.data.resolve())))
    source = request.replay or (request.out if request.resume else None)
    if source is None and request.recipe:
        return config.load(request.recipe, overrides)
    if source is None:
        return config.parse("", "no settings", overrides)
    if request.replay:
        # who took part is on record: a slower machine must not turn it into another run
        overrides += ["rounds.start_quorum=1.0", "rounds.start_window=300.0", "rounds.update_window=86400.0"]
        overrides += ["rounds.checkpoint_every=0", "rounds.worker_checkpoints=false"]
    record = RunFolder(source)
    return config.assemble(record.read_record().settings, str(record.record), overrides)


def _check_sizes(settings: config.Settings, data: silos.Manifest) -> None:
    quorum = settings.rounds.start_quorum
    if isinstance(quorum, int) and quorum > len(data.silos):
        raise ConfigError(
            "settings-contradict",
            f"rounds.start_quorum = {quorum}, but {settings.data.folder} has {len(data.silos)} silos: no round would start",
        )
    for silo in data.silos:
        if settings.local.drop_last and silo.train.examples < settings.local.batch_size:
            raise ConfigError(
                "settings-contradict",
                f"local.drop_last = true with local.batch_size = {settings.local.batch_size}: silo {silo.name} has "
                f"{silo.train.examples} training images and would never train",
            )


def _claim(world: World, job: Job, request: Request) -> Beginning:
    """Take the run folder, and find out whether a run goes on in it."""
    resumed = False
    with world.together():
        if world.rank == 0:
            if request.resume:
                job.folder.read_record()
                done, wanted = _finished_rounds(job.folder), job.settings.rounds.count
                if job.folder.done.exists() and done >= wanted:
                    raise RunFolderError(
                        "run-finished",
                        f"{job.folder.path}: the run is finished: {done} rounds of {wanted}; a longer one: "
                        f"--set rounds.count={done + 1} or more",
                    )
                _check_same(job)
                if not request.rehearse:
                    job.folder.done.unlink(missing_ok=True)
            resumed = job.folder.rehearse() if request.rehearse else job.folder.claim()
            if resumed and request.replay:
                raise RunFolderError("run-folder", f"{job.folder.path}: holds a run; choose another --out for the replay")
            if resumed and not request.resume:
                _check_same(job)
            elif request.replay:
                _check_same(replace(job, folder=RunFolder(request.replay)), exact=False)
    return Beginning(after=-1 if world.share(b"1" if resumed else b"0") == b"1" else 0)


def _finished_rounds(folder: RunFolder) -> int:
    return sum(not summary.void for summary in history.read(folder.metrics)) if folder.metrics.exists() else 0


def _check_same(job: Job, *, exact: bool = True) -> None:
    """Refuse to go on with other settings or data.

    Raises
    ------
    RunFolderError
        They differ; every difference is shown.
    """
    record = job.folder.read_record()
    found = config.resolve(record.settings, str(job.folder.record))
    changes = config.differences(found, job.settings) if exact else []
    if record.data_digest != job.data.digest:
        old = {entry.name: (entry.train, entry.test) for entry in record.silos}
        new = {silo.name: (silo.train.sha256, silo.test.sha256) for silo in job.data.silos}
        names = [name for name in sorted(old | new) if old.get(name) != new.get(name)]
        changes.append(f"data: {len(names)} of {len(new)} silos differ: {', '.join(names[:5]) or 'classes or shape'}")
    if changes:
        raise RunFolderError(
            "run-differs", f"{job.folder.path}: the run in it was started with others: " + "; ".join(changes)
        )


def _host(world: World, job: Job) -> Trainee:
    """Build the model and read the silos of a worker: most of the reading is done while torch is imported."""
    folder, limit = Path(job.settings.data.folder).absolute(), 10**6 * job.settings.data.memory
    hosted = job.hosted().get(world.rank, ())

    splits: list[SiloSplit] = [(index, split) for index in hosted for split in silos.SPLITS]
    mine = [job.data.silos[index] for index in hosted]
    source = silos.Reader(folder, job.data, () if limit else mine, job.folder.path)
    for silo in mine:
        source.check(silo)

    def read(wanted: SiloSplit) -> silos.Split:
        index, split = wanted
        return source.read(job.data.silos[index], split)

    with ThreadPoolExecutor(1) as reader:
        ahead = {} if limit else {wanted: reader.submit(read, wanted) for wanted in splits}
        if limit:
            reader.submit(source.look_ahead)
        gc.disable()  # torch makes hundreds of thousands of objects that stay: looking for garbage among them is for nothing
        from silofold.training import build, device, local, side_by_side  # noqa: PLC0415  (torch: on workers alone)

        gc.freeze()
        gc.enable()

        hosts = [host for host, _ in world.places]
        trainees = (*job.layout.worker_ranks, *job.layout.standby_ranks)
        beside = [rank for rank in trainees if hosts[rank] == hosts[world.rank]]
        place = device.choose(job.settings.device, beside.index(world.rank), job.settings.local.threads)
        model, found = _tried(job, place, again=world.rank == job.layout.worker_ranks.start)
        with build.building(job.settings.model["name"]):  # it may copy the model
            trainer = side_by_side.Trainer(model, job.settings.local)

        def load(wanted: SiloSplit) -> Samples:
            part = ahead.pop(wanted).result() if wanted in ahead else read(wanted)
            return local.load(part.images, part.labels, place)

        shelf: Shelf[SiloSplit, Samples] = Shelf(load, limit)
        for wanted in splits if not limit else ():
            shelf.take(wanted)
    return Trainee(trainer, shelf, device.describe(place), found)


def _tried(job: Job, place: Any, *, again: bool) -> tuple[FlatModel, Found]:
    """Build the model and take the steps of the start check; where asked, build one of the user's own a second time."""
    from silofold.training import build, start_check  # noqa: PLC0415  (torch: on workers alone)

    settings, data = job.settings, job.data
    name = settings.model["name"]

    def make() -> FlatModel:
        return build.build(
            settings.model, data.classes, data.image_shape, settings.seed, place, compiled=settings.local.compile
        )

    model = make()
    sizes = start_check.shapes(job.examples, [silo.test.examples for silo in data.silos], settings.local)
    rest = settings.local, sizes, data.image_shape, len(data.classes), name
    found = start_check.check(model, *rest)
    if again and ":" in name:
        start_check.check_again(model, make(), *rest)
    return model, found


def _compare_models(world: World, job: Job, trainee: Trainee | None, people: list[dict[str, Any]]) -> None:
    """See that every worker and standby has made the same model.

    Raises
    ------
    UserCodeError
        Two of them differ.
    """
    mine = msgspec.json.encode(trainee.found.fingerprint if trainee else None)
    found = [msgspec.json.decode(answer, type=Fingerprint | None) for answer in world.gather(mine)]
    ranks = [rank for rank, one in enumerate(found) if one]
    places = [tuple(people[rank].get(key) for key in surroundings.OF_A_WORKER) for rank in ranks]
    with world.together():
        if differs := difference([one for one in found if one], places):
            one, other = (job.layout.title(ranks[index]) for index in differs[:2])
            raise UserCodeError(
                "model-unequal",
                f"model {job.settings.model['name']}: {one} and {other} built different models of one seed: they differ in "
                f"{differs[2]}; expected all randomness from torch, numpy.random or random, and no order of a set "
                "(PYTHONHASHSEED)",
            )


def _agree_on_elements(world: World, layout: topology.Layout, mine: Elements | None) -> Elements:
    """Share the table of elements, which must be the same on every rank that trains."""
    first, text = layout.worker_ranks.start, msgspec.json.encode(mine) if mine else b""
    told = world.gather(text if world.rank == first else sha256(text).encode())
    shared = msgspec.json.decode(told[first], type=Elements)
    expected = sha256(told[first]).encode()
    unequal = [rank for rank in range(first + 1, world.size) if told[rank] != expected]
    with world.together():
        if world.rank in unequal and mine:
            raise ConfigError(
                "model-unequal",
                f"rank {world.rank} built another model than rank {first}: here | there: {mine.difference(shared)}",
            )
    return shared


def _restore_point(world: World, job: Job, request: Request, beginning: Beginning, slices: list[slice]) -> Beginning:
    """Find the newest checkpoint whose every byte is what was written; servers share the reading."""
    if beginning.after == 0:
        return beginning
    folder = job.folder.checkpoints
    names: list[str] = []
    if world.rank == 0:
        if not request.rehearse:
            checkpoint.clear_drafts(folder)
        names = [path.name for path in checkpoint.found(folder)]
    names = msgspec.json.decode(world.share(msgspec.json.encode(names)), type=list[str])
    stories: list[str] = []
    for name in names:
        try:
            with world.together():
                return _checked(world, job, folder / name, slices[-1].stop, adopts=not request.rehearse)
        except (CheckpointError, worlds.AgreedFault) as fault:
            stories.append(str(fault))
        if world.rank == 0:
            logger.warning("checkpoint %s cannot be used, trying the one before: %s", name, stories[-1])
    with world.together():
        if names:
            raise CheckpointError(
                "checkpoint-none", f"{folder}: none of {len(names)} checkpoints can be used; the newest: {stories[0]}"
            )
    if world.rank == 0:
        logger.warning("%s holds no checkpoint: the run begins anew", job.folder.path)
    return Beginning()


def _checked(world: World, job: Job, path: Path, parameters: int, *, adopts: bool) -> Beginning:
    manifest = checkpoint.read_manifest(path)
    if manifest.parameters != parameters:
        raise CheckpointError(
            "checkpoint-fit", f"{path}: is of a model of {manifest.parameters} parameters, expected {parameters}"
        )
    if manifest.data_digest != job.data.digest:
        raise CheckpointError("checkpoint-fit", f"{path}: is of other data than the run's")
    kind, index = job.layout.role(world.rank)
    if kind == "server":
        checkpoint.check_files(path, manifest, sorted(manifest.files)[index :: job.layout.servers])
        if index == 0:  # anybody can seal a manifest: the files may be whole and the model another one
            checkpoint.check_model(path, manifest)
        silo_state.check(job.folder.states, manifest.states, sorted(manifest.states)[index :: job.layout.servers])
    if kind == "scheduler" and adopts:
        manifest = msgspec.structs.replace(manifest, states=silo_state.adopt(job.folder.states, path, manifest))
    return Beginning(after=manifest.round, counted=manifest.counted, voids=manifest.voids, manifest=manifest)


def _node(world: World, job: Job, parameters: int) -> Node:
    """Make the memory that the ranks of a node share."""
    hosts = [host for host, _ in world.places] if job.uplink.shared else None
    node = Node(world, job.layout, parameters, np.float32, job.uplink.dtype, hosts)
    logger.info("model bytes go by %s", "shared memory within the node" if node.shared else "collectives alone")
    return node


def _hand_out(world: World, job: Job, vector: NDArray[np.float32] | None, slices: list[slice], node: Node) -> None:
    """Hand each server its slice of the initial model, which the first worker has made from the seed."""
    first = job.layout.worker_ranks.start
    kind, index = job.layout.role(world.rank)
    mine = node.model[slices[index]] if kind == "server" else None
    parts = [vector[span] for span in slices] if world.rank == first and vector is not None else []
    world.hand_out(parts, mine, first, list(job.layout.server_ranks))


def _make_role(
    world: World,
    job: Job,
    request: Request,
    beginning: Beginning,
    slices: list[slice],
    node: Node,
    trainee: Trainee | None,
    people: list[dict[str, Any]],
) -> Role:
    """Build this rank's role from the beginning of the rounds; no rank loads what another role needs."""
    kind, index = job.layout.role(world.rank)
    path = checkpoint.folder_of(job.folder.checkpoints, beginning.after)
    if kind == "scheduler":
        return _make_scheduler(world, job, node, request, slices, people, beginning.manifest)
    if kind == "server":
        state = None
        if beginning.manifest:
            arrays = checkpoint.read_shards(path, beginning.manifest, slices[index])
            node.model[slices[index]], state = arrays.pop("model"), arrays
        from silofold.roles.server import Server  # noqa: PLC0415  (see above)

        return Server(world, job, node, slices[index], state)
    from silofold.roles.worker import Worker  # noqa: PLC0415  (see above)

    if trainee is None:
        raise AssertionError
    trainer, shelf, _, found = trainee
    worker: Worker = Worker(world, job, trainer, node.model, node.room, shelf, draws=found.draws)
    return worker


def _make_scheduler(
    world: World,
    job: Job,
    node: Node,
    request: Request,
    slices: list[slice],
    people: list[dict[str, Any]],
    resumed: checkpoint.Manifest | None,
) -> Scheduler:
    from silofold.roles.recorder import Recorder  # noqa: PLC0415  (rank 0 alone)
    from silofold.roles.scheduler import Scheduler  # noqa: PLC0415  (rank 0 alone)

    settings: dict[str, Any] = msgspec.to_builtins(job.settings)
    earlier = [] if job.start_round == 1 else history.read(job.folder.metrics)
    earlier = [summary for summary in earlier if summary.round < job.start_round]
    if len(earlier) != job.start_round - 1:
        raise RunFolderError(
            "run-read",
            f"{job.folder.metrics}: found {len(earlier)} rounds before round {job.start_round}, expected all of them",
        )
    _check_rounds(job.folder, earlier, job.data)
    sinks = [plugins.load("sink", table) for table in job.settings.sinks]
    try:
        present = _record(job, slices, people)
        changes = _changed_surroundings(job, request, present)
        job.folder.write_record(present)
        record = history.History(job.folder.metrics, earlier)
        for sink in sinks:
            sink.open(job.folder.path, [history.fill_in(summary, job.untold) for summary in earlier])
    except OSError as fault:
        raise RunFolderError("run-write", f"{fault.filename or job.folder.path}: {fault.strerror}") from None
    states = None
    if job.settings.local.keep_momentum:
        states = silo_state.Files(job.folder.states, job.folder.checkpoints, resumed.states if resumed else {})
    recorder = Recorder(job, record, sinks, settings, slices, changes, states)
    failures = quorum.failures_in_a_row(earlier, job.settings.rounds.bench_after)
    laps = window.from_record(earlier, job.settings.rounds.evaluate_every, len(job.layout.worker_ranks))
    return Scheduler(world, job, node, recorder, resumed, failures, laps, slices[-1].stop)


def _changed_surroundings(job: Job, request: Request, present: dict[str, Any]) -> list[str]:
    """Warn, before the first round, of what makes other bits than those of the run that is replayed or resumed likely."""
    earlier = RunFolder(request.replay) if request.replay else job.folder
    recorded = msgspec.structs.asdict(earlier.read_record()) if earlier.record.exists() else present
    changes = surroundings.differences(recorded, present)
    if changes:
        logger.warning("the environment is not that of the recorded run: %s", "; ".join(changes))
    if unequal := surroundings.unequal(present):
        logger.warning("workers are unequal, so other numbers of ranks may give other bits: %s", "; ".join(unequal))
    return changes


def _introduce(job: Job, parameters: int, people: list[dict[str, Any]]) -> None:
    """Say what is about to run and where, and in the log what each rank runs on."""
    for rank, person in enumerate(people):
        logger.info("rank %d is %s: %s", rank, job.layout.title(rank), person)
    workers = [people[rank] for rank in job.layout.worker_ranks]
    devices = sorted({f"{person['device']} ({person['hardware']})" for person in workers})
    hosts = len({person["host"] for person in people})
    sys.stdout.write(
        f"scheduler: 1, servers: {job.layout.servers}, workers: {len(workers)}, hosts: {hosts}; "
        f"silos: {len(job.data.silos)}, parameters: {parameters:,}; training on {', '.join(devices)}\n"
    )
    if hosts > 1 or any(person["gpus"] for person in people):
        sys.stdout.write(rehearsal.places(job.layout, people))
    sys.stdout.flush()


def _environment(host: str, trainee: Trainee | None) -> dict[str, Any]:
    """Describe what this rank runs on."""
    cores = machine.cores()
    seen = {
        "host": host,
        "pid": os.getpid(),
        "cores": len(cores),
        "core_list": machine.spans(cores),
        "gpus": ",".join(machine.gpus()),
        "memory": machine.memory_used(),
    }
    return seen | (trainee.device | {"model_structure": trainee.found.fingerprint.structure} if trainee else {})


def _record(job: Job, slices: list[slice], people: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything that a reader of ``run.json`` needs to judge, repeat or replay the run."""
    record = facts(job.settings, job.data, job.start_round, slices[-1].stop)
    record["versions"]["mpi"] = worlds.library_version()
    record["elements"] = job.elements.described()
    return record | {"ranks": [{"rank": rank, "role": job.layout.title(rank)} | one for rank, one in enumerate(people)]}


def facts(settings: config.Settings, data: silos.Manifest, start_round: int, parameters: int) -> dict[str, Any]:
    """Say what every run has, with or without MPI: program, settings, data, versions."""
    return {
        "silofold": silofold.__version__,
        "git_revision": _git_revision(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "start_round": start_round,
        "settings": msgspec.to_builtins(settings),
        "data_digest": data.digest,
        "classes": list(data.classes),
        "image_shape": list(data.image_shape),
        "silos": [{"name": silo.name, "train": silo.train.sha256, "test": silo.test.sha256} for silo in data.silos],
        "parameters": parameters,
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
    }


def _git_revision() -> str:
    """Name the commit of the checkout that this program runs from; empty when it is installed otherwise."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True, timeout=5, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.decode(errors="replace").strip()


def _close(scheduler: Scheduler, job: Job) -> None:
    """Close the record, say how it went, and write DONE last.

    Raises
    ------
    RunFolderError
        A file that DONE promises is missing or damaged.
    """
    rounds = history.read(job.folder.metrics)
    if not scheduler.ending and (faults := whole.unkept(job.folder, rounds[-1], model=True)):
        scheduler.close(f"not done: {'; '.join(faults)}")
        raise RunFolderError(
            "run-incomplete", f"{job.folder.path}: all rounds are done, but not all is saved: {'; '.join(faults)}"
        )
    best = next((summary for summary in reversed(rounds) if summary.accuracy is not None), None)
    story = accuracy_told(best, job.data)
    if best and best.round != rounds[-1].round:
        story = f"{story} after round {best.round}, the last one that was evaluated"
    story = "; ".join(filter(None, (story, losses.told(rounds))))
    if scheduler.ending:
        story = f"{scheduler.ending[1]}: {len(rounds)} rounds, accuracy {story}; go on with --resume {job.folder.path}"
    elif job.script:
        story = f"identical: {len(rounds)} rounds, every model digest equals the record"
    else:
        story = f"done: {len(rounds)} rounds, accuracy {story}; run folder {job.folder.path}"
    scheduler.close(story, scheduler.ending[0] if scheduler.ending else DONE)
    if not scheduler.ending:
        rundir.write_atomically(job.folder.done, f"{rounds[-1].model_sha256}\n".encode())
    sys.stdout.write("\n".join([*_timeline(job, rounds, scheduler.started), console.shown(story), ""]))
    sys.stdout.flush()


def accuracy_told(summary: Summary | None, data: silos.Manifest) -> str:
    """Tell the accuracy of a round, and whether it is worth anything."""
    if summary is None or summary.accuracy is None:
        return "n/a"
    histogram = [sum(counts) for counts in zip(*(silo.test.histogram for silo in data.silos), strict=True)]
    story = f"{summary.accuracy:.2%} of {summary.test_examples} test images"
    worthless = chance(round(summary.accuracy * summary.test_examples), summary.test_examples, histogram)
    story = f"{story}, {worthless}" if worthless else story
    lacking = history.untested(summary, len(data.silos))
    return f"{story}; {lacking}" if lacking else story


def _timeline(job: Job, rounds: list[Summary], started: float) -> list[str]:
    """Say where the rank-seconds of this job went."""
    played = [summary for summary in rounds if summary.round >= job.start_round]
    seconds = machine.age()
    found = timeline.shares(played, job.layout.size, seconds - (time.time() - started), seconds)
    record, local = job.folder.read_record().ranks, job.settings.local
    workers = [record[rank] for rank in job.layout.worker_ranks]
    plain = not (local.cuda_graph or local.compile) and any(str(one.get("device")).startswith("cuda") for one in workers)
    cores = [(str(one["host"]), int(one["cores"])) for one in workers]
    hints = timeline.hints(played, cores, job.layout.servers, kernel_by_kernel=plain)
    return [timeline.line(found), *(f"hint: {hint}" for hint in hints)]
