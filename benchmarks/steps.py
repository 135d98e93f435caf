"""Measure the step of local training: plain, of several silos side by side, and as a CUDA graph where there is a GPU.

As many silos as asked for, LeNet with 3 channels, batches of 32. The ways take turns. For each number of silos it prints the
milliseconds in which every one of them has made a step, wall and processor time (medians over the turns), and the ratio to
one by one; then one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from silofold import seeds
from silofold.config import Local
from silofold.training import build, device, local
from silofold.training.side_by_side import Member, Trainer

if TYPE_CHECKING:
    from collections.abc import Sequence

CLASSES, SIDE, BATCH = 62, 32, 32


def took(trainer: Trainer, start: np.ndarray, silos: Sequence[local.Samples], size: int) -> tuple[float, float]:
    """Train silos in groups of a size, and return wall and processor time in seconds."""
    begin, spent = time.perf_counter(), time.process_time()
    for first in range(0, len(silos), size):
        trainer.model.load(start)
        members = [Member(one, seeds.generator(1, "shuffle"), None) for one in silos[first : first + size]]
        for done in trainer.train(members, float("inf")):
            if done.reason:
                sys.exit(f"error: {done.reason}")
    return time.perf_counter() - begin, time.process_time() - spent


def main() -> int:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--silos", type=int, nargs="+", default=[3, 10], metavar="N", help="silos, all side by side")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="steps of a silo")
    parser.add_argument("--turns", type=int, default=5, metavar="N", help="measurements of each")
    given = parser.parse_args()
    place, rng, rows = device.choose("auto", 0, 1), np.random.default_rng(1), []
    model = build.build({"name": "lenet", "channels": 3}, [str(n) for n in range(CLASSES)], (SIDE, SIDE), 1, place)
    start = model.host.copy()
    for count in given.silos:
        images = rng.integers(0, 256, (count, BATCH * given.steps, SIDE, SIDE)).astype(np.uint8)
        labels = rng.integers(0, CLASSES, (count, BATCH * given.steps))
        silos = [local.load(*pair, place) for pair in zip(images, labels, strict=True)]
        ways = {"one by one": (Local(), 1), "side by side": (Local(side_by_side=count), count)}
        if place.type == "cuda":
            ways["CUDA graph"] = (Local(cuda_graph=True), 1)
        trainers = {name: (Trainer(model, settings, (SIDE, SIDE)), size) for name, (settings, size) in ways.items()}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for turn in range(given.turns + 1):
            for name, (trainer, size) in trainers.items():
                seconds = took(trainer, start, silos, size)
                if turn:  # the first one warms up
                    found[name].append(seconds)
        plain = [median(times) for times in zip(*found["one by one"], strict=True)]
        for name, times in found.items():
            wall, used = (median(times) for times in zip(*times, strict=True))
            row = {
                "silos": count,
                "way": name,
                "wall_ms": 1e3 * wall / given.steps,
                "processor_ms": 1e3 * used / given.steps,
            }
            row |= {"wall_ratio": wall / plain[0], "processor_ratio": used / plain[1]}
            print(
                "  ".join(
                    f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
                )
            )
            rows.append(row)
    print(json.dumps({"device": device.describe(place)["hardware"], "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
