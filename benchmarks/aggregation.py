"""Measure what a round costs beside training: the model down, updates into sums, sums up, the server's step.

A federation of 1 scheduler, some servers and 7 workers moves models of made-up size; every worker "trains" by adding 1/2 to
each parameter. Planes: ``shared`` is the memory that ranks of a node share, ``collectives`` what ranks of different nodes
use. ``copy_exact`` and ``copy_float32`` copy the bytes of ``exact`` and ``float32`` in the same processes and add nothing
up. ``bare`` is two forked processes and pipes, without any framework (R2). Prints milliseconds a round (median, and
least), the ratio of the medians to that of the copy, the largest memory that all ranks had together as a multiple of the
model, and one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from silofold.aggregation import exact

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from numpy.typing import NDArray

    from silofold.comm.window import Node
    from silofold.comm.world import World

EXAMPLES: Final = 100
MOVE: Final = np.float32(0.5)
COPIES: Final = {"exact": "copy_exact", "float32": "copy_float32"}
MODES: Final = (*COPIES, *COPIES.values(), "bare")


def rank_program(parameters: int, servers: int, mode: str, plane: str, rounds: int, out: Path) -> None:
    """Play the rounds on one rank."""
    from silofold.comm import world as worlds  # noqa: PLC0415  (each rank imports what its role needs)
    from silofold.comm.fabric import Fabrics  # noqa: PLC0415
    from silofold.comm.window import Node  # noqa: PLC0415
    from silofold.core.messages import Members  # noqa: PLC0415
    from silofold.core.topology import Layout, shard_slices  # noqa: PLC0415

    world = worlds.connect()
    layout, slices = Layout(world.size, servers), shard_slices(parameters, servers)
    labels = [host for host, _ in world.places] if plane == "shared" else None
    kind, copies = np.int64 if mode.endswith("exact") else np.float32, mode in COPIES.values()
    node = Node(world, layout, parameters, np.float32, kind, labels)
    fabrics = Fabrics(world, layout, slices, node, 60)
    role, index = layout.role(world.rank)
    span = slices[index] if role == "server" else slice(0, parameters)
    vector = node.model[span] if role != "scheduler" else node.room
    weights = np.empty(parameters if role == "worker" else 0, np.float32)
    members = Members.of(layout.worker_ranks, 0, 0)
    total = np.empty(0, kind)
    if role == "server":
        lent = not copies and node.holds((*layout.server_ranks, *members.workers))
        total = node.lend(members.workers[0], span) if lent else np.zeros(span.stop - span.start, kind)
    examples = EXAMPLES * len(layout.worker_ranks)
    step = server_step(len(total), len(layout.worker_ranks)) if role == "server" else None
    seconds = []
    for number in range(1, rounds + 1):
        meet(world)
        begin = time.perf_counter()
        expect_whole(fabrics.among(members).share_model(vector, 60, number))
        if role == "worker":
            train(vector, weights, node, mode, examples)
        meet(world)
        if copies:
            for rank in layout.worker_ranks if role == "server" else ():
                node.add(total, span, [rank])
        else:
            expect_whole(fabrics.among(members).collect(total if role == "server" else node.room, None, 60))
        if step and not copies:
            step(vector, total)
        meet(world)
        seconds.append(time.perf_counter() - begin)
    right = copies or role != "server" or bool((vector == np.float32(rounds * MOVE)).all())
    answers = world.gather(b"right" if right else b"wrong")
    if world.rank == 0:
        if b"wrong" in answers:
            sys.exit("error: the sums are wrong")
        out.write_text(json.dumps({"seconds": seconds[1:]}), encoding="ascii")
    worlds.finish(world, 0)


def server_step(size: int, workers: int) -> Callable[[NDArray[np.float32], NDArray[Any]], None]:
    """Make what a server does with its sum."""
    from silofold.core import plugins  # noqa: PLC0415  (as above)
    from silofold.roles.server import move  # noqa: PLC0415

    strategy = plugins.load("strategy", {"name": "mean"})
    optimizer = plugins.load("server_optimizer", {"name": "sgd"})
    state, weights = optimizer.start(size), np.full(workers, EXAMPLES)
    return lambda shard, total: move(shard, total, weights, None, strategy, optimizer, state)


def train(vector: NDArray[np.float32], weights: NDArray[np.float32], node: Node, mode: str, examples: int) -> None:
    """Move the model and leave the weighted update in the room."""
    if mode in COPIES.values():
        np.copyto(weights, vector)
        for part in node.room.view(np.float32).reshape(-1, len(weights)):
            np.copyto(part, weights)
        return
    np.add(vector, MOVE, out=weights)  # made-up training, which costs no more than the copy of the model
    weights -= vector
    if mode == "exact":
        if not exact.in_range(max(float(weights.max()), -float(weights.min())), examples):
            sys.exit("error: out of range")
        exact.add(node.room, weights, EXAMPLES, first=True)
    else:
        np.multiply(weights, np.float32(EXAMPLES), out=node.room)


def meet(world: World) -> None:
    """Wait for all ranks, as the control messages of a round do."""
    from silofold.comm import waiting  # noqa: PLC0415  (as above)

    waiting.complete([world.comm.Ibarrier()], time.monotonic() + 60)


def expect_whole(broken: str) -> None:
    """Stop if a collective broke."""
    if broken:
        sys.exit(f"error: {broken}")


def memory(process: Path) -> int:
    """Return the bytes of a process; what it shares counts by its share. 0 for one that has ended."""
    try:
        lines = (process / "smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def watch(job: subprocess.Popen[str], mark: str, processes: int) -> int:
    """Return the largest memory that a job's processes, whose command lines hold `mark`, had together."""
    found: list[Path] = []
    largest = 0
    while job.poll() is None:
        if len(found) < processes:
            commands = {entry: entry / "cmdline" for entry in Path("/proc").iterdir() if entry.name.isdecimal()}
            found = [entry for entry, path in commands.items() if path.exists() and mark in path.read_text(errors="replace")]
        largest = max(largest, sum(map(memory, found)))
        time.sleep(0.01)
    return largest


