"""Measure how much longer a round takes when every round writes a checkpoint, against none but the last.

Runs the same short federation with ``rounds.checkpoint_every`` 1 and 0 by turns and compares the medians of
``seconds.total`` over the rounds, the first and last left out. Prints one JSON object for each model: LeNet, and a
perceptron of 5 million parameters under Adam, whose servers write 20 bytes a parameter. How long the writing itself took is
read off the scheduler's log.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Final

ROOT: Final = Path(__file__).parents[1]
SAVED: Final = re.compile(r"checkpoint of round \d+ written \(slowest rank ([\d.]+) s\)")
CASES: Final = {
    "lenet": ("local.epochs=1",),
    "5 million parameters, Adam": (
        "local.epochs=1", "model.name=own_model:Net", "model.width=4600", "server_optimizer.name=adaptive",
        "local.drop_last=true", "local.batch_size=256",
    ),
}  # fmt: skip


def run(data: Path, settings: tuple[str, ...], every: int, rounds: int) -> tuple[float, list[float], int]:
    """Run once.

    Returns
    -------
    tuple
        Median seconds of a round, seconds that each checkpoint took its slowest rank, bytes of one.

    Raises
    ------
    SystemExit
        It failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        recipe, out = Path(folder) / "run.toml", Path(folder) / "run"
        recipe.write_text("", encoding="ascii")
        sets = [*settings, f"rounds.count={rounds}", f"rounds.checkpoint_every={every}", "rounds.evaluate_every=1000"]
        command = [sys.executable, "-m", "silofold", "launch", str(recipe), "--data", str(data), "--out", str(out)]
        command += ["--servers", "1", "--workers", "2", *[part for setting in sets for part in ("--set", setting)]]
        where = dict(os.environ) | {"PYTHONPATH": f"{ROOT / 'tests'}:{os.environ.get('PYTHONPATH', '')}"}
        ended = subprocess.run(command, capture_output=True, text=True, check=False, env=where)
        if ended.returncode:
            sys.exit(f"error: the federation ended with {ended.returncode}: {ended.stderr.strip()[-500:]}")
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        log = (out / "scheduler" / "scheduler.log").read_text()
        newest = max((out / "checkpoints").iterdir())
        size = sum(path.stat().st_size for path in newest.iterdir())
    return median(line["seconds"]["total"] for line in lines[1:-1]), [float(found) for found in SAVED.findall(log)], size


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", type=Path, help="folder of silos, made by data_tools/pack.py")
    parser.add_argument("--rounds", type=int, default=8, help="rounds of a run (default: 8)")
    parser.add_argument("--repeats", type=int, default=3, help="pairs of runs (default: 3)")
    given = parser.parse_args()
    for name, settings in CASES.items():
        pairs = [
            [run(given.data.resolve(), settings, every, given.rounds) for every in (1, 0)] for _ in range(given.repeats)
        ]
        ratios = [each[0] / none[0] for each, none in pairs]
        result = {
            "model": name,
            "checkpoint_megabytes": round(pairs[0][0][2] / 1e6, 1),
            "round_seconds_with": round(median(each[0] for each, _ in pairs), 3),
            "round_seconds_without": round(median(none[0] for _, none in pairs), 3),
            "with_over_without": round(median(ratios), 3),
            "with_over_without_each": [round(ratio, 3) for ratio in ratios],
            "writing_seconds": round(median(seconds for each, _ in pairs for seconds in each[1]), 3),
        }
        print(json.dumps(result, indent=2), flush=True)


if __name__ == "__main__":
    main()
