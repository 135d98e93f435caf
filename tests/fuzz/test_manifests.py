"""No checkpoint is accepted whose weights are not those of its digests, whoever sealed it."""

from __future__ import annotations

import json
import random
import resource
import shutil
import time
from typing import TYPE_CHECKING

import pytest

import made_run
from budget import count
from silofold import cli
from silofold.commands.results import trained
from silofold.core import recipes
from silofold.core.digest import sha256
from silofold.core.errors import SilofoldError
from silofold.record import checkpoint

if TYPE_CHECKING:
    from pathlib import Path

PARTS = 10


@pytest.fixture
def folder(tmp_path: Path, tiny: Path) -> Path:
    """The newest checkpoint of a run folder without fault."""
    return checkpoint.folder_of(made_run.make(tmp_path / "run", tiny).checkpoints, made_run.ROUNDS)


def tried(path: Path, capsys: pytest.CaptureFixture[str]) -> bool:
    """Read a checkpoint as evaluate does, then by the commands themselves; tell whether it was accepted."""
    began = time.monotonic()
    try:
        found = trained.find(path)
    except SilofoldError as fault:
        assert fault.exit_code == 2  # noqa: PT017  (others are accepted)
        accepted = False
    else:
        accepted = True
        assert sha256(found.vector.data) == found.manifest.model_sha256
        checkpoint.check_files(path, found.manifest, found.manifest.files)
        assert recipes.resolve(found.manifest.settings, "manifest") == found.settings
    for command in (["evaluate", str(path)], ["verify", str(path.parents[1])]):
        code = cli.main(command)
        told = capsys.readouterr()
        assert code in {0, 2}, told
        assert all(line.startswith("silofold: ") for line in told.err.splitlines()), told
        assert command[0] != "evaluate" or accepted or code == 2
    assert time.monotonic() - began < 5
    return accepted


@pytest.mark.parametrize("part", range(PARTS))
def test_a_changed_manifest(part: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / checkpoint.MANIFEST
    source = path.read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    per_part = count(30, 4)
    for number in range(part * per_part, (part + 1) * per_part):
        rng = random.Random(number)  # noqa: S311  (no secret)
        if number % 4 == 0:
            path.write_bytes(made_run.flipped(rng, source))
        elif number % 4 == 1:
            path.write_text(json.dumps(made_run.mutated(rng, json.loads(source))))
        else:
            made_run.reseal(path, made_run.mutated(rng, json.loads(source)))
        tried(folder, capsys)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


@pytest.mark.parametrize("part", range(PARTS))
def test_a_changed_shard_in_a_manifest_that_is_sealed_anew(
    part: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / checkpoint.MANIFEST
    tree = json.loads(path.read_bytes())
    shard = folder / "shard_1.h5"
    source = shard.read_bytes()
    digest = tree["model_sha256"]
    per_part = count(30, 4)
    for number in range(part * per_part, (part + 1) * per_part):
        shard.write_bytes(made_run.flipped(random.Random(number), source))  # noqa: S311  (no secret)
        made_run.reseal(path, tree)
        if tried(folder, capsys):
            assert trained.find(folder).manifest.model_sha256 == digest


def test_a_shard_of_other_weights_is_refused_and_the_one_before_taken(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = json.loads((folder / checkpoint.MANIFEST).read_bytes())
    shard = folder / "shard_0.h5"
    data = bytearray(shard.read_bytes())
    data[-9] ^= 1
    shard.write_bytes(data)
    made_run.reseal(folder / checkpoint.MANIFEST, tree)
    assert not tried(folder, capsys)
    assert trained.find(folder.parents[1]).manifest.round == made_run.ROUNDS - 1
    shutil.rmtree(folder)
    assert cli.main(["verify", str(folder.parents[1])]) == 2
