"""Damaged checkpoints end to end: the damage is named and the one before taken, or the run refused; never other bits."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

import mpirun

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def flip(path: Path, share: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * share)] ^= 1
    path.write_bytes(data)


def flip_digit(path: Path) -> None:
    """Change one byte that leaves valid JSON of the right types: the digest of a shard."""
    text = path.read_text()
    at = text.index("shard_0.h5") + len('shard_0.h5": "')
    path.write_text(text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :])


def swap(folder: Path) -> None:
    """Put a shard of the round before in the place of this one's: whole and readable, but of another round."""
    before = folder.with_name("round_00002")
    name = "shard_0.h5"
    (folder / name).rename(folder / "x")
    (before / name).rename(folder / name)
    (folder / "x").rename(before / name)


def half_renamed(folder: Path) -> None:
    """As if the machine had died between the last file and the new name."""
    folder.rename(folder.with_name(f".{folder.name}.tmp"))


def to_folder(path: Path) -> None:
    """What no process can read as a file, the superuser's neither."""
    path.unlink()
    path.mkdir()


def state(folder: Path, silo: int) -> Path:
    """Return the file of what a silo keeps after round 3."""
    return folder.parents[1] / "state" / f"silo_{silo:04d}.r00003.h5"


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


# kind → damage to the newest checkpoint, what the warning says, the round that the run goes on from
DAMAGE: dict[str, tuple[Callable[[Path], object], str, int]] = {
    "shard cut short": (lambda folder: cut(folder / "shard_1.h5", 0.7), "shard_1.h5: damaged: its sha256", 2),
    "shard with a flipped bit": (lambda folder: flip(folder / "shard_0.h5"), "shard_0.h5: damaged: its sha256", 2),
    "momentum with a flipped bit": (lambda folder: flip(state(folder, 3), 0.99), "silo_0003.r00003.h5: damaged: ", 2),
    "manifest with a flipped byte": (lambda folder: flip_digit(folder / "manifest.json"), "manifest.json: damaged", 2),
    "empty manifest": (lambda folder: cut(folder / "manifest.json", 0), "manifest.json: damaged", 2),
    "missing file": (lambda folder: state(folder, 5).unlink(), "silo_0005.r00003.h5: No such file", 2),
    "unreadable file": (lambda folder: to_folder(folder / "shard_0.h5"), "shard_0.h5: found no regular file", 2),
    "empty folder": (emptied, "manifest.json: No such file", 2),
    "wrong round": (lambda folder: folder.rename(folder.with_name("round_00007")), "of round 3, but the folder is", 2),
    "shards of two rounds swapped": (swap, "shard_0.h5: damaged: its sha256", 1),
    "half renamed": (half_renamed, "", 2),
    "extra file": (lambda folder: (folder / "core.4711").write_bytes(b"x"), "", 3),
}


@pytest.fixture(scope="module")
def runs(tiny: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of three rounds, and one of four that nothing disturbed."""
    folder = tmp_path_factory.mktemp("damage")
    for name, count in (("three", 3), ("four", 4)):
        ended = mpirun.train(
            4, recipe, tiny, folder / name, f"rounds.count={count}", "roles.servers=2", "local.keep_momentum=true"
        )
        assert ended.code == 0, ended
    return folder / "three", folder / "four"


def go_on(out: Path) -> mpirun.Ended:
    return mpirun.on_ranks(3, ["-m", "silofold", "train", "--resume", str(out), "--set", "rounds.count=4", "--set",
                               "roles.servers=1"])  # fmt: skip


def table(out: Path) -> list[tuple[int, str, float]]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [(entry["round"], entry["model_sha256"], entry["test_loss"]) for entry in lines]


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_one_before_is_taken(kind: str, runs: tuple[Path, Path], tmp_path: Path) -> None:
    damage, story, goes_on_from = DAMAGE[kind]
    out = tmp_path / "run"
    shutil.copytree(runs[0], out)
    damage(out / "checkpoints" / "round_00003")
    ended = go_on(out)
    assert ended.code == 0, ended
    assert "Traceback" not in ended.err
    warnings = [line for line in ended.err.splitlines() if "cannot be used, trying the one before" in line]
    assert len(warnings) == (3 - goes_on_from if story else 0)
    assert all(story in line for line in warnings)
    assert json.loads((out / "run.json").read_text())["start_round"] == goes_on_from + 1
    assert table(out) == table(runs[1])
    names = [path.name for path in (out / "checkpoints").iterdir()]
    assert "round_00004" in names
    assert not [name for name in names if name.startswith(".")]


def test_a_refusal_when_none_is_left(runs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(runs[0], out)
    for folder, harm in zip(sorted((out / "checkpoints").iterdir()), (flip, cut, flip_digit), strict=True):
        if harm is flip_digit:
            flip_digit(folder / "manifest.json")
        elif harm is cut:
            cut(folder / "shard_1.h5", 0.5)
        else:
            flip(folder / "shard_0.h5")
    before = (out / "metrics.jsonl").read_bytes()
    ended = go_on(out)
    assert (ended.code, len(ended.faults())) == (2, 1)
    assert "none of 3 checkpoints can be used; the newest: " in ended.faults()[0]
    assert "round_00003/manifest.json: damaged: its seal is not" in ended.faults()[0]
    assert "Traceback" not in ended.err
    assert (out / "metrics.jsonl").read_bytes() == before
    assert not (out / "DONE").exists()
