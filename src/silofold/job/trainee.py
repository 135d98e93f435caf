"""What a rank that trains has: the model and its silos. Torch is imported here, and on those ranks alone."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from silofold.core.digest import sha256
from silofold.core.elements import Elements
from silofold.core.errors import ConfigError, UserCodeError
from silofold.core.fingerprint import Fingerprint, difference
from silofold.data import silo as silos
from silofold.record import environment
from silofold.roles.shelf import Shelf

if TYPE_CHECKING:
    from silofold.comm.world import World
    from silofold.core import topology
    from silofold.roles.job import Job
    from silofold.roles.worker import SiloSplit
    from silofold.training.local import Samples
    from silofold.training.side_by_side import Trainer
    from silofold.training.start_check import Found


class Trainee(NamedTuple):
    """What a rank that trains has: the model, its silos, the device in words, and what the start check found."""

    trainer: Trainer
    shelf: Shelf[SiloSplit, Samples]
    device: dict[str, str]
    found: Found


def host(world: World, job: Job) -> Trainee:
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
        from silofold.training import build, device, local, session, side_by_side  # noqa: PLC0415  (torch: on workers alone)

        gc.freeze()
        gc.enable()

        hosts = [host for host, _ in world.places]
        trainees = (*job.layout.worker_ranks, *job.layout.standby_ranks)
        beside = [rank for rank in trainees if hosts[rank] == hosts[world.rank]]
        place = device.choose(job.settings.device, beside.index(world.rank), job.settings.local.threads)
        data = job.data
        known = session.Data(data.classes, data.image_shape, job.examples, [silo.test.examples for silo in data.silos])
        model, found = session.tried(job.settings, known, place, again=world.rank == job.layout.worker_ranks.start)
        with build.building(job.settings.model["name"]):  # it may copy the model
            trainer = side_by_side.Trainer(model, job.settings.local)

        def load(wanted: SiloSplit) -> Samples:
            part = ahead.pop(wanted).result() if wanted in ahead else read(wanted)
            return local.load(part.images, part.labels, place)

        shelf: Shelf[SiloSplit, Samples] = Shelf(load, limit)
        for wanted in splits if not limit else ():
            shelf.take(wanted)
    return Trainee(trainer, shelf, device.describe(place), found)


def compare_models(world: World, job: Job, trainee: Trainee | None, rank_facts: list[dict[str, Any]]) -> None:
    """See that every worker and standby has made the same model.

    Raises
    ------
    UserCodeError
        Two of them differ.
    """
    mine = msgspec.json.encode(trainee.found.fingerprint if trainee else None)
    found = [msgspec.json.decode(answer, type=Fingerprint | None) for answer in world.start.gather(mine)]
    ranks = [rank for rank, one in enumerate(found) if one]
    places = [tuple(rank_facts[rank].get(key) for key in environment.OF_A_WORKER) for rank in ranks]
    with world.start.agree():
        if differs := difference([one for one in found if one], places):
            one, other = (job.layout.title(ranks[index]) for index in differs[:2])
            raise UserCodeError(
                "model-unequal",
                f"model {job.settings.model['name']}: {one} and {other} built different models of one seed: they differ in "
                f"{differs[2]}; expected all randomness from torch, numpy.random or random, and no order of a set "
                "(PYTHONHASHSEED)",
            )


def agree_on_elements(world: World, layout: topology.Layout, mine: Elements | None) -> Elements:
    """Share the table of elements, which must be the same on every rank that trains."""
    first, text = layout.worker_ranks.start, msgspec.json.encode(mine) if mine else b""
    told = world.start.gather(text if world.rank == first else sha256(text).encode())
    shared = msgspec.json.decode(told[first], type=Elements)
    expected = sha256(told[first]).encode()
    unequal = [rank for rank in range(first + 1, world.size) if told[rank] != expected]
    with world.start.agree():
        if world.rank in unequal and mine:
            raise ConfigError(
                "model-unequal",
                f"rank {world.rank} built another model than rank {first}: here | there: {mine.difference(shared)}",
            )
    return shared
