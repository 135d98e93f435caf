"""Measure how long a federation takes from its start to round 1, and what ranks without torch save.

Prints one JSON object. ``startup_seconds`` is from the start of the launcher to the moment the last rank is ready for
round 1. ``import_seconds`` is what Python needs for all that a server, and a worker, imports; their ratio is
``worker_over_server``. The page cache is warm but for the first run.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Final

READY: Final = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) (\S+) INFO ready after ([\d.]+) s$", re.MULTILINE)
IMPORTED: Final = re.compile(r"^import time:\s*(\d+) \|\s*\d+ \|\s*(\S+)$", re.MULTILINE)
RECIPE: Final = "[rounds]\ncount = 1\n[local]\nepochs = 1\n"
SCHEDULING: Final = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; import silofold.job.startup"
ROLES: Final = {
    "server": f"{SCHEDULING}; from silofold.core import plugins; plugins.find('server_optimizer', 'sgd')",
    "worker": f"{SCHEDULING}; import silofold.roles.worker, silofold.training.build, silofold.training.device",
}


def start_up(data: Path, servers: int, workers: int) -> tuple[float, float]:
    """Run one short federation.

    Returns
    -------
    tuple of float
        Seconds from the start of the launcher until all ranks were ready, and those of them that passed before the ranks
        had been started and had imported what they need.

    Raises
    ------
    SystemExit
        The federation failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        recipe, out = Path(folder) / "run.toml", Path(folder) / "run"
        recipe.write_text(RECIPE, encoding="ascii")
        shape = ["--servers", str(servers), "--workers", str(workers)]
        command = [sys.executable, "-m", "silofold", "launch", str(recipe), "--data", str(data), "--out", str(out), *shape]
        began = time.time()
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            sys.exit(f"error: the federation ended with {ended.returncode}: {ended.stderr.strip()[-500:]}")
        ready = ready_times(out)
    if len(ready) != 1 + servers + workers:
        sys.exit(f"error: {len(ready)} logs tell when their rank was ready, expected {1 + servers + workers}")
    last, after = max(ready)
    return last - began, last - after - began


def ready_times(out: Path) -> list[tuple[float, float]]:
    """Read in a run's logs when each rank was ready, in seconds since the epoch, and after how many seconds it was."""
    found = [READY.search(log.read_text(encoding="utf-8")) for log in out.glob("*/*.log")]
    lines = [match for match in found if match]
    times = [datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp() for match in lines]
    return [(ready, float(match[3])) for ready, match in zip(times, lines, strict=True)]


def import_time(role: str) -> tuple[float, int, bool]:
    """Import what a role imports in a new process.

    Returns
    -------
    tuple
        Seconds, number of modules, and whether torch is among them.
    """
    command = [sys.executable, "-X", "importtime", "-c", ROLES[role]]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    lines = IMPORTED.findall(told)
    return sum(int(own) for own, _ in lines) / 1e6, len(lines), any(name == "torch" for _, name in lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", type=Path, help="folder of silos, made by data_tools/pack.py")
    parser.add_argument("--servers", type=int, default=4, help="server ranks (default: 4)")
    parser.add_argument("--workers", type=int, default=7, help="worker ranks, at most the silos (default: 7)")
    parser.add_argument("--repeats", type=int, default=5, help="how often each is measured (default: 5)")
    given = parser.parse_args()
    runs = [start_up(given.data.resolve(), given.servers, given.workers) for _ in range(given.repeats)]
    imports = {role: [import_time(role) for _ in range(given.repeats)] for role in ROLES}
    seconds = {role: median(found[0] for found in measured) for role, measured in imports.items()}
    result = {
        "ranks": 1 + given.servers + given.workers,
        "repeats": given.repeats,
        "startup_seconds": round(median(total for total, _ in runs), 3),
        "before_agreement_seconds": round(median(before for _, before in runs), 3),
        "startup_seconds_each": [round(total, 3) for total, _ in runs],
        "import_seconds": {role: round(value, 3) for role, value in seconds.items()},
        "modules": {role: measured[0][1] for role, measured in imports.items()},
        "imports_torch": {role: measured[0][2] for role, measured in imports.items()},
        "worker_over_server": round(seconds["worker"] / seconds["server"], 1),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
