"""From what was read to a role that can play: agreement, memory, and the parts of each role on its own ranks."""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from silofold.comm.fabric import Fabrics
from silofold.comm.window import Node
from silofold.core import machine, plugins, topology, warned
from silofold.core.errors import RunFolderError
from silofold.job import trainee as trainees
from silofold.job.inputs import check_rounds, reach_of
from silofold.job.restore import claim, restore_point
from silofold.record import checkpoint, deaths, history, log, silo_state
from silofold.roles.job import Job
from silofold.roles.listening import RunOver

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from silofold.comm.world import World
    from silofold.job.inputs import Inputs
    from silofold.job.request import Request
    from silofold.job.restore import Beginning
    from silofold.job.trainee import Trainee
    from silofold.roles.round import Role
    from silofold.roles.scheduler import Scheduler
    from silofold.roles.worker import Worker

logger = logging.getLogger(__name__)


def prepare(world: World, request: Request, inputs: Inputs) -> tuple[Role, Job, Fabrics]:
    """Agree on everything that comes before the first round.

    Raises
    ------
    RunOver
        It was a rehearsal.
    """
    began = time.time()
    settings = inputs[0]
    job = _agreed_job(world, request, inputs)
    layout = job.layout
    beginning = claim(world, job, request)
    job.folder.ours = not request.rehearse
    title, kind = layout.title(world.rank), layout.role(world.rank)[0]
    with world.together():
        _begin_log(world, job, title, rehearse=request.rehearse)
    # all workers build and try the same model: what it warns of then is told by one of them, and stands in all logs
    warned.settle(
        logger.info if kind in {"worker", "standby"} and world.rank != layout.worker_ranks.start else logger.warning
    )
    with world.together():
        trainee = trainees.host(world, job) if kind in {"worker", "standby"} else None
    warned.settle(logger.warning)
    elements = trainees.agree_on_elements(world, layout, trainee[0].model.elements if trainee else None)
    with world.together():
        slices = topology.shard_slices(elements.size, layout.servers)
    beginning = restore_point(world, job, request, beginning, slices)
    job = replace(job, start_round=beginning.after + 1, counted=beginning.counted, voids=beginning.voids, elements=elements)
    node = _node(world, job, slices[-1].stop)
    _hand_out(world, job, trainee[0].model.host if trainee else None, slices, node)
    environment = _environment(world.places[world.rank][0], trainee)
    rank_facts = [msgspec.json.decode(answer) for answer in world.gather(msgspec.json.encode(environment))]
    trainees.compare_models(world, job, trainee, rank_facts)
    if request.rehearse:
        if world.rank == 0:
            from silofold.job import rehearsal  # noqa: PLC0415  (rank 0 alone)

            sys.stdout.write(rehearsal.story(job, slices, rank_facts))
        raise RunOver(0)
    with world.together():
        role = make_role(world, job, request, beginning, slices, node, trainee, rank_facts)
    fabrics = Fabrics(world, layout, slices, node, settings.rounds.start_window)
    took = time.time() - began
    logger.info("ready after %.1f s", took)
    world.patience = settings.rounds.start_window + 2 * took  # should the survivors of a loss have to start again
    if world.rank == 0:
        from silofold.job import tell  # noqa: PLC0415  (rank 0 alone)

        tell.introduce(job, slices[-1].stop, rank_facts)
    return role, job, fabrics


def _agreed_job(world: World, request: Request, inputs: Inputs) -> Job:
    """Put together what every rank knows of the job before anything is built."""
    settings, data, script = inputs
    reach = reach_of(world, settings, data) if settings.roles.near else None
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
    return job


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


def make_role(
    world: World,
    job: Job,
    request: Request,
    beginning: Beginning,
    slices: list[slice],
    node: Node,
    trainee: Trainee | None,
    rank_facts: list[dict[str, Any]],
) -> Role:
    """Build this rank's role from the beginning of the rounds; no rank loads what another role needs."""
    kind, index = job.layout.role(world.rank)
    path = checkpoint.folder_of(job.folder.checkpoints, beginning.after)
    if kind == "scheduler":
        return _make_scheduler(world, job, node, request, slices, rank_facts, beginning.manifest)
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
    rank_facts: list[dict[str, Any]],
    resumed: checkpoint.Manifest | None,
) -> Scheduler:
    from silofold.coordination import quorum, window  # noqa: PLC0415  (rank 0 alone)
    from silofold.job import tell  # noqa: PLC0415  (rank 0 alone)
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
    check_rounds(job.folder, earlier, job.data)
    sinks = [plugins.load("sink", table) for table in job.settings.sinks]
    try:
        present = tell.record_of(job, slices, rank_facts)
        changes = tell.changed_environment(job, request, present)
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
