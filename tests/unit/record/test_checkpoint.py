from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from silofold.core.errors import CheckpointError
from silofold.core.topology import shard_slices
from silofold.record import array_files, checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

P = 17
MODEL = np.arange(P, dtype=np.float32) / 3
FIRST = np.arange(P) / 7
MOMENTUM = np.ones(5, np.float32)


def write(checkpoints: Path, number: int = 5, servers: int = 3, keep: int = 3) -> Path:
    """Write a checkpoint of three shards and one silo's momentum, as the ranks do."""
    draft = checkpoint.draft_of(checkpoints, number)
    slices = shard_slices(P, servers)
    saved = [
        array_files.write_arrays(draft, f"shard_{index}.h5", {"model": MODEL[cut], "first": FIRST[cut]})
        for index, cut in enumerate(slices)
    ]
    saved.append(array_files.write_arrays(draft, "silo_2.h5", {"momentum": MOMENTUM}))
    manifest = checkpoint.Manifest(
        schema=checkpoint.SCHEMA,
        round=number,
        counted=number,
        voids=0,
        parameters=P,
        bounds=[(cut.start, cut.stop) for cut in slices],
        model_sha256=hashlib.sha256(MODEL.data).hexdigest(),
        settings={"seed": 1, "local": {"lr": 0.5}},
        data_digest="d" * 64,
        files={file.file: file.sha256 for file in saved},
    )
    return checkpoint.publish(checkpoints, manifest, keep)


@pytest.mark.parametrize("written", [1, 2, 3, 17])
@pytest.mark.parametrize("read", [1, 2, 3, 5, 17])
def test_round_trip_at_any_other_cut(tmp_path: Path, written: int, read: int) -> None:
    folder = write(tmp_path, servers=written)
    assert folder == tmp_path / "round_00005"
    manifest = checkpoint.read_manifest(folder)
    assert (manifest.round, manifest.counted, manifest.parameters) == (5, 5, P)
    assert manifest.settings == {"seed": 1, "local": {"lr": 0.5}}
    checkpoint.check_files(folder, manifest, manifest.files)
    parts = [checkpoint.read_shards(folder, manifest, cut) for cut in shard_slices(P, read)]
    for name, whole in (("model", MODEL), ("first", FIRST)):
        assert all(part[name].dtype == whole.dtype for part in parts)
        assert np.concatenate([part[name] for part in parts]).tobytes() == whole.tobytes()
    assert array_files.read_arrays(folder / "silo_2.h5")["momentum"].tolist() == [1.0] * 5


def test_the_same_arrays_make_the_same_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    for path in sorted(first.iterdir()):
        assert path.read_bytes() == (second / path.name).read_bytes()
    assert sorted(path.name for path in first.iterdir()) == [
        "manifest.json", "shard_0.h5", "shard_1.h5", "shard_2.h5", "silo_2.h5",
    ]  # fmt: skip


