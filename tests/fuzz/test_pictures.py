"""Damaged picture files, through a process of their own: one line each, soon, in little memory, and nothing else said."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING

import pytest

import budget
import pictures
from mutate import damaged

if TYPE_CHECKING:
    from pathlib import Path

READER = """
import json, pathlib, re, sys, time
from silofold.data import picture
from silofold.core.errors import SchemaError

def most():
    return 1024 * int(re.search("VmHWM:\\\\s*([0-9]+)", pathlib.Path("/proc/self/status").read_text())[1])

before = most()
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    begin, said = time.monotonic(), ""
    try:
        picture.read(path, (16, 16, 3))
    except SchemaError as error:
        said = str(error)
    print(json.dumps([path.name, said, time.monotonic() - begin, most() - before]), flush=True)
"""


def sealed(data: bytes) -> bytes:
    """Put the right checksum behind every chunk of a damaged PNG, so that the decoder gets to see it."""
    found, at = bytearray(data), 8
    while at + 12 <= len(found):
        end = at + 8 + int.from_bytes(found[at : at + 4], "big")
        found[end : end + 4] = struct.pack(">I", zlib.crc32(found[at + 4 : end]))
        at = end + 4
    return bytes(found)


@pytest.mark.timeout(900)
def test_damaged_pictures(tmp_path: Path) -> None:
    rng, samples = random.Random(16), list(pictures.samples())  # noqa: S311  (no secret)
    for number in range(budget.count(2000, 200)):
        name, data = samples[number % len(samples)]
        harmed = damaged(data, rng)
        if name.endswith("png") and rng.random() < 0.7:
            harmed = sealed(harmed)
        (tmp_path / f"{number:05d}.{name}").write_bytes(harmed)
    words = [sys.executable, "-W", "error", "-c", READER, str(tmp_path)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=800)
    assert ended.returncode == 0, ended.stderr[-2000:]
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(rows) == len(list(tmp_path.iterdir()))
    for line in ended.stderr.splitlines():
        assert line.startswith("silofold: warning: ")
    for name, said, seconds, used in rows:
        assert "\n" not in said
        assert seconds < 5, (name, said)
        assert used < 200e6 + 2 * (tmp_path / name).stat().st_size, (name, said)
    accepted, slowest = sum(not said for _, said, *_ in rows), max(row[2] for row in rows)
    sys.stdout.write(
        f"{len(rows)} pictures: {accepted} accepted, slowest {slowest:.2f} s, memory {rows[-1][3] / 1e6:.0f} MB\n"
    )
