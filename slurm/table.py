"""A table over finished runs: accuracy of each with its interval, and how much they scatter."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from silofold.record import history
from silofold.record.rundir import RunFolder

if TYPE_CHECKING:
    from silofold.core.summary import Summary


def measured(rounds: list[Summary]) -> Summary:
    """Return the last round whose model was evaluated.

    Raises
    ------
    SystemExit
        There is none.
    """
    for summary in reversed(rounds):
        if summary.accuracy is not None:
            return summary
    raise SystemExit("error: a run without an evaluated round")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", metavar="RUN_DIR", type=Path, nargs="+", help="folder of a run")
    folders: list[Path] = parser.parse_args().runs
    runs = {folder.name: history.read(RunFolder(folder).metrics) for folder in folders}
    width = max(len("run"), *map(len, runs))
    print(f"{'run':<{width}}  rounds  void  accuracy  95 % interval     seconds  model")
    for name, rounds in runs.items():
        last = measured(rounds)
        seconds = sum(summary.seconds.total for summary in rounds)
        voids = sum(summary.void for summary in rounds)
        interval = f"[{last.accuracy_low:.2%}, {last.accuracy_high:.2%}]"
        print(
            f"{name:<{width}}  {len(rounds):>6}  {voids:>4}  {last.accuracy:>8.2%}  {interval}  {seconds:>7.1f}"
            f"  {rounds[-1].model_sha256[:8]}"
        )
    accuracies = [found for rounds in runs.values() if (found := measured(rounds).accuracy) is not None]
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    print(f"mean {statistics.mean(accuracies):.2%}, standard deviation {spread:.2%}, {len(accuracies)} runs")


if __name__ == "__main__":
    main()
