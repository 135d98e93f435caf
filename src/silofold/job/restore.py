"""Where the rounds begin: the run folder is taken, and the newest checkpoint found whose every byte is what was written."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from silofold.comm import world as worlds
from silofold.core import recipes
from silofold.core.errors import CheckpointError, RunFolderError
from silofold.record import checkpoint, history, silo_state
from silofold.record.rundir import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

    from silofold.comm.world import World
    from silofold.job.request import Request
    from silofold.roles.job import Job

logger = logging.getLogger(__name__)


class Beginning(msgspec.Struct, frozen=True, kw_only=True):
    """Where the rounds begin: anew, or after a checkpoint."""

    after: int = 0
    """Round of the checkpoint; 0 for a new run."""
    counted: int = 0
    voids: int = 0
    manifest: checkpoint.Manifest | None = None


def claim(world: World, job: Job, request: Request) -> Beginning:
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
    found = recipes.resolve(record.settings, str(job.folder.record))
    changes = recipes.differences(found, job.settings) if exact else []
    if record.data_digest != job.data.digest:
        old = {entry.name: (entry.train, entry.test) for entry in record.silos}
        new = {silo.name: (silo.train.sha256, silo.test.sha256) for silo in job.data.silos}
        names = [name for name in sorted(old | new) if old.get(name) != new.get(name)]
        changes.append(f"data: {len(names)} of {len(new)} silos differ: {', '.join(names[:5]) or 'classes or shape'}")
    if changes:
        raise RunFolderError(
            "run-differs", f"{job.folder.path}: the run in it was started with others: " + "; ".join(changes)
        )


def restore_point(world: World, job: Job, request: Request, beginning: Beginning, slices: list[slice]) -> Beginning:
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
