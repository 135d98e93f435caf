"""Checkpoints of models that are trained apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from silofold.core.digest import sha256
from silofold.core.errors import CheckpointError
from silofold.record import checkpoint, model_set
from silofold.record.model_set import State

if TYPE_CHECKING:
    from pathlib import Path


def states(*, momentum: bool, count: int = 3) -> list[State]:
    rng = np.random.default_rng(1)
    return [
        State(rng.normal(size=5).astype(np.float32), rng.normal(size=4).astype(np.float32) if momentum else None)
        for _ in range(count)
    ]


def write(folder: Path, number: int, held: list[State], keep: int = 2) -> Path:
    model_set.write(folder, number, held, {"seed": 1}, "0" * 64, keep)
    return checkpoint.folder_of(folder, number)


@pytest.mark.parametrize("momentum", [False, True])
def test_what_is_written_reads_back(tmp_path: Path, *, momentum: bool) -> None:
    held = states(momentum=momentum)
    number, found = model_set.read(write(tmp_path, 7, held), 3)
    assert number == 7
    for one, other in zip(found, held, strict=True):
        assert np.array_equal(one.vector, other.vector)
        assert (one.momentum is None) is (other.momentum is None) is not momentum
        assert other.momentum is None or (one.momentum is not None and np.array_equal(one.momentum, other.momentum))
    manifest = checkpoint.read_manifest(tmp_path / "round_00007")
    assert manifest.model_sha256 == model_set.digest(held) == sha256(np.concatenate([one.vector for one in held]).tobytes())
    assert (manifest.counted, manifest.parameters, manifest.bounds) == (7, 15, [(0, 5), (5, 10), (10, 15)])


@pytest.mark.parametrize("count", [1, 2, 4])
def test_another_number_of_models_is_refused(count: int, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"found 3 models, expected {count}"):
        model_set.read(write(tmp_path, 1, states(momentum=False)), count)


@pytest.mark.parametrize("name", ["shard_1.h5", "silo_2.h5"])
def test_a_flipped_byte_is_found(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, 1, states(momentum=True)) / name
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged: its sha256"):
        model_set.read(path.parent, 3)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for number in range(1, 5):
        write(tmp_path, number, states(momentum=False))
    assert [path.name for path in checkpoint.found(tmp_path)] == ["round_00004", "round_00003"]
