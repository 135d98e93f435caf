"""Kill one worker of a job at default settings, at a random instant from its first plan to DONE: it costs a round at most.

Each trial starts ``silofold launch`` with nothing set but the number and length of its rounds, ends a worker by SIGKILL, and
looks at what came of it: the job ends with 0, all rounds count, at most one more is void, no other rank is lost, and a
replay of what was recorded gives the same bits. Half of the trials take collectives in place of shared memory. Prints a
line a trial; ends with 1 if one is not so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import mpirun
import tiny_silos
from run_folder import rounds, until

ROUNDS, WORKERS = 6, 4
SETTINGS = (f"rounds.count={ROUNDS}", "local.epochs=40")
SECONDS = 200.0


class Trial(NamedTuple):
    """What one death has cost."""

    shared: bool
    instant: float
    """Share of the undisturbed run after which it struck."""
    code: int
    seconds: float
    counted: int
    voids: int
    dead: int
    """Ranks that were lost."""
    replay: int

    @property
    def good(self) -> bool:
        """Whether it cost at most the round under way."""
        return (self.code, self.counted, self.dead, self.replay) == (0, ROUNDS, 1, 0) and self.voids <= 1


def command(recipe: Path, data: Path, out: Path, *, shared: bool) -> list[str]:
    """Command line of the job."""
    sets = [part for one in (*SETTINGS, f"shared_memory={str(shared).lower()}") for part in ("--set", one)]
    words = ["launch", str(recipe), "--data", str(data), "--out", str(out), "--workers", str(WORKERS), *sets]
    return [sys.executable, "-m", "silofold", *words]


def attempt(recipe: Path, data: Path, out: Path, rng: random.Random, usual: float, *, shared: bool) -> Trial | None:
    """Start, kill one worker, and see; none if the job was over before."""
    began = time.monotonic()
    with mpirun.started(command(recipe, data, out, shared=shared)) as process:
        until((out / "run.json").exists)
        ranks = json.loads((out / "run.json").read_text())["ranks"]
        victim = rng.choice([rank["pid"] for rank in ranks if rank["role"].startswith("worker")])
        instant = rng.random()
        time.sleep(instant * usual)
        if (out / "DONE").exists():
            return None
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        ended = mpirun.wait(process, SECONDS)
    seconds = time.monotonic() - began
    replay = mpirun.silofold("replay", out, "--out", f"{out}.replay", "--workers", "1", seconds=SECONDS)
    entries = rounds(out)
    log = (out / "scheduler" / "scheduler.log").read_text()
    dead = len(set(re.findall(r"(\w+) is dead", log)))
    counted = sum(not entry["void"] for entry in entries)
    return Trial(shared, instant, ended.code, seconds, counted, len(entries) - counted, dead, replay.code)


def run(trials: int, seed: int, folder: Path) -> list[Trial]:
    """Run the trials in a folder, after an undisturbed run."""
    data, recipe = tiny_silos.pack(folder / "silos"), folder / "run.toml"
    recipe.write_text(tiny_silos.RECIPE, encoding="utf-8")
    rng, found = random.Random(seed), list[Trial]()  # noqa: S311  (instants, no secrets)
    with mpirun.started(command(recipe, data, folder / "whole", shared=True)) as process:
        until((folder / "whole" / "run.json").exists)
        begin = time.monotonic()
        until((folder / "whole" / "DONE").exists)
        usual = time.monotonic() - begin
        assert mpirun.wait(process, SECONDS).code == 0
    number = 0
    while len(found) < trials:
        number += 1
        one = attempt(recipe, data, folder / f"run_{number}", rng, usual, shared=len(found) % 2 == 0)
        if one is None:
            continue
        found.append(one)
        ways = "shared memory" if one.shared else "collectives"
        print(
            f"death {len(found):2}  {ways:13}  after {one.instant:.2f} of it  exit code {one.code}  counted {one.counted}  "
            f"void {one.voids}  lost ranks {one.dead}  {one.seconds:4.1f} s  {'good' if one.good else 'BAD'}",
            flush=True,
        )
    return found


def main() -> int:
    """Run the trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deaths", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(options.deaths, options.seed, Path(folder))
    good = sum(one.good for one in found)
    print(f"{good} of {len(found)} cost one round at most; void rounds: {sum(one.voids for one in found)}")
    return 0 if good == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
