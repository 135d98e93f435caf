"""Measure what the exact sum costs against ``reduction = "float32"``, on real ranks, for models of three sizes.

Starts itself under mpirun with one server and some workers. In each turn every worker adds the updates of two silos to its
sum, the sums are reduced to the server, and the server takes the mean: once as exact fixed point and once as float32, by
turns, all ranks starting together. Prints one JSON object: for each size the medians in milliseconds and exact over float32.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from silofold.aggregation import exact
from silofold.commands.launching import launcher
from silofold.core import topology
from silofold.core.messages import Members

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from silofold.comm.fabric import Fabrics
    from silofold.comm.world import World

RANK: Final = "--rank"
SIZES: Final = {"66 k": 66_404, "1 M": 1_000_000, "25 M": 25_000_000}
KINDS: Final = ("exact", "float32")
SILOS, WEIGHT, WINDOW = 2, 750, 600.0


def turn(world: World, fabrics: Fabrics, kind: str, update: NDArray[np.float32], total: NDArray[Any]) -> list[float]:
    """Add, reduce and apply once; return this rank's seconds of each."""
    workers = list(range(2, world.size))
    world.gather(b"")  # all start together
    begin = time.perf_counter()
    if world.rank >= 2:
        total[:] = 0
        for _ in range(SILOS):
            if kind == "exact":
                if not exact.in_range(max(float(update.max()), -float(update.min())), SILOS * WEIGHT * len(workers)):
                    raise AssertionError
                exact.add(total, update, WEIGHT)
            else:
                total += update * np.float32(WEIGHT)
    added = time.perf_counter()
    world.gather(b"")  # the reduction alone: not the wait for the slowest worker
    started = time.perf_counter()
    if world.rank:
        fabrics.among(Members.of(workers, 0, 0)).collect(total, None, WINDOW)
    reduced = time.perf_counter()
    if world.rank == 1:
        mean = (exact.value(total) if kind == "exact" else total.astype(np.float64)) / (SILOS * WEIGHT * len(workers))
        update += mean.astype(np.float32) * 0
    return [added - begin, reduced - started, time.perf_counter() - reduced]


def rank(repeats: int) -> None:
    """Measure all sizes as one rank of the job; rank 0 prints."""
    from silofold.comm import world as worlds  # noqa: PLC0415  (it starts MPI)
    from silofold.comm.fabric import Fabrics  # noqa: PLC0415
    from silofold.comm.window import Node  # noqa: PLC0415

    world = worlds.connect()
    result: dict[str, Any] = {"mpi": worlds.library_version(), "workers": world.size - 2, "repeats": repeats}
    for name, size in SIZES.items():
        layout = topology.Layout(world.size, 1)
        node = Node(world, layout, size, np.float32, np.int64, None)  # nobody shares memory: collectives
        fabrics = Fabrics(world, layout, topology.shard_slices(size, 1), node, WINDOW)
        update = np.random.default_rng(world.rank).normal(0, 1e-3, size).astype(np.float32)
        totals: dict[str, NDArray[Any]] = {"exact": np.zeros(size, np.int64), "float32": np.zeros(size, np.float32)}
        seen: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
        for number in range(repeats + 1):
            for kind in KINDS:
                mine = turn(world, fabrics, kind, update, totals[kind])
                slowest = np.array([json.loads(answer) for answer in world.gather(json.dumps(mine).encode())]).max(axis=0)
                if number:  # the first turn touches the memory
                    seen[kind].append([*slowest, slowest.sum()])
        parts = ("add", "reduce", "apply", "all")
        medians = {kind: [1000 * median(column) for column in zip(*rows, strict=True)] for kind, rows in seen.items()}
        result[name] = {
            "exact_ms": dict(zip(parts, (round(value, 2) for value in medians["exact"]), strict=True)),
            "float32_ms": dict(zip(parts, (round(value, 2) for value in medians["float32"]), strict=True)),
            "exact_over_float32": {
                part: round(median(a[i] / b[i] for a, b in zip(seen["exact"], seen["float32"], strict=True)), 2)
                for i, part in enumerate(parts)
            },
        }
    if world.rank == 0:
        print(json.dumps(result, indent=2))
    worlds.finish(world, 0)


def main() -> int:
    """Start the ranks."""
    if sys.argv[1:2] == [RANK]:
        rank(int(sys.argv[2]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=3, help="worker ranks (default: 3)")
    parser.add_argument("--repeats", type=int, default=9, help="turns of each kind and size (default: 9)")
    given = parser.parse_args()
    program = [sys.executable, __file__, RANK, str(given.repeats)]
    command = [launcher.find_mpirun()[0], "-n", str(2 + given.workers), *program]
    return subprocess.run(command, env=launcher.environment(1), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
