"""What a lost rank costs, and what it costs to be ready for one.

``python benchmarks/failures.py [--repeats 3]``

Jobs of 1 scheduler, 2 servers and 3 workers on small made-up silos lose a rank by SIGKILL in the middle of a run. Measured
from the kill: until the others know it (detect), until the next round is planned by whoever is left (next plan), until three
more rounds are on record. Besides, the median round of the same job with and without Open MPI's --with-ft ulfm, in turn.
Prints a table and writes build/failures.json.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import tiny_silos  # noqa: E402
from silofold.commands.launching import launcher  # noqa: E402

SETTINGS = ("rounds.start_quorum=0.3", "rounds.update_ratio=0.3", "rounds.start_window=20.0", "local.epochs=1")
LINE = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) (.*)$", re.MULTILINE)


def command(folder: Path, out: Path, rounds: int, *, ulfm: bool) -> list[str]:
    """Command line of a job."""
    sets = [part for setting in (*SETTINGS, f"rounds.count={rounds}", "roles.servers=2") for part in ("--set", setting)]
    program = ["-m", "silofold", "train", str(folder / "run.toml"), "--data", str(folder / "silos"), "--out", str(out)]
    mpirun = launcher.mpirun() if ulfm else launcher.mpirun()[:1]
    return [*mpirun, "-n", "6", sys.executable, *program, *sets]


def lines(out: Path) -> list[dict[str, Any]]:
    """Read the rounds on record."""
    path = out / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def seconds_of(text: str) -> float:
    """Turn the time of a log line into seconds since 1970."""
    return dt.datetime.strptime(text, "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()


def first(out: Path, after: float, pattern: str) -> float:
    """Seconds from `after` to the first later log line, of any rank, that matches."""
    found = [
        seconds_of(when)
        for log in out.glob("*/*.log")
        for when, text in LINE.findall(log.read_text(encoding="utf-8"))
        if re.search(pattern, text)
    ]
    later = [when - after for when in found if when >= after - 0.001]
    return min(later, default=float("nan"))


def lose(folder: Path, out: Path, title: str) -> dict[str, float]:
    """Kill one rank of a job and measure."""
    environment = launcher.environment(1)
    with subprocess.Popen(
        command(folder, out, 100_000, ulfm=True), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as job:
        while len(lines(out)) < 5:
            time.sleep(0.01)
        people = json.loads((out / "run.json").read_text())["ranks"]
        victim = next(rank["pid"] for rank in people if rank["role"] == title)
        before = len(lines(out))
        begin = time.time()
        os.kill(victim, signal.SIGKILL)
        while len(lines(out)) < before + 3 and time.time() - begin < 60:
            time.sleep(0.005)
        end = time.time() - begin
        for rank in people:
            if rank["pid"] != victim:
                os.kill(rank["pid"], signal.SIGKILL)
        job.wait(30)
    return {
        "detect": first(out, begin, "is dead"),
        "next plan": first(out, begin, "takes over|ready after"),
        "three rounds on record": end,
    }


def usual(folder: Path, out: Path, *, ulfm: bool) -> float:
    """Median seconds of a round when nothing fails."""
    done = subprocess.run(
        command(folder, out, 150, ulfm=ulfm), env=launcher.environment(1), capture_output=True, check=False, timeout=300
    )
    if done.returncode:
        raise SystemExit(done.stderr.decode())
    return float(median(entry["seconds"]["total"] for entry in lines(out)[20:-1]))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    result: dict[str, Any] = {"lost": {}, "round_ms": {"ulfm": [], "plain": []}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_silos.pack(folder / "silos")
        (folder / "run.toml").write_text(tiny_silos.RECIPE, encoding="utf-8")
        for number in range(repeats):
            for title in ("worker_1", "server_1", "scheduler"):
                measured = lose(folder, folder / f"{title}_{number}", title)
                for key, value in measured.items():
                    result["lost"].setdefault(title, {}).setdefault(key, []).append(value)
            for kind in ("ulfm", "plain"):
                seconds = usual(folder, folder / f"{kind}_{number}", ulfm=kind == "ulfm")
                result["round_ms"][kind].append(1000 * seconds)
    for title, measured in result["lost"].items():
        print(f"{title:<10}", ", ".join(f"{key} {median(values):.3f} s" for key, values in measured.items()))
    ulfm, plain = (median(result["round_ms"][kind]) for kind in ("ulfm", "plain"))
    ratio = median(a / b for a, b in zip(*result["round_ms"].values(), strict=True))
    print(f"round      with ULFM {ulfm:.1f} ms, without {plain:.1f} ms, ratio {ratio:.2f}")
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "failures.json").write_text(json.dumps(result, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