def federation(
    parameters: int, shape: tuple[int, int], mode: str, plane: str, rounds: int, *, watched: bool = False
) -> dict[str, Any]:
    """Run the ranks; `watched`, for their memory, which costs time."""
    from silofold.commands.launching import launcher  # noqa: PLC0415  (as above)

    servers, workers = shape
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        words = ["--rank", mode, plane, str(parameters), str(servers), str(rounds), str(out)]
        command = [launcher.find_mpirun()[0], "-n", str(1 + servers + workers), sys.executable, __file__, *words]
        surroundings = launcher.environment(1)
        with subprocess.Popen(command, env=surroundings, stderr=subprocess.PIPE, text=True) as job:
            largest = watch(job, str(out), 2 + servers + workers) if watched else 0
            told = job.communicate()[1]
        if job.returncode or not out.exists():
            sys.exit(f"error: {' '.join(words)} ended with {job.returncode}: {told.strip()[-800:]}")
        found: dict[str, Any] = json.loads(out.read_text(encoding="ascii")) | {"bytes": largest}
    return found


def half(pipe: Connection, silos: int, parameters: int) -> None:
    """Answer the rounds of the bare loop in a forked process."""
    while pipe.recv():
        model, total = np.frombuffer(pipe.recv_bytes(), np.float32), np.zeros(parameters, np.float32)
        for _ in range(silos):
            weights = model + MOVE
            weights *= EXAMPLES
            total += weights
        pipe.send_bytes(total.data)


def bare(parameters: int, workers: int, rounds: int) -> dict[str, Any]:
    """Run the bare loop of two processes."""
    context, pipes = multiprocessing.get_context("fork"), []
    for silos in (workers - workers // 2, workers // 2):
        ours, theirs = context.Pipe()
        context.Process(target=half, args=(theirs, silos, parameters), daemon=True).start()
        pipes.append(ours)
    model, seconds = np.zeros(parameters, np.float32), []
    for _ in range(rounds):
        begin = time.perf_counter()
        for pipe in pipes:
            pipe.send(True)  # noqa: FBT003  (another round)
            pipe.send_bytes(model.data)
        parts = [np.frombuffer(bytearray(pipe.recv_bytes()), np.float32) for pipe in pipes]
        model = (parts[0] + parts[1]) / np.float32(workers * EXAMPLES)
        seconds.append(time.perf_counter() - begin)
    for pipe in pipes:
        pipe.send(False)  # noqa: FBT003  (no other round)
    return {"seconds": seconds[1:]}


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--rank"]:
        mode, plane, parameters, servers, rounds, out = sys.argv[2:]
        rank_program(int(parameters), int(servers), mode, plane, int(rounds), Path(out))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=int, nargs="+", default=[66_404, 1_000_000, 25_000_000])
    parser.add_argument("--servers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--workers", type=int, default=7, help="worker ranks (default: 7)")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--planes", nargs="+", choices=["shared", "collectives"], default=["shared", "collectives"])
    parser.add_argument("--rounds", type=int, default=6, help="rounds of a job, the first of which is not counted")
    parser.add_argument("--repeats", type=int, default=2, help="how often each job is run, by turns (default: 2)")
    given = parser.parse_args()
    jobs = [("bare", "-", 0)] * ("bare" in given.modes)
    for servers in given.servers:
        jobs += [(mode, plane, servers) for mode in given.modes if mode in COPIES for plane in given.planes]
        jobs += [(mode, "shared", servers) for mode in given.modes if mode in COPIES.values()]
    rows = []
    for parameters in given.parameters:
        runs: dict[tuple[str, str, int], list[dict[str, Any]]] = {job: [] for job in jobs}
        for _ in range(given.repeats):
            for job, done in runs.items():
                mode, plane, count = job
                if mode == "bare":
                    done.append(bare(parameters, given.workers, given.rounds))
                else:
                    done.append(federation(parameters, (count, given.workers), mode, plane, given.rounds))
        milliseconds = {job: 1e3 * median(s for run in done for s in run["seconds"]) for job, done in runs.items()}
        for job, each in milliseconds.items():
            mode, plane, count = job
            models = 0.0
            if mode != "bare":
                watched = federation(parameters, (count, given.workers), mode, plane, given.rounds, watched=True)
                models = watched["bytes"] / (4 * parameters)
            least = 1e3 * min(s for run in runs[job] for s in run["seconds"])
            row = {
                "parameters": parameters,
                "mode": mode,
                "plane": plane,
                "servers": count,
                "milliseconds": each,
                "least": least,
            }
            copied = milliseconds.get((COPIES.get(mode, ""), "shared", count), np.nan)
            row |= {"over_copy": each / copied, "models_of_memory": models}
            rows.append(row)
            print("  ".join(f"{value:.4g}" if isinstance(value, float) else f"{value!s:>12}" for value in row.values()))
            sys.stdout.flush()
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
