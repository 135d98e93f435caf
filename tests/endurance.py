"""A thousand tiny rounds: memory and open files of every rank must be flat once it is warm.

Reads resident memory and open files of every rank from /proc every 0.2 seconds while the run goes on. Everything that could
pile up is on: checkpoints every round, kept momentum, cohorts that change from round to round. Prints a table: for each rank
the median of memory and the least number of files over rounds 100 to 200 and over the last 100; ends with 1 if memory grew
by more than 1 % or files at all.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import mpirun
import tiny_silos
from silofold.commands.launching import launcher

SETTINGS = (
    "local.epochs=1", "local.keep_momentum=true", "server_optimizer.name=adaptive", "cohort.name=sample", "cohort.size=3",
    "sinks=[]",  # nobody reads the pipe of its output while it runs
)  # fmt: skip
ALLOWED = 1.01


class Sample(NamedTuple):
    """A look at one rank."""

    round: int
    kilobytes: int
    files: int


def look(pid: int, number: int) -> Sample:
    """Read memory and files of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return Sample(number, int(status["VmRSS"].split()[0]), len(list(Path(f"/proc/{pid}/fd").iterdir())))


def rounds_in(path: Path, seen: int, position: int) -> tuple[int, int]:
    """Count the lines that a growing file has beyond a position."""
    with path.open("rb") as file:
        file.seek(position)
        data = file.read()
    return seen + data.count(b"\n"), position + len(data)


def watch(folder: Path, servers: int, workers: int, count: int) -> dict[str, list[Sample]]:
    """Run and look at every rank until the run ends.

    Raises
    ------
    SystemExit
        The run failed.
    """
    data, recipe, out = tiny_silos.pack(folder / "silos"), folder / "run.toml", folder / "run"
    recipe.write_text(tiny_silos.RECIPE, encoding="utf-8")
    sets = [
        part for setting in (*SETTINGS, f"rounds.count={count}", f"roles.servers={servers}") for part in ("--set", setting)
    ]
    program = ["-m", "silofold", "train", str(recipe), "--data", str(data), "--out", str(out), *sets]
    samples: dict[str, list[Sample]] = {}
    number = position = 0
    with mpirun.started(mpirun.command(1 + servers + workers, program), launcher.environment(1)) as process:
        while process.poll() is None:
            time.sleep(0.2)
            if not (out / "metrics.jsonl").exists():
                continue
            number, position = rounds_in(out / "metrics.jsonl", number, position)
            for rank in json.loads((out / "run.json").read_text())["ranks"]:
                with contextlib.suppress(OSError, KeyError):  # it has just ended
                    samples.setdefault(rank["role"], []).append(look(rank["pid"], number))
        ended = mpirun.wait(process, 10)
    if ended.code or number < count:
        sys.exit(f"error: the run ended with {ended.code} after {number} rounds: {ended.err.strip()[-500:]}")
    return samples


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=2, help="server ranks (default: 2)")
    parser.add_argument("--workers", type=int, default=4, help="worker ranks, at most 6 (default: 4)")
    parser.add_argument("--rounds", type=int, default=1000, help="at least 300 (default: 1000)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples = watch(Path(folder), given.servers, given.workers, given.rounds)
    flat, last_rounds = True, f"rounds {given.rounds - 100}-{given.rounds}"
    print(f"{launcher.find_mpirun()[1]}, {given.rounds} rounds\n")
    print(
        f"| rank | MB in rounds 100-200 | MB in {last_rounds} | open files in rounds 100-200 | in {last_rounds} |\n"
        "|---|---|---|---|---|"
    )
    for role, seen in samples.items():
        warm = [sample for sample in seen if 100 <= sample.round < 200]
        last = [sample for sample in seen if given.rounds - 100 <= sample.round < given.rounds]
        memory = [median(sample.kilobytes for sample in part) / 1024 for part in (warm, last)]
        # the least: a file that nobody closes is in it, and a checkpoint's, open for a moment, is not
        files = [min(sample.files for sample in part) for part in (warm, last)]
        flat &= memory[1] <= ALLOWED * memory[0] and files[1] <= files[0]
        print(f"| {role} | {memory[0]:.1f} | {memory[1]:.1f} | {files[0]} | {files[1]} |")
    print("\nflat" if flat else "\nNOT FLAT")
    return int(not flat)


if __name__ == "__main__":
    sys.exit(main())
