"""Measure the step of local training: plain, and on a GPU as a CUDA graph, of one silo after the other and side by side.

LeNet with 3 channels in batches of 32, and the network of many_silos.py in batches of 20. The ways take turns. Prints the
milliseconds of one silo's step, wall and processor time (medians over the turns), and the ratio to a plain step; then one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from statistics import median
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import numpy as np

from silofold.config import Local
from silofold.training import build, device, local
from silofold.training.member import Member
from silofold.training.side_by_side import Trainer

if TYPE_CHECKING:
    from collections.abc import Sequence

CLASSES: Final = 62


class Work(NamedTuple):
    """A model and what it is trained on."""

    model: dict[str, object]
    side: int
    batch: int
    momentum: float


WORKS: Final = {
    "LeNet": Work({"name": "lenet", "channels": 3}, 32, 32, 0.9),
    "two convolutions": Work({"name": "many_silos:Convolutions"}, 28, 20, 0.0),
}


def took(trainer: Trainer, start: np.ndarray, silos: Sequence[local.Samples], size: int) -> tuple[float, float]:
    """Train silos in groups of a size, and return wall and processor time in seconds."""
    begin, spent = time.perf_counter(), time.process_time()
    for first in range(0, len(silos), size):
        trainer.model.load(start)
        members = [Member(one, None, (1, 1, 1)) for one in silos[first : first + size]]
        for done in trainer.train(members, float("inf")):
            if done.reason:
                sys.exit(f"error: {done.reason}")
    return time.perf_counter() - begin, time.process_time() - spent


def measure(name: str, most: Sequence[int], steps: int, turns: int) -> list[dict[str, object]]:
    """Let the ways take turns with one model."""
    work, place, rng = WORKS[name], device.choose("auto", 0, 1), np.random.default_rng(1)
    model = build.build(work.model, [str(n) for n in range(CLASSES)], (work.side, work.side), 1, place)
    start, plain = model.host.copy(), Local(batch_size=work.batch, momentum=work.momentum)
    images = rng.integers(0, 256, (max(most), work.batch * steps, work.side, work.side)).astype(np.uint8)
    labels = rng.integers(0, CLASSES, images.shape[:2])
    silos = [local.load(*pair, place) for pair in zip(images, labels, strict=True)]
    ways = {"plain": (plain, 1)}
    if place.type == "cuda":
        graphed = msgspec.structs.replace(plain, cuda_graph=True)
        ways["CUDA graph"] = (graphed, 1)
        ways |= {f"{size} side by side": (msgspec.structs.replace(graphed, side_by_side=size), size) for size in most}
    trainers = {way: (Trainer(model, settings), size) for way, (settings, size) in ways.items()}
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for turn in range(turns + 1):
        for way, (trainer, size) in trainers.items():
            seconds = took(trainer, start, silos, size)
            if turn:  # the first one warms up
                found[way].append(seconds)
    rows: list[dict[str, object]] = []
    for way, times in found.items():
        wall, used = (1e3 * median(column) / steps / len(silos) for column in zip(*times, strict=True))
        rows.append({"model": name, "way": way, "wall_ms": wall, "processor_ms": used})
        rows[-1]["ratio"] = wall / float(str(rows[0]["wall_ms"]))
    return rows


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side-by-side", type=int, nargs="+", default=[2, 5, 10], metavar="N", help="silos at once")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="steps of a silo")
    parser.add_argument("--turns", type=int, default=5, metavar="N", help="measurements of each")
    given = parser.parse_args()
    rows = [row for name in WORKS for row in measure(name, given.side_by_side, given.steps, given.turns)]
    for row in rows:
        print(
            "  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
        )
    print(json.dumps({"device": device.describe(device.choose("auto", 0, 1))["hardware"], "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
