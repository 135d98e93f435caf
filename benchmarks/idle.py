"""Measure what waiting ranks take from ranks that train on the same cores.

One job: as many computing ranks as there are cores, and five that wait. By turns the five sleep in the system, which costs
nothing, and wait for a message as servers and the scheduler do while others train. Prints the seconds that the computing
ranks need for the same work (their slowest, medians over the turns), the ratio, the processor time of a waiting rank as a
share of one core, and one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from statistics import median
from typing import Final

import numpy as np

from silofold.comm import waiting
from silofold.commands.launching import launcher
from silofold.core import messages

IDLE: Final = 5
WORK: Final = 256
"""Side of the matrices that are multiplied: they stay in a core's own cache."""


def compute(products: int) -> float:
    """Return the seconds of so many matrix products."""
    matrix = np.ones((WORK, WORK), np.float32)
    begin = time.perf_counter()
    for _ in range(products):
        matrix @ matrix
    return time.perf_counter() - begin


def rank_program(workers: int, turns: int, seconds: float) -> None:
    """Compute or wait on one rank."""
    from silofold.comm import world as worlds  # noqa: PLC0415  (MPI: in the ranks alone)

    world = worlds.connect()
    works = world.rank < workers
    rate = 500 / compute(500) if works else 0.0
    rates = [float(answer) for answer in world.gather(str(rate).encode())]
    products = int(seconds * min(filter(None, rates)))
    found: dict[str, list[tuple[float, float]]] = {"asleep": [], "waiting": []}
    for turn in range(2 * turns):
        kind = ("asleep", "waiting")[turn % 2]
        world.gather(b"begin")
        spent = time.process_time()
        if works:
            took = compute(products)
            for rank in range(workers + IDLE) if world.rank == 0 and kind == "waiting" else ():
                world.say(messages.Alive(), rank) if rank >= workers else None
        elif kind == "asleep":
            time.sleep(1.5 * seconds)
            took = 0.0
        else:
            try:
                world.hear(time.monotonic() + 60)
            except waiting.Timeout:
                sys.exit("error: nothing was heard")
            took = 0.0
        mine = json.dumps([took, time.process_time() - spent]).encode()
        answers = [json.loads(answer) for answer in world.gather(mine)]
        slowest = max(answer[0] for answer in answers[:workers])
        found[kind].append((slowest, max(answer[1] for answer in answers[workers:]) / slowest))
    if world.rank == 0:
        asleep, awake = (median(took for took, _ in found[kind]) for kind in found)
        ratio = median(b / a for (a, _), (b, _) in zip(found["asleep"], found["waiting"], strict=True))
        share = median(used for _, used in found["waiting"])
        row = {"workers": workers, "waiting": IDLE, "turns": turns, "asleep_seconds": asleep, "waiting_seconds": awake}
        row |= {"ratio": ratio, "share_of_a_core": share}
        print("  ".join(f"{key} {value:.4g}" for key, value in row.items()))
        print(json.dumps(row))
    worlds.finish(world, 0)


def main() -> int:
    """Start the ranks."""
    if sys.argv[1:2] == ["--rank"]:
        rank_program(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15, help="turns of each kind (default: 15)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a turn (default: 2)")
    given = parser.parse_args()
    workers = len(os.sched_getaffinity(0))
    program = [sys.executable, __file__, "--rank", str(workers), str(given.turns), str(given.seconds)]
    command = [*launcher.mpirun(), "-n", str(workers + IDLE), *program]
    return subprocess.run(command, env=launcher.environment(1), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
