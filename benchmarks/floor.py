"""Measure a federation against the same training without any framework.

R1 is the bare loop in one process, R2 in two forked ones (benchmarks/bare.py); the others are ``silofold launch`` with
``--workers auto`` and with 4 servers and 7 workers. The runs take turns, and every figure is a median over the repeats.
A run during which other processes took more than 5 % of the cores is not counted and made again, three times as many runs as
asked for at most. Prints a table as ratios to R2, and one JSON object.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import startup

if TYPE_CHECKING:
    from collections.abc import Callable

RECIPE: Final = """
[rounds]
count = {rounds}
[local]
epochs = {epochs}
lr = 0.01
momentum = 0.9
batch_size = 32
drop_last = true
[model]
name = "lenet"
channels = 3
"""
WORKLOADS: Final = {"A": (20, 1), "B": (5, 20)}
"""Rounds and local epochs."""
SHAPES: Final = {"auto": ["--servers", "1", "--workers", "auto"], "1+4+7": ["--servers", "4", "--workers", "7"]}
BARE: Final = {"R1": 1, "R2": 2}
DISTURBED: Final = 0.05
"""Share of the cores."""


def bare(recipe: Path, data: Path, processes: int) -> dict[str, Any]:
    """Run the bare loop."""
    command = [sys.executable, str(Path(__file__).with_name("bare.py")), str(recipe), str(data), str(processes)]
    begin, spent = time.monotonic(), processor_seconds()
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(told.splitlines()[-1])
    found |= {"seconds": time.monotonic() - begin, "processor_seconds": processor_seconds() - spent}
    return found | {"first_seconds": found.pop("ends")[0] - begin}


def federation(recipe: Path, data: Path, shape: list[str]) -> dict[str, Any]:
    """Run a federation and read its record."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "silofold", "launch", str(recipe), "--data", str(data), "--out", str(out), *shape]
        begin, started, spent = time.perf_counter(), time.time(), processor_seconds()
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds, spent = time.perf_counter() - begin, processor_seconds() - spent
        if ended.returncode:
            sys.exit(f"error: the federation ended with {ended.returncode}: {ended.stderr.strip()[-500:]}")
        rounds = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        ready, _ = max(startup.ready_times(out))
    return {
        "seconds": seconds,
        "processor_seconds": spent,
        "first_seconds": ready - started + rounds[0]["seconds"]["total"],
        "round_seconds": [entry["seconds"]["total"] for entry in rounds],
        "overhead_seconds": [overhead(entry) for entry in rounds[1:]],
        "test_loss": rounds[-1]["test_loss"],
        "accuracy": rounds[-1]["accuracy"],
    }


def busy_seconds() -> float:
    """Return the processor time of all processes of this machine since it was started."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text(encoding="ascii").split()[1:9])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def settle(seconds: float) -> None:
    """Wait until the machine has been idle for two seconds, but no longer than so many."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        before = busy_seconds()
        time.sleep(2)
        if busy_seconds() - before <= DISTURBED * 2 * len(os.sched_getaffinity(0)):
            return


def processor_seconds() -> float:
    """Return the processor time of all processes that have been started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def by_turns(
    programs: dict[str, Callable[[], dict[str, Any]]], repeats: int, patience: float, disturbed: float = DISTURBED
) -> dict[str, list[dict[str, Any]]]:
    """Run the programs by turns until each has been left in peace as often as asked for.

    Raises
    ------
    SystemExit
        A program was never left in peace.
    """
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in programs}
    for _ in range(3 * repeats):
        for name, done in runs.items():
            if len(done) == repeats:
                continue
            settle(patience)
            before, begin = busy_seconds(), time.monotonic()
            found = programs[name]()
            others = busy_seconds() - before - found["processor_seconds"]
            share = others / ((time.monotonic() - begin) * len(os.sched_getaffinity(0)))
            print(f"{name:12} {found['seconds']:6.2f} s, others took {share:.1%} of the cores", file=sys.stderr, flush=True)
            if share <= disturbed:
                done.append(found | {"others": share})
    if missing := [name for name, done in runs.items() if not done]:
        sys.exit(f"error: no run of {', '.join(missing)} was left in peace")
    return runs


def overhead(entry: dict[str, Any]) -> float:
    """Return the seconds of a round beyond its slowest worker's own evaluation and training."""
    own: float = max(rank["evaluate"] + rank["train"] for rank in entry["ranks"])
    total: float = entry["seconds"]["total"]
    return total - own


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", type=Path, help="folder of silos with 32×32 gray pictures")
    parser.add_argument("--workload", choices=WORKLOADS, default="A", help="A: 20 rounds of 1 epoch; B: 5 of 20")
    parser.add_argument("--repeats", type=int, default=3, help="how often each is run (default: 3)")
    parser.add_argument("--patience", type=float, default=0, help="seconds to wait for a quiet machine (default: 0)")
    parser.add_argument("--only", nargs="+", choices=[*BARE, *SHAPES], default=[*BARE, *SHAPES], help="which are run")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "run.toml"
        rounds, epochs = WORKLOADS[given.workload]
        recipe.write_text(RECIPE.format(rounds=rounds, epochs=epochs), encoding="ascii")
        programs = {name: functools.partial(bare, recipe, given.data, count) for name, count in BARE.items()}
        programs |= {name: functools.partial(federation, recipe, given.data, shape) for name, shape in SHAPES.items()}
        runs = by_turns({name: programs[name] for name in given.only}, given.repeats, given.patience)
    table = {name: summary(found) for name, found in runs.items()}
    base = table.get("R2", next(iter(table.values())))
    print(f"{'':8} {'whole':>16} {'a round':>16} {'processor':>16} {'overhead':>9} {'test loss':>10}")
    for name, row in table.items():
        whole, each = row["seconds"], row["round_seconds"]
        spare = f"{1e3 * row['overhead_seconds']:6.1f} ms" if "overhead_seconds" in row else ""
        ratios = f"{whole:7.2f} s {whole / base['seconds']:5.2f}x {each:7.3f} s {each / base['round_seconds']:5.2f}x"
        spent = row["processor_seconds"]
        ratios += f" {spent:7.2f} s {spent / base['processor_seconds']:5.2f}x"
        print(f"{name:8} {ratios} {spare:>9} {row['test_loss']:10.6f}")
    print(json.dumps({"workload": given.workload, "repeats": given.repeats} | table))


def summary(found: list[dict[str, Any]]) -> dict[str, float]:
    """Take medians: over the repeats, and where there are several rounds over those as well."""
    every = {key: [run[key] for run in found] for key in found[0]}
    each = {key: list(itertools.chain(*runs)) if isinstance(runs[0], list) else runs for key, runs in every.items()}
    return {key: median(values) for key, values in each.items()}


if __name__ == "__main__":
    main()
