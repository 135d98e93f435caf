"""Damaged LEAF shards, through a process of their own: one line each, soon, in little memory."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import budget
from mutate import damaged

TOOLS = Path(__file__).parents[2] / "data_tools"
READER = """
import json, pathlib, re, sys, time
from silofold.data.sources import leaf
from silofold.core.errors import SchemaError

def most():
    return 1024 * int(re.search("VmHWM:\\\\s*([0-9]+)", pathlib.Path("/proc/self/status").read_text())[1])

before = most()
for folder in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    begin, said = time.monotonic(), ""
    try:
        for shard in leaf.shards(folder, 1):
            for user, images, labels in leaf.read_shard(shard.path):
                assert images.shape == (len(labels), 28, 28)
    except SchemaError as error:
        said = str(error)
    print(json.dumps([folder.name, said, time.monotonic() - begin, most() - before]), flush=True)
"""
VALUES = [
    "NaN", "Infinity", "-1", "1e400", "-0.5", '"0"', "null", "true", "[]", "{}", "0.5", "1" * 5000, "99999999999999999999",
    "[" * 5000, '"\\ud800"', '"."', '"../a"', "1e-400", "2", '"a\\u0000b"', "[[]]", "[[[0]]]", "-0.0",
]  # fmt: skip


def shard(rng: random.Random) -> str:
    users = [f"f{number:04d}_{rng.randrange(90):02d}" for number in range(rng.randint(1, 3))]
    data: dict[str, dict[str, list[Any]]] = {}
    for user in users:
        labels = [rng.randrange(62) for _ in range(rng.randint(1, 3))]
        data[user] = {"x": [[rng.randrange(256) / 255 for _ in range(784)] for _ in labels], "y": labels}
    return json.dumps({"users": users, "num_samples": [len(data[user]["y"]) for user in users], "user_data": data})


def harmed(text: str, rng: random.Random) -> bytes:
    """Damage the bytes, or put another value in place of a number, a name or a bracket."""
    way = rng.randrange(3)
    if way == 0:
        return damaged(text.encode(), rng)
    value = rng.choice(VALUES)
    places = [at for at, letter in enumerate(text) if letter in (",:[" if way == 1 else "]}") and text[at : at + 2] != ",\n"]
    few = [at for at in places if not 300 < at < len(text) - 300] or places
    at = rng.choice(few if rng.random() < 0.5 else places)
    end = min((found for found in (text.find(mark, at + 1) for mark in ",]}") if found > 0), default=len(text))
    return (text[: at + 1] + value + text[end:]).encode()


@pytest.mark.timeout(900)
def test_damaged_shards(tmp_path: Path) -> None:
    rng = random.Random(16)  # noqa: S311  (no secret)
    for number in range(budget.count(1000, 100)):
        path = tmp_path / f"{number:05d}" / "train" / "all_0.json"
        path.parent.mkdir(parents=True)
        path.write_bytes(harmed(shard(rng), rng))
    words = [sys.executable, "-W", "error", "-c", READER, str(tmp_path)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=800)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr[-2000:]
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(rows) == len(list(tmp_path.iterdir()))
    for name, said, seconds, used in rows:
        assert "\n" not in said
        assert not said or said.startswith(str(tmp_path / name)), said
        assert seconds < 5, (name, said)
        assert used < 200e6, (name, said)
    accepted, slowest = sum(not said for _, said, *_ in rows), max(row[2] for row in rows)
    sys.stdout.write(
        f"{len(rows)} shards: {accepted} accepted, slowest {slowest:.2f} s, memory {rows[-1][3] / 1e6:.0f} MB\n"
    )
