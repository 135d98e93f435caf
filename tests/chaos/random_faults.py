"""Random faults at random instants of whole jobs: python tests/chaos/random_faults.py --runs 100 --seed 1 [--jobs DIR]

Each run has 12 ranks (1 scheduler, 3 servers, 1 standby, 7 workers). From one to three of its ranks are killed, stopped, or
stopped and continued, at instants drawn from the seed; in every fifth run, one is killed or stopped and continued within two
seconds of its start. In every third run a cohort is dealt out anew each round. The job must end by itself, resume if it says
so, and a replay of who took part must give the same bits. A run that hangs for four minutes, leaves a process or sums
wrongly ends the program with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import run_folder
import tiny_silos
from chaos import judge

SHAPE = (3, 1, 7)
DEALT = 2
"""The last of three runs deals its cohorts out."""
EARLY = 4
"""The last of five runs is struck while it starts."""
SIZES = (61, 18, 40, 33, 25, 52, 30, 44, 29)


def strike_start(out: Path, rng: random.Random, told: list[str]) -> None:
    """Wait for the job's processes, then strike while it starts."""
    deadline = time.monotonic() + 120
    while len(ranks := judge.ranks(out)) < 1 + sum(SHAPE) and time.monotonic() < deadline:
        time.sleep(0.01)
    if not ranks:
        return
    time.sleep(seconds := rng.uniform(0, 2))
    rank, what = rng.randrange(len(ranks)), rng.choice(("kill", "pause"))
    told.append(f"{what} rank {rank} {seconds:.1f} s after its start")
    hit(sorted(ranks)[rank], what, rng)


def hit(pid: int, what: str, rng: random.Random) -> None:
    """Kill a process, stop it, or stop it for a while."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL if what == "kill" else signal.SIGSTOP)
        if what == "pause":
            time.sleep(rng.uniform(0.5, 9))
            os.kill(pid, signal.SIGCONT)


def strike(out: Path, rng: random.Random, told: list[str]) -> None:
    """Wait for the job's first round, then strike."""
    deadline = time.monotonic() + 120
    while not run_folder.rounds(out) and time.monotonic() < deadline:
        time.sleep(0.02)
    with contextlib.suppress(OSError, ValueError):
        people = json.loads((out / "run.json").read_text())["ranks"]
        for person in rng.sample(people, rng.choice((1, 1, 1, 2, 2, 3))):
            time.sleep(rng.uniform(0, 0.8))
            what = rng.choice(("kill", "kill", "stop", "pause"))
            told.append(f"{what} {person['role']}")
            hit(person["pid"], what, rng)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Run, count, and say what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first run (default: 0)")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    struck: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="chaos") as name:
        folder = Path(name)
        data = tiny_silos.pack(folder / "silos", SIZES)
        recipe = folder / "run.toml"
        recipe.write_text(tiny_silos.RECIPE, encoding="utf-8")
        for number in range(options.first, options.first + options.runs):
            out, told = folder / f"run_{number}", list[str]()
            rng = random.Random(f"{options.seed} {number}")  # noqa: S311  (no secret)
            striker = threading.Thread(
                target=strike_start if number % 5 == EARLY else strike, args=(out, rng, told), daemon=True
            )
            striker.start()
            settings = {"rounds.count": "12"} | judge.QUORUM | (judge.DEALT if number % 3 == DEALT else {})
            begin = time.monotonic()
            try:
                found = judge.judge(out, recipe, data, SHAPE, settings, {})
            except Exception as fault:  # noqa: BLE001  (whatever it is, it is counted)
                counts["failed"] += 1
                say(f"run {number}: FAILED: {told}: {fault}")
                continue
            striker.join()
            counts["went on" if not found.resumed else "ended with 75 and resumed"] += 1
            counts["left processes"] += bool(found.left)
            struck.update("in the start" if " after " in one else one for one in told)
            story = f"{', '.join(told) or 'too fast to strike'}: code {found.code}, {found.rounds} rounds, {found.void} void"
            story += f", {found.lost} updates lost, replay identical, {time.monotonic() - begin:.1f} s"
            say(f"run {number}: {story}")
    say(f"{options.runs} runs, {sum(struck.values())} faults: {dict(counts)}")
    say("faults: " + ", ".join(f"{what} {count}" for what, count in sorted(struck.items())))
    return 1 if counts["failed"] or counts["left processes"] else 0


if __name__ == "__main__":
    sys.exit(main())
