"""Measure silofold against other frameworks on the same work: ``make bench-peers`` makes their environments and runs this.

R2 is two forked processes without any framework (benchmarks/bare.py); silofold is ``silofold launch --servers 1 --workers
auto``; the others are small programs of our own in benchmarks/peers/, which also tell what was tuned. Workload A is that of
benchmarks/floor.py: each has the same initial model, order of examples and steps, so a test loss that differs by more than
1e-3 ends the benchmark. ``appfl 1 ms`` is APPFL with a wait of its server put to 1 ms by hand. Workload D moves a model of
25 million float32 between a server and 7 clients that add 1/2 to it; of silofold, benchmarks/aggregation.py with a worker
for each client and no control messages. Runs take turns, figures are medians; a run during which other processes took more
than ``--disturbed`` of the cores, a tenth unless given, is made again. Prints a table, ratios to R2, and one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aggregation
import floor
from silofold.commands.launching import launcher, mpi_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE: Final = Path(__file__).resolve().parent
PEERS: Final = ("flower", "appfl", "appfl 1 ms")
ROUNDS: Final = floor.WORKLOADS["A"][0]
LARGE, CLIENTS, LARGE_ROUNDS = 25_000_000, 7, 6
EQUAL: Final = 1e-3
"""Largest difference of test losses after equal work."""
LOOKS_EVERY: Final = 0.2
"""Seconds between two looks at the memory."""
DISTURBED: Final = 0.1
"""Share of the cores; Ray's processes that end before they are looked at count among the others."""
LASTS: Final = 600.0
"""Seconds after which a peer has failed."""


def peer(name: str, work: dict[str, str]) -> dict[str, Any]:
    """Run another framework in its own environment."""
    environment = HERE.parent / f".venv-{name.partition(' ')[0]}" / "bin"
    program = [str(environment / "python"), str(HERE / "peers" / "run_flower.py")]
    if name != "flower":
        wait = ["0.001"] if name != "appfl" else []
        program = [str(environment / "python"), "-m", "mpi4py", str(HERE / "peers" / "run_appfl.py"), *wait]
        program = [str(environment / "mpirun"), "-n", "3", *program]
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}
    paths = {"PYTHONPATH": os.pathsep.join(map(str, [HERE.parent / "src", HERE, HERE / "peers"]))}
    with mpi_session.session() as place, tempfile.TemporaryDirectory() as folder, watched() as seen:
        begin = time.monotonic()
        ended = subprocess.run(
            program, cwd=folder, env=launcher.environment(1) | place | quiet | paths | work, capture_output=True, text=True,
            timeout=LASTS, check=False,
        )  # fmt: skip
        seconds = time.monotonic() - begin
    lines = [line for line in ended.stdout.splitlines() if line.startswith('{"ends"')]
    if ended.returncode or not lines:
        sys.exit(f"error: {name} ended with {ended.returncode}: {ended.stderr.strip()[-2000:]}")
    found = json.loads(lines[-1])
    return {
        "seconds": seconds,
        "processor_seconds": seen.processor_seconds(),
        "first_seconds": found["ends"][0] - begin,
        "round_seconds": [b - a for a, b in itertools.pairwise(found["ends"])],
        "test_loss": found["test_loss"],
    }