def edit(folder: Path, **changes: object) -> None:
    path = folder / checkpoint.MANIFEST
    tree = msgspec.json.decode(path.read_bytes()) | changes
    path.write_bytes(msgspec.json.encode({key: value for key, value in tree.items() if value is not None}))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def swap(folder: Path) -> None:
    (folder / "shard_0.h5").rename(folder / "x")
    (folder / "shard_1.h5").rename(folder / "shard_0.h5")
    (folder / "x").rename(folder / "shard_1.h5")


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "manifest.json: No such file"),
    "empty manifest": (lambda folder: cut(folder / "manifest.json", 0), "manifest.json: damaged: "),
    "manifest cut short": (lambda folder: cut(folder / "manifest.json", 0.5), "manifest.json: damaged: "),
    "manifest is no text": (lambda folder: (folder / "manifest.json").write_bytes(b'{"\xff": 1}'), "damaged: "),
    "other schema": (lambda folder: edit(folder, schema=3), "found schema 3, expected 2"),
    "other round": (lambda folder: edit(folder, round=6), "is of round 6, but the folder is round_00005"),
    "unknown key": (lambda folder: edit(folder, extra=1), "damaged: Object contains unknown field `extra`"),
    "missing key": (lambda folder: edit(folder, data_digest=None), "damaged: Object missing required field"),
    "wrong type": (lambda folder: edit(folder, counted="5"), "damaged: Expected `int`, got `str`"),
    "hole between shards": (lambda folder: edit(folder, bounds=[[0, 6], [7, 12], [12, 17]]), "seal"),
    "end is missing": (lambda folder: edit(folder, bounds=[[0, 6], [6, 12]]), "seal"),
    "no shard at all": (lambda folder: edit(folder, bounds=[]), "seal"),
    "other size": (lambda folder: edit(folder, parameters=18), "seal"),
    "shard is missing": (lambda folder: (folder / "shard_1.h5").unlink(), "shard_1.h5: No such file"),
    "shard with a flipped bit": (lambda folder: flip(folder / "shard_1.h5"), "shard_1.h5: damaged: its sha256"),
    "shard cut short": (lambda folder: cut(folder / "shard_2.h5", 0.9), "shard_2.h5: damaged: its sha256"),
    "shard is empty": (lambda folder: cut(folder / "shard_0.h5", 0), "shard_0.h5: damaged: its sha256"),
    "shards swapped": (swap, "shard_0.h5: damaged: its sha256"),
    "momentum with a flipped bit": (lambda folder: flip(folder / "silo_2.h5"), "silo_2.h5: damaged: its sha256"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_detected(tmp_path: Path, kind: str) -> None:
    damage, story = DAMAGE[kind]
    folder = write(tmp_path)
    damage(folder)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.check_files(folder, manifest := checkpoint.read_manifest(folder), sorted(manifest.files))
    assert story in str(caught.value)
    assert str(folder) in str(caught.value)


def test_bounds_that_are_no_pairs(tmp_path: Path) -> None:
    folder = write(tmp_path)
    edit(folder, bounds=[[0, 17, 3]])
    with pytest.raises(CheckpointError):
        checkpoint.read_manifest(folder)


def test_a_shard_without_a_digest(tmp_path: Path) -> None:
    folder = write(tmp_path)
    edit(folder, files={"shard_0.h5": "0" * 64})
    with pytest.raises(CheckpointError):
        checkpoint.read_manifest(folder)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    folder = write(tmp_path)
    manifest = checkpoint.read_manifest(folder)
    (folder / "shard_1.h5").write_bytes(b"no HDF5")
    with pytest.raises(CheckpointError, match=r"shard_1\.h5: "):
        checkpoint.read_shards(folder, manifest, slice(0, P))
    assert len(checkpoint.read_shards(folder, manifest, slice(0, 6))["model"]) == 6  # shard_0 alone


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for number in range(1, 6):
        write(tmp_path, number, keep=2)
    assert [path.name for path in checkpoint.found(tmp_path)] == ["round_00005", "round_00004"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round_00004", "round_00005"]


def test_a_newer_one_that_cannot_be_used_pushes_out_none(tmp_path: Path) -> None:
    write(tmp_path, 4, keep=1).rename(tmp_path / "round_00009")
    folder = write(tmp_path, 5, keep=1)
    assert checkpoint.found(tmp_path) == [tmp_path / "round_00009", folder]
    folder = write(tmp_path, 6, keep=1)
    assert checkpoint.found(tmp_path) == [tmp_path / "round_00009", folder]


def test_the_newest_of_more_than_99999_rounds(tmp_path: Path) -> None:
    for number in (99_999, 100_000):
        write(tmp_path, number)
    assert [path.name for path in checkpoint.found(tmp_path)] == ["round_100000", "round_99999"]


def test_a_round_that_is_written_again_replaces_the_old_one(tmp_path: Path) -> None:
    folder = write(tmp_path)
    flip(folder / "shard_0.h5")
    assert write(tmp_path) == folder
    manifest = checkpoint.read_manifest(folder)
    checkpoint.check_files(folder, manifest, manifest.files)


def test_drafts_are_no_checkpoints_and_are_cleared(tmp_path: Path) -> None:
    folder = write(tmp_path)
    array_files.write_arrays(checkpoint.draft_of(tmp_path, 6), "shard_0.h5", {"model": MODEL})
    assert (tmp_path / ".round_00006.tmp" / "shard_0.h5").exists()
    assert checkpoint.found(tmp_path) == [folder]
    checkpoint.clear_drafts(tmp_path)
    assert list(tmp_path.iterdir()) == [folder]
    checkpoint.clear_drafts(tmp_path / "nowhere")


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "round_00001").write_bytes(b"a file")
    assert checkpoint.found(tmp_path) == []
    assert checkpoint.found(tmp_path / "nowhere") == []


@pytest.mark.parametrize("megabytes", [1, 3])
def test_a_full_disk(megabytes: int, tmp_path: Path) -> None:
    """Of three arrays of 2 MB the limit cuts the first, or what HDF5 writes when it closes the file."""
    program = (
        "import resource, pathlib, numpy, silofold.record.array_files as a, silofold.core.errors as e\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({megabytes} * 2**20,) * 2)\n"
        f"try: a.write_arrays(pathlib.Path({str(tmp_path)!r}), 's.h5', dict.fromkeys('abc', numpy.ones(2**18)))\n"
        "except e.CheckpointError as fault: print(fault)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"{tmp_path}/s.h5: cannot write the checkpoint: File too large\n"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"shard_0\.h5: cannot write the checkpoint: Not a directory$"):
        array_files.write_arrays(tmp_path / "file" / "draft", "shard_0.h5", {"model": MODEL})
    manifest = checkpoint.read_manifest(write(tmp_path))
    with pytest.raises(CheckpointError, match=r"round_00005: cannot write the checkpoint: No such file or directory$"):
        checkpoint.publish(tmp_path, manifest, 3)  # the draft has its final name already


@pytest.mark.timeout(10)
def test_a_file_that_says_to_be_of_any_size_is_not_read(tmp_path: Path) -> None:
    folder = write(tmp_path)
    manifest = checkpoint.read_manifest(folder)
    os.truncate(folder / "shard_0.h5", 2**40)
    with pytest.raises(CheckpointError, match=r"shard_0.h5: damaged: found 1099511627776 bytes, expected at most"):
        checkpoint.check_files(folder, manifest, manifest.files)
