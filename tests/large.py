"""Move a model of more than 2^31 elements through the data plane, within a node and between nodes: ``make large``.

Two jobs of one scheduler, one server and one worker, elements of one byte. Between two nodes (they are told that they share
no memory) the model comes down and the sum goes up by collectives; within one node by shared memory, with two workers.
Prints seconds and checks every element. Needs 12 GiB of memory.
"""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np

from silofold.comm import world as worlds
from silofold.comm.fabric import Fabrics
from silofold.comm.window import Node
from silofold.commands.launching import launcher
from silofold.core.messages import Members
from silofold.core.topology import Layout, shard_slices

PARAMETERS = 2**31 + 5
PATIENCE = 600.0
STRIPE = 2**26
PERIOD = 101
"""Element i of the model is i mod 101: a chunk that lands in the wrong place shows."""


def stripes() -> list[slice]:
    """Cut the vector into what is filled and compared at a time: its temporaries would not fit else."""
    return [slice(start, min(start + STRIPE, PARAMETERS)) for start in range(0, PARAMETERS, STRIPE)]


def truth(part: slice) -> np.ndarray[tuple[int], np.dtype[np.int8]]:
    """Return what a stripe of the model holds."""
    return (np.arange(part.start, part.stop, dtype=np.int64) % PERIOD).astype(np.int8)


def rank_program(plane: str) -> None:
    """Play one round on one rank."""
    world = worlds.connect()
    layout, slices = Layout(world.size, 1), shard_slices(PARAMETERS, 1)
    labels = None if plane == "collectives" else [host for host, _ in world.places]
    node = Node(world, layout, PARAMETERS, np.int8, np.int8, labels)
    members = Members.of(layout.worker_ranks, 0, 0)
    fabric = Fabrics(world, layout, slices, node, PATIENCE).among(members)
    kind = layout.role(world.rank)[0]
    if kind == "server":
        for part in stripes():
            node.model[part] = truth(part)
    world.gather(b"filled")
    begin = time.perf_counter()
    wrong = fabric.share_model(node.model, PATIENCE, 1)
    world.gather(b"shared")
    down = time.perf_counter() - begin
    if kind == "worker":
        wrong = wrong or ("" if all((node.model[part] == truth(part)).all() for part in stripes()) else "another model")
        for part in stripes():
            np.subtract(node.model[part], world.rank, out=node.room[part])
    world.gather(b"trained")
    begin = time.perf_counter()
    total = node.room
    if kind == "server":
        lone = node.holds((1, *members.workers))
        total = node.lend(members.workers[0], slices[0]) if lone else np.zeros(PARAMETERS, np.int8)
    wrong = wrong or fabric.collect(total, None, PATIENCE)
    world.gather(b"moved")
    up = time.perf_counter() - begin
    if kind == "server":
        for part in stripes():
            expected = sum(truth(part).astype(np.int64) - rank for rank in members.workers)
            wrong = wrong or ("" if (total[part] == np.asarray(expected).astype(np.int8)).all() else "another sum")
    stories = {rank: story.decode() for rank, story in enumerate(world.gather(wrong.encode())) if story}
    if world.rank == 0:
        sums = "right" if not stories else f"wrong: {stories}"
        story = f"{PARAMETERS} elements by {plane}: {down:.1f} s down, {up:.1f} s up, {sums}"
        sys.stdout.write(f"{worlds.library_version()}: {story}\n")
        sys.stdout.flush()
    worlds.finish(world, 1 if stories else 0)


def main() -> int:
    """Start both jobs."""
    if sys.argv[1:2] == ["--rank"]:
        rank_program(sys.argv[2])
    codes = []
    for plane, workers in (("collectives", 1), ("shared memory", 2)):
        command = [*launcher.mpirun(), "-n", str(2 + workers), sys.executable, __file__, "--rank", plane]
        codes.append(subprocess.run(command, env=launcher.environment(1), check=False, timeout=PATIENCE).returncode)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
