"""What is read from disk once, by rank 0, and shared, so that ranks cannot disagree: settings, manifest, recorded rounds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from silofold import config
from silofold.core import console, plugins
from silofold.core.errors import ConfigError, RunFolderError
from silofold.core.summary import Summary
from silofold.data import silo as silos
from silofold.job.request import read_settings
from silofold.record import history
from silofold.record.rundir import RunFolder

if TYPE_CHECKING:
    from silofold.comm.world import World
    from silofold.job.request import Request

Inputs: TypeAlias = tuple[config.Settings, silos.Manifest, list[Summary]]
"""Settings, manifest, and the rounds that a replay follows."""


def read_inputs(world: World, request: Request) -> Inputs:
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
            check_rounds(RunFolder(request.replay), rounds, data)
    return settings, data, rounds


def check_rounds(folder: RunFolder, rounds: list[Summary], data: silos.Manifest) -> None:
    """Refuse a record that tells of other silos: what follows it would look for them."""
    if fault := next(history.contradictions(rounds, [silo.name for silo in data.silos]), None):
        raise RunFolderError("run-read", f"{folder.metrics}, {fault}")


def reach_of(world: World, settings: config.Settings, data: silos.Manifest) -> tuple[frozenset[int], ...]:
    """Find out which ranks see the file of each silo."""
    folder = Path(settings.data.folder)
    mine = bytes((folder / silo.file).exists() for silo in data.silos)
    seen = world.gather(mine)
    return tuple(frozenset(rank for rank, sees in enumerate(seen) if sees[silo]) for silo in range(len(data.silos)))


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
