"""Run every benchmark, print its table, and collect the figures in one JSON file: ``make bench``.

Takes about an hour on two quiet cores. ``--quick`` takes a tenth of that and shows no more than that all of them work.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent


def commands(silos: str, tree: str, *, quick: bool) -> dict[str, list[str]]:
    """Name the program and its arguments that answer each question."""
    few = ["--repeats", "1"] if quick else []
    sizes = ["66404", "1000000"] if quick else ["66404", "1000000", "25000000", "100000000"]
    programs = {
        "floor A": ["floor.py", silos, *few],
        "floor B": ["floor.py", silos, "--workload", "B", "--repeats", "1", "--only", "R2", "auto", "1+4+7"],
        "start-up": ["startup.py", silos, *few],
        "aggregation": ["aggregation.py", "--parameters", *sizes, *few],
        "exact sums": ["reduction.py"],
        "cost model": ["cost_model.py", *(["--rounds", "3"] if quick else [])],
        "steps": ["steps.py", *(["--turns", "1", "--steps", "2"] if quick else [])],
        "waiting": ["idle.py", *(["--turns", "2"] if quick else [])],
        "files": ["files.py", tree, *few],
        "many silos": ["many_silos.py", *(["--silos", "200", "--rounds", "4"] if quick else [])],
    }
    if quick:
        del programs["floor B"]
    return programs


def main() -> int:
    """Run them one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("silos", metavar="SILOS", help="folder of seven silos with 32×32 gray pictures")
    parser.add_argument("tree", metavar="TREE", help="the raw tree of pictures that they were packed from")
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"), help="default: build/bench.json")
    parser.add_argument("--quick", action="store_true", help="small and once: figures that mean nothing")
    given = parser.parse_args()
    found: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": platform.processor(),
    }
    failed = 0
    for question, (program, *words) in commands(given.silos, given.tree, quick=given.quick).items():
        print(f"\n{question}: python benchmarks/{' '.join([program, *words])}", flush=True)
        done = subprocess.run([sys.executable, str(HERE / program), *words], stdout=subprocess.PIPE, text=True, check=False)
        lines = done.stdout.rstrip().splitlines()
        if done.returncode or not lines:
            failed += 1
            continue
        start = max(index for index, line in enumerate(lines) if line[:1] in {"{", "["})
        found[question] = json.loads("\n".join(lines[start:]))
        print("\n".join(lines[:start] or lines), flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="ascii")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
