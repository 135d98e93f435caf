"""What silos keep: written once, named by digest, and gone when nothing needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from silofold.core.digest import sha256
from silofold.core.errors import CheckpointError
from silofold.core.reports import StateOf
from silofold.record import array_files, checkpoint, silo_state

if TYPE_CHECKING:
    from pathlib import Path

STATE = {"momentum": np.arange(5, dtype=np.float32)}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def publish(checkpoints: Path, number: int, states: dict[int, StateOf], keep: int = 2) -> None:
    draft = checkpoint.draft_of(checkpoints, number)
    model = np.ones(3, np.float32)
    saved = array_files.write_arrays(draft, "shard_0.h5", {"model": model})
    manifest = checkpoint.Manifest(
        schema=checkpoint.SCHEMA, round=number, counted=number, voids=0, parameters=3, bounds=[(0, 3)],
        model_sha256=sha256(model.data), settings={}, data_digest="d" * 64, files={saved.file: saved.sha256},
        states=states,
    )  # fmt: skip
    checkpoint.publish(checkpoints, manifest, keep)


def test_round_trip_and_damage(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    silo_state.write(folder, 3, 12, STATE)
    assert names(folder) == ["silo_0003.r00012.h5"]
    digest = silo_state.digest(STATE)
    assert silo_state.read(folder, 3, 12, 5, digest)["momentum"].tolist() == STATE["momentum"].tolist()
    silo_state.check(folder, {3: StateOf(12, digest)}, [3])
    for length, expected in ((4, digest), (5, "0" * 64)):
        with pytest.raises(CheckpointError, match=r"silo_0003\.r00012\.h5: "):
            silo_state.read(folder, 3, 12, length, expected)
    with pytest.raises(CheckpointError, match="No such file"):
        silo_state.read(folder, 3, 11)


def test_the_digest_tells_names_lengths_and_bytes_apart() -> None:
    others = [{"momentum": np.arange(6, dtype=np.float32)}, {"m": STATE["momentum"]}, {"momentum": -STATE["momentum"]}, {}]
    assert len({silo_state.digest(one) for one in (STATE, *others)}) == 5
    assert silo_state.digest(dict(STATE)) == silo_state.digest(STATE)


def test_files_go_when_nothing_needs_them(tmp_path: Path) -> None:
    folder, checkpoints = tmp_path / "state", tmp_path / "checkpoints"
    files = silo_state.Files(folder, checkpoints, {})
    for number in (1, 2):
        for silo in (0, 1):
            silo_state.write(folder, silo, number, STATE)
        files.moved((0, 1), number)
    assert names(folder) == ["silo_0000.r00002.h5", "silo_0001.r00002.h5"]
    files.begin()
    silo_state.write(folder, 0, 3, STATE)
    files.moved((0,), 3)
    assert len(names(folder)) == 3  # the checkpoint that is being written names the one before
    publish(checkpoints, 2, {silo: StateOf(2, "a" * 64) for silo in (0, 1)})
    files.published()
    assert len(names(folder)) == 3
    for number in (4, 5):
        silo_state.write(folder, 0, number, STATE)
        files.moved((0,), number)
        files.begin()
        publish(checkpoints, number, {0: StateOf(number, "a" * 64), 1: StateOf(2, "a" * 64)})
        files.published()
    assert names(folder) == ["silo_0000.r00004.h5", "silo_0000.r00005.h5", "silo_0001.r00002.h5"]


def test_a_job_that_goes_on_removes_what_no_checkpoint_names(tmp_path: Path) -> None:
    folder, checkpoints = tmp_path / "state", tmp_path / "checkpoints"
    for number in (1, 2, 3):
        silo_state.write(folder, 0, number, STATE)
    (folder / ".silo_0000.r00004.h5.tmp").write_bytes(b"half")
    (folder / "notes").write_bytes(b"the user's own")
    publish(checkpoints, 2, {0: StateOf(2, "a" * 64)})
    silo_state.Files(folder, checkpoints, {0: StateOf(2, "a" * 64)})
    assert names(folder) == ["notes", "silo_0000.r00002.h5"]


def test_a_checkpoint_of_an_older_version_is_adopted(tmp_path: Path) -> None:
    saved = tmp_path / "round_00004"
    entry = array_files.write_arrays(saved, "silo_7.h5", STATE)
    manifest = checkpoint.Manifest(
        schema=1, round=4, counted=4, voids=0, parameters=3, bounds=[(0, 3)], model_sha256="a" * 64, settings={},
        data_digest="d" * 64, files={entry.file: entry.sha256},
    )  # fmt: skip
    assert silo_state.adopt(tmp_path / "state", saved, manifest) == {7: StateOf(4, silo_state.digest(STATE))}
    assert silo_state.read(tmp_path / "state", 7, 4)["momentum"].tolist() == STATE["momentum"].tolist()
