"""A finished run folder that is made without MPI, and the damage that can be done to its files."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from records import summary
from silofold.core import recipes
from silofold.core.digest import sha256
from silofold.core.summary import SiloSummary
from silofold.data import silo as silos
from silofold.job import tell
from silofold.record import array_files, checkpoint, history
from silofold.record.rundir import RunFolder
from silofold.training import build

if TYPE_CHECKING:
    import random
    from pathlib import Path

ROUNDS = 2


def make(out: Path, data: Path, **settings: Any) -> RunFolder:
    """Write what a run of two rounds on a folder of silos leaves; its model is that of the seed."""
    folder = RunFolder(out)
    out.mkdir()
    found = silos.read_manifest(data)
    resolved = recipes.resolve({"data": {"folder": str(data)}, "rounds": {"count": ROUNDS}} | settings, "a test")
    model = build.build(resolved.model, found.classes, found.image_shape, resolved.seed, torch.device("cpu"))
    digest = sha256(model.host.data)
    ranks = [{"rank": rank, "role": role, "host": "here", "cores": 1} for rank, role in enumerate(("scheduler", "server_0"))]
    folder.write_record(tell.facts(resolved, found, 1, model.size) | {"ranks": ranks})
    told = [
        SiloSummary(silo=k, name=one.name, accuracy=0.5, test_examples=one.test.examples, train_examples=9, train_loss=1.0)
        for k, one in enumerate(found.silos)
    ]
    rounds = [
        summary(number, cohort=[0, 1], accepted=[0], silos=told, model_sha256=digest) for number in range(1, ROUNDS + 1)
    ]
    history.History(folder.metrics, rounds).close()
    for number in range(1, ROUNDS + 1):
        draft = checkpoint.draft_of(folder.checkpoints, number)
        bounds = [(0, model.size // 2), (model.size // 2, model.size)]
        files = [
            array_files.write_arrays(draft, f"shard_{i}.h5", {"model": model.host[slice(*b)]}) for i, b in enumerate(bounds)
        ]
        manifest = checkpoint.Manifest(
            schema=checkpoint.SCHEMA, round=number, counted=number, voids=0, parameters=model.size, bounds=bounds,
            model_sha256=digest, settings=msgspec.to_builtins(resolved), data_digest=found.digest,
            files={one.file: one.sha256 for one in files},
        )  # fmt: skip
        checkpoint.publish(folder.checkpoints, manifest, ROUNDS)
    folder.model.write_bytes(model.encode())
    folder.done.write_text(f"{digest}\n", encoding="ascii")
    return folder


def reseal(path: Path, tree: dict[str, Any]) -> None:
    """Write a manifest with the digests of its files and the seal that fits, as anybody can."""
    for name in tree["files"] if isinstance(tree.get("files"), dict) else ():
        file = path.parent / name
        if file.is_file():
            tree["files"][name] = hashlib.sha256(file.read_bytes()).hexdigest()
    try:
        typed = msgspec.convert(tree | {"seal": ""}, checkpoint.Manifest)
        tree["seal"] = checkpoint._seal(typed)
    except (msgspec.ValidationError, RecursionError, UnicodeEncodeError):
        pass
    path.write_text(json.dumps(tree), encoding="utf-8")


VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**53,
    2**63,
    10**30,
    -(10**400),
    1.5,
    1e308,
    "",
    "x",
    "0" * 64,
    "../../etc/passwd",
    "a\nb\x1b[31m",
    "\ud800",
    "ü" * 9,
    "x" * 10**5,
    "os:system",
    "nowhere.at:All",
    [],
    [0],
    [[]],
    ["a"] * 9,
    {},
    {"name": "os:system"},
    {"a": {"b": [1]}},
    float("inf"),
    float("nan"),
)


def places(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the paths to all that is in a tree, but for what is deep in it."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    inner = inner if len(at) < 9 else ()
    return [at, *(place for key, value in inner for place in places(value, (*at, key)))]


def mutated(rng: random.Random, tree: dict[str, Any]) -> dict[str, Any]:
    """Change a tree of JSON in one to three places: another value, nothing, one more, much deeper."""
    copy: dict[str, Any] = json.loads(json.dumps(tree))
    for _ in range(rng.randint(1, 3)):
        place = rng.choice(places(copy)[1:] or [()])
        if not place:
            continue
        holder = copy
        for key in place[:-1]:
            holder = holder[key]
        match rng.randrange(5):
            case 0:
                del holder[place[-1]]
            case 1 if isinstance(holder, dict):
                holder[f"{place[-1]}s"] = holder[place[-1]]
            case 2:
                deep: Any = 1
                for _ in range(rng.choice((3, 60, 500))):
                    deep = [deep] if rng.random() < 0.5 else {"a": deep}
                holder[place[-1]] = deep
            case _:
                holder[place[-1]] = rng.choice(VALUES)
    return copy


def flipped(rng: random.Random, data: bytes) -> bytes:
    """Flip bits, cut, or repeat a part of a file."""
    found = bytearray(data)
    match rng.randrange(4):
        case 0:
            return bytes(found[: rng.randrange(len(found))])
        case 1:
            at = rng.randrange(len(found))
            found[at : at + rng.randrange(1, 64)] = rng.choice((b"\xff" * 8, b"\0" * 8, b"[" * 1000))
        case _:
            for _ in range(rng.randint(1, 4)):
                found[rng.randrange(min(len(found), 4096))] ^= 1 << rng.randrange(8)
    return bytes(found)