@dataclass
class Seen:
    """What a program and the processes that it starts have taken, as far as they were looked at."""

    gigabytes: float = 0.0
    ticks: dict[str, int] = field(default_factory=dict)
    """Processor time of each process."""

    def processor_seconds(self) -> float:
        """Return the processor time of all."""
        return sum(self.ticks.values()) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def watched(*, memory: bool = False) -> Iterator[Seen]:
    """Look again and again at all that is started here, as Ray's processes are waited for by nobody.

    Parameters
    ----------
    memory
        Also at the largest memory of all together, which costs time; what processes share counts once.

    Yields
    ------
    Seen
        Grows until the end.
    """
    seen, done, earlier = Seen(), threading.Event(), set(family(os.getpid()))

    def look() -> None:
        while not done.wait(LOOKS_EVERY):
            processes = set(family(os.getpid())) - earlier
            for process in processes:
                with contextlib.suppress(OSError):
                    words = (process / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                    seen.ticks[process.name] = int(words[11]) + int(words[12])  # user and system
            if memory:
                seen.gigabytes = max(seen.gigabytes, sum(map(aggregation.memory, processes)) / 1e9)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


def family(process: int) -> list[Path]:
    """Find all processes that a process has started, directly or not."""
    children: list[str] = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children += path.read_text(encoding="ascii").split()
    return [found for child in children for found in [Path("/proc", child), *family(int(child))]]


def plane(program: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run one of benchmarks/aggregation.py."""
    begin, own = time.monotonic(), time.process_time()
    with watched() as seen:
        rounds = program()["seconds"]
    spent = seen.processor_seconds() + time.process_time() - own
    return {"seconds": time.monotonic() - begin, "processor_seconds": spent, "round_seconds": rounds}


def programs(workload: str, data: Path, recipe: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    """Name what is run."""
    if workload == "A":
        recipe.write_text(floor.RECIPE.format(rounds=ROUNDS, epochs=1), encoding="ascii")
        every = {
            "R2": functools.partial(floor.bare, recipe, data, floor.BARE["R2"]),
            "silofold": functools.partial(floor.federation, recipe, data, floor.SHAPES["auto"]),
        }
        work = {"PEERS_RECIPE": str(recipe), "PEERS_SILOS": str(data), "PEERS_ROUNDS": str(ROUNDS)}
    else:
        shape = (1, CLIENTS)
        exact, short = (
            functools.partial(aggregation.federation, LARGE, shape, mode, "shared", LARGE_ROUNDS)
            for mode in ("exact", "float32")
        )
        every = {
            "R2": functools.partial(plane, functools.partial(aggregation.bare, LARGE, CLIENTS, LARGE_ROUNDS)),
            "silofold": functools.partial(plane, exact),
            "… float32": functools.partial(plane, short),
        }
        work = {"PEERS_RECIPE": "", "PEERS_ROUNDS": str(LARGE_ROUNDS)}
    return every | {name: functools.partial(peer, name, work) for name in PEERS}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", type=Path, help="folder of seven silos with 32×32 gray pictures")
    parser.add_argument(
        "--workload", choices=["A", "D"], default="A", help="A: real training; D: a large model, no training"
    )
    parser.add_argument("--repeats", type=int, default=3, help="how often each is run (default: 3)")
    parser.add_argument("--patience", type=float, default=10, help="seconds to wait for a quiet machine (default: 10)")
    parser.add_argument("--disturbed", type=float, default=DISTURBED, help="share of the cores that others may take")
    parser.add_argument("--memory", action="store_true", help="run each once more and measure its memory, which costs time")
    given = parser.parse_args()
    largest: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        every = programs(given.workload, given.data.resolve(), Path(folder) / "run.toml")
        runs = floor.by_turns(every, given.repeats, given.patience, given.disturbed)
        for name, program in every.items() if given.memory else ():
            with watched(memory=True) as seen:
                program()
            largest[name] = {"gigabytes": seen.gigabytes}
    table = {name: floor.summary(found) | largest.get(name, {}) for name, found in runs.items()}
    base = table["R2"]
    expected = base.get("test_loss", LARGE_ROUNDS / 2)
    print(f"{'':10} {'whole':>16} {'first model':>16} {'a round':>17} {'processor':>16} {'memory':>8} {'test loss':>10}")
    for name, row in table.items():
        cells = [
            f"{row[key]:8.{digits}f} s {row[key] / base[key]:5.2f}x" if key in row and key in base else " " * 17
            for key, digits in (("seconds", 2), ("first_seconds", 2), ("round_seconds", 3), ("processor_seconds", 2))
        ]
        memory = f"{row['gigabytes']:5.2f} GB" if "gigabytes" in row else " " * 8
        print(f"{name:10} {' '.join(cells)} {memory} {row.get('test_loss', expected):10.6f}")
    print(json.dumps({"workload": given.workload, "repeats": given.repeats} | table))
    losses = {name: [run.get("test_loss", expected) for run in found] for name, found in runs.items()}
    if wrong := [name for name, each in losses.items() if not all(abs(loss - expected) <= EQUAL for loss in each)]:
        sys.exit(f"error: the test loss of {', '.join(wrong)} is not {expected:.6f}: this was not the same work")


if __name__ == "__main__":
    main()
