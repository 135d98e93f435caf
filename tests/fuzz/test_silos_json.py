"""Mutated ``silos.json``, some with a digest that fits again: one kind of error, or silos that are what it says."""

from __future__ import annotations

import copy
import hashlib
import json
import resource
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import tiny_silos
from budget import count
from silofold.core.errors import SchemaError
from silofold.data import silo

if TYPE_CHECKING:
    from pathlib import Path

CASES = count(500, 60)
SEED = 20262
HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 1.5, 2**31, 2**62, 2**63, 2**64, -(2**63), 10**40, 10**4000, float("nan"), float("inf"), "", "a",
    "\x1b[31m", "a\nsilofold: error: no", "\x00", "\u202e", "..", "../x", "/etc/passwd", "x" * 10**6, [], {}, [[]],
    [1], ["a"], [0] * 10**5, {"a": 1}, "0" * 64,
)  # fmt: skip


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the paths of all values of a JSON tree."""
    found = [path] if path else []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return found + [inner for key, value in items for inner in places(value, (*path, key))]


def reseal(tree: Any) -> None:
    """Give a manifest the digest of its values, by the definition, where it still has such values."""
    try:
        rows = [[one["name"], one["train"]["sha256"], one["test"]["sha256"]] for one in tree["silos"]]
        facts = {"classes": tree["classes"], "image_shape": tree["image_shape"], "silos": rows}
        text = json.dumps(facts, separators=(",", ":"), sort_keys=True)
        tree["digest"] = hashlib.sha256(text.encode()).hexdigest()
    except (KeyError, TypeError, ValueError, IndexError):
        return


def spelled(tree: Any) -> bytes:
    """Write a tree down, numbers of thousands of digits too."""
    return json.dumps(tree).replace('"10**4000"', "1" + "0" * 4000).encode()


def mutated(text: bytes, number: int) -> bytes:
    """Change values of a manifest, or its bytes."""
    rng = np.random.default_rng((SEED, number))
    kind = number % 8
    if kind == 0:
        changed = bytearray(text)
        for place in rng.integers(0, len(text), int(rng.integers(1, 5))):
            changed[place] ^= 1 << int(rng.integers(8))
        return bytes(changed)
    if kind == 1:
        cut = int(rng.integers(len(text)))
        ends = [text[:cut], text[:cut] + b"[" * 10**6, text + b"}" * 9, text[:cut] + rng.bytes(30) + text[cut:]]
        return ends[int(rng.integers(len(ends)))]
    tree = json.loads(text)
    for _ in range(int(rng.integers(1, 3))):
        paths = places(tree)
        path = paths[int(rng.integers(len(paths)))]
        inner = tree
        for key in path[:-1]:
            inner = inner[key]
        if isinstance(inner, dict) and rng.random() < 0.15:
            del inner[path[-1]]
            continue
        value = HOSTILE[int(rng.integers(len(HOSTILE)))]
        inner[path[-1]] = "10**4000" if value == 10**4000 else copy.deepcopy(value)
    if kind not in {2, 4}:
        reseal(tree)
    return spelled(tree)


def memory() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.timeout(3600)
def test_a_mutated_manifest_is_refused_or_what_it_says(tiny: Path, tmp_path: Path) -> None:
    text = (tiny / silo.MANIFEST).read_bytes()
    for path in tiny.glob("*.h5"):
        (tmp_path / path.name).symlink_to(path)
    accepted = unread = 0
    for number in range(CASES):
        changed, before = mutated(text, number), memory()
        (tmp_path / silo.MANIFEST).write_bytes(changed)
        try:
            manifest = silo.read_manifest(tmp_path)
        except SchemaError as fault:
            words = str(fault)
        else:
            words = str(tmp_path)
            accepted += 1
            for info in manifest.silos:
                try:
                    found = silo.read_split(tmp_path, info, "train", manifest)
                except SchemaError:
                    unread += 1
                    continue
                parts = found.images, found.labels.astype("<i4"), found.writer.astype("<i4")
                assert hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest() == info.train.sha256, number
        assert str(tmp_path) in words, number
        assert len(words) < 2000, number
        assert memory() - before <= 2 * len(changed) + 200 * 10**6, number
    sys.stdout.write(f"{CASES} manifests: {accepted} accepted; {unread} of their silos were refused when they were read\n")
    assert 0 < accepted < CASES


def test_the_manifest_itself_is_read(tiny: Path) -> None:
    tree = json.loads((tiny / silo.MANIFEST).read_bytes())
    digest = tree["digest"]
    reseal(tree)
    assert tree["digest"] == digest
    assert silo.parse_manifest(spelled(tree), tiny / tiny_silos.__name__) == silo.read_manifest(tiny)
