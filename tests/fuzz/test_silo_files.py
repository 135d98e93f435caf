"""Silo files that were mutated, each read by a process of its own: refused in one line, or read as they were written."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from budget import count
from silofold.data import silo

if TYPE_CHECKING:
    from pathlib import Path

CASES = count(500, 10)
SEED = 20261
SUBJECT = """
import json, resource, sys
from pathlib import Path
from silofold.core import console
from silofold.data import silo
from silofold.core.errors import SilofoldError
folder = Path(sys.argv[1])
told = {}
try:
    manifest = silo.read_manifest(folder)
    for split in silo.SPLITS:
        found = silo.read_split(folder, manifest.silos[0], split, manifest)
        parts = found.images, found.labels.astype("<i4"), found.writer.astype("<i4")
        told[split] = b"".join(part.tobytes() for part in parts).hex()
except SilofoldError as fault:
    told["code"] = console.error(fault)
both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
# the kernel's record of this process begins with who started it; that of its memory does not
own = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
told["rss"] = 1024 * int(own.split()[1])
told["seconds"] = sum(use.ru_utime + use.ru_stime for use in both)
print(json.dumps(told))
"""
"""Reads both splits of the first silo; tells their bytes or a fault, and the memory and time of it and its child."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, list[tuple[int, int]]]:
    """A folder with one silo, the bytes of its file, and where its pictures, labels and writers lie in them."""
    folder = tmp_path_factory.mktemp("sound")
    rng = np.random.default_rng(1)
    layout = silo.Layout(("a", "b", "ç"), (6, 5, 3), "none", "drawn by a test")

    def stream(size: int) -> silo.SplitStream:
        images = rng.integers(0, 256, (size, 6, 5, 3), np.uint8)
        return silo.SplitStream(size, [(images, rng.integers(0, 3, size, np.int32), rng.integers(0, 300, size, np.int32))])

    writers = tuple(f"writer {number}" for number in range(300))
    info = silo.write_silo(folder / "x.h5", "x", writers, layout, {"train": stream(40), "test": stream(9)})
    silo.write_manifest(folder, layout, [info])
    with h5py.File(folder / "x.h5", "r") as file:
        datasets = [file[split][name] for split in silo.SPLITS for name in ("images", "labels", "writer")]
        places = [(found.id.get_offset(), found.id.get_offset() + found.nbytes) for found in datasets]
    return folder, (folder / "x.h5").read_bytes(), places


def mutated(data: bytes, places: list[tuple[int, int]], number: int) -> bytes:
    """Change a file: an even number its metadata alone, an odd one its contents, its length, or whole pieces."""
    rng = np.random.default_rng((SEED, number))
    inside = np.zeros(len(data), bool)
    for start, stop in places:
        inside[start:stop] = True
    changed = bytearray(data)
    if number % 2 == 0:
        where = rng.choice(np.flatnonzero(~inside & (np.arange(len(data)) < max(stop for _, stop in places) + 4096)), 8)
        for place in where[: rng.integers(1, 9)]:
            changed[place] = rng.integers(0, 256) if rng.random() < 0.3 else changed[place] ^ (1 << int(rng.integers(8)))
        return bytes(changed)
    match number // 2 % 5:
        case 0:
            changed[rng.choice(np.flatnonzero(inside))] ^= 1 << int(rng.integers(8))
        case 1:
            del changed[int(rng.integers(len(data))) :]
        case 2:
            changed += rng.bytes(int(rng.integers(1, 5000)))
        case 3:
            start = int(rng.integers(len(data) - 64))
            changed[start : start + 64] = bytes([int(rng.choice([0, 255]))]) * 64
        case _:
            start, stop = sorted(rng.integers(0, len(data) - 512, 2).tolist())
            changed[start : start + 256] = changed[stop : stop + 256]
    return bytes(changed)


def read(folder: Path) -> dict[str, Any]:
    """Read the silo by a fresh process, which remembers nothing."""
    command = [sys.executable, "-c", SUBJECT, str(folder)]
    done = subprocess.run(
        command, env={"XDG_CACHE_HOME": "/dev/null"}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert len(done.stderr.splitlines()) == ("code" in told), done.stderr
    assert done.stderr.rstrip("\n").isprintable()
    assert ("x.h5" in done.stderr) == ("code" in told)
    return told


@pytest.mark.timeout(7200)
def test_a_mutated_file_is_refused_or_what_was_written(
    sound: tuple[Path, bytes, list[tuple[int, int]]], tmp_path: Path
) -> None:
    folder, data, places = sound
    (tmp_path / silo.MANIFEST).write_bytes((folder / silo.MANIFEST).read_bytes())
    info = silo.read_manifest(folder).silos[0]
    refused, most_memory, most_seconds = 0, 0, 0.0
    for number in range(CASES):
        changed = mutated(data, places, number)
        (tmp_path / "x.h5").write_bytes(changed)
        told = read(tmp_path)
        most_memory, most_seconds = max(most_memory, told["rss"]), max(most_seconds, told["seconds"])
        assert told["rss"] <= 2 * len(changed) + 200 * 10**6, number
        assert told["seconds"] < 5, number
        if "code" in told:
            refused += 1
            assert told["code"] == 2, number
            continue
        for split in silo.SPLITS:
            found = hashlib.sha256(bytes.fromhex(told[split])).hexdigest()
            assert found == getattr(info, split).sha256, number
    sys.stdout.write(f"{CASES} files: {refused} refused; at most {most_memory / 1e6:.0f} MB and {most_seconds:.1f} s\n")
    assert refused > 0


def test_the_file_itself_is_read(sound: tuple[Path, bytes, list[tuple[int, int]]]) -> None:
    assert "code" not in read(sound[0])
