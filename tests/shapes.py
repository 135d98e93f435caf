"""The same run on every shape of job and both MPI libraries: every round's digest must be the same.

Runs the experiment of examples/femnist, shortened to 5 rounds of 2 epochs, for each environment, number of servers and
number of workers, on all cores or squeezed onto one. Writes what it saw as JSON and as a table into docs/same_bits.md; ends
with 1 if any digest differs. The environments are those of `make venv` and `make test-mpich`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import mpirun

ROOT = Path(__file__).parents[1]
SETTINGS = ("rounds.count=5", "local.epochs=2")
MARKS = ("<!-- written by tests/shapes.py -->", "<!-- end -->")


def run(environment: Path, data: Path, shape: tuple[int, int], cores: str, folder: Path) -> dict[str, Any]:
    """Run once and return what the run says of itself.

    Raises
    ------
    SystemExit
        It failed.
    """
    servers, workers = shape
    out = folder / f"{environment.name}-{servers}-{workers}-{cores}"
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [str(environment / "bin" / "silofold"), "launch", str(ROOT / "examples" / "femnist" / "run.toml")]
    command += ["--data", str(data), "--out", str(out), "--servers", str(servers), "--workers", str(workers), *sets]
    if cores == "one":
        command = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0))), *command]
    ended = mpirun.run(command, 900)
    if ended.code:
        sys.exit(f"error: {' '.join(command)} ended with {ended.code}: {ended.err.strip()[-500:]}")
    record = json.loads((out / "run.json").read_text())
    digests = [json.loads(line)["model_sha256"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    mpi = re.sub(r"^(Open MPI|MPICH)[^\d]*([\d.]+).*", r"\1 \2", record["versions"]["mpi"])
    worker = record["ranks"][-1]
    return {
        "mpi": mpi, "servers": servers, "workers": workers, "cores": cores, "digests": digests,
        "torch": worker["torch"], "cpu": f"{worker['cpu']} ({worker['hardware']})", "revision": record["git_revision"],
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """Make the part of the page that the runs decide."""
    rounds = {tuple(row["digests"]) for row in rows}
    workers = sorted({row["workers"] for row in rows})
    seen = {(row["mpi"], row["cores"], row["servers"], row["workers"]): row["digests"][-1][:12] for row in rows}
    libraries, servers = sorted({row["mpi"] for row in rows}), sorted({row["servers"] for row in rows})
    lines = [
        f"Seen: {len(rows)} runs, the digests of all {len(rows[0]['digests'])} rounds "
        + ("equal in all of them" if len(rounds) == 1 else f"in {len(rounds)} KINDS")
        + f"; torch {rows[0]['torch']}, {rows[0]['cpu']}. First digits of the last digest:",
        "",
        "| MPI | cores | servers | " + " | ".join(f"{n} worker{'s' * (n > 1)}" for n in workers) + " |",
        "|---|---|---|" + "---|" * len(workers),
    ]
    for mpi, cores, number in itertools.product(libraries, ("all", "one"), servers):
        cells = [seen.get((mpi, cores, number, n), "not run") for n in workers]
        if set(cells) != {"not run"}:
            lines.append(f"| {mpi} | {cores} | {number} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Run what is asked for, then write JSON and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", type=Path, help="folder of at least 7 silos")
    parser.add_argument("--environments", type=Path, nargs="+", default=[ROOT / ".venv", ROOT / ".venv-mpich"])
    parser.add_argument("--servers", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 3, 7])
    parser.add_argument("--cores", choices=["all", "one"], nargs="+", default=["all", "one"])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "shapes.json", help="default: build/shapes.json")
    parser.add_argument("--add", action="store_true", help="keep the runs of other shapes that are in that file")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(given.out.read_text()) if given.add and given.out.exists() else []
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        shapes = itertools.product(given.environments, given.cores, given.servers, given.workers)
        for environment, cores, servers, workers in shapes:
            row = run(environment.absolute(), given.data.resolve(), (servers, workers), cores, Path(folder))
            print(f"{row['mpi']:16} {cores} {servers} servers {workers} workers  {row['digests'][-1][:12]}", flush=True)
            key = ("mpi", "cores", "servers", "workers")
            rows = [old for old in rows if [old[k] for k in key] != [row[k] for k in key]] + [row]
            given.out.write_text(json.dumps(rows, indent=1))
    page = ROOT / "docs" / "same_bits.md"
    head, _, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    page.write_text(f"{head}{MARKS[0]}\n\n{table(rows)}\n\n{MARKS[1]}{rest.partition(MARKS[1])[2]}", encoding="utf-8")
    kinds = len({tuple(row["digests"]) for row in rows})
    print(f"{len(rows)} runs, {kinds} kind{'s' * (kinds > 1)} of digests")
    return int(kinds != 1)


if __name__ == "__main__":
    sys.exit(main())
