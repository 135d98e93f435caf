"""Measure what a round costs the scheduler: drawing, plans, reports and tallies of jobs that no machine here could hold.

The real coordinator, with every message encoded and decoded as on its way; what the ranks answer is made beforehand and not
timed, and files are not written. For each number of workers and silos prints the seconds of one core in a round (median of
the rounds), by part, messages and bytes sent and heard, and the process's memory; one JSON object at the end.

    python benchmarks/scheduler.py [WORKERS:SILOS …] [--rounds N] [--servers S] [--apart]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from silofold.aggregation.cohorts import sample
from silofold.coordination.coordinator import Coordinator
from silofold.coordination.events import Finished, Heard, Send
from silofold.coordination.facts import Facts
from silofold.core import messages, recipes, reports, seeds, topology

if TYPE_CHECKING:
    from silofold.coordination.events import Action
    from silofold.core.messages import AnyMessage

SIZES: Final = ("100:1000", "1000:10000", "10000:100000")
ELEMENTS: Final = 66_404
DIGEST: Final = "0" * 64


class Bench:
    """One job whose ranks answer at once.

    Parameters
    ----------
    workers, silos, servers
        How many.
    apart
        Whether ranks lie on nodes of their own, so that every rank tells when its part of a reduction has moved.
    """

    def __init__(self, workers: int, silos: int, servers: int, *, apart: bool) -> None:
        self.layout = topology.Layout(1 + servers + workers, servers)
        self.examples = [50 + 7 * (index % 13) for index in range(silos)]
        hosted = dict(zip(self.layout.worker_ranks, topology.assign_silos(self.examples, workers), strict=True))
        cohort = sample.plugin(sample.plugin.Settings(name="sample", size=silos))
        self.facts = Facts(
            layout=self.layout, nodes=["node"] * self.layout.size, rounds=recipes.resolve({}, "benchmark").rounds,
            examples=self.examples, hosted=hosted, elements=ELEMENTS, survives=True, tied=False, keeps_state=False,
            deals=False, foresees=False, weight=lambda examples: examples,
            draw=lambda found, number: cohort.draw(found, seeds.generator(1, "cohort", number)),
            certain=lambda _: not apart, gathers=False, script={},
        )  # fmt: skip
        self.coordinator = Coordinator(self.facts, 0.0)
        self.spent = dict.fromkeys(("decide", "encode", "decode"), 0.0)
        self.sent = self.sent_bytes = self.heard = self.heard_bytes = 0

    def round(self, number: int) -> None:
        """Play one round."""
        answers: list[tuple[int, AnyMessage]] = [
            (rank, messages.Ready(self.layout.title(rank))) for rank in range(1, self.layout.size)
        ]
        while answers:
            told = self._hear([(rank, messages.encode(message)) for rank, message in answers])
            answers = [reply for rank, data in told for reply in self._answers(rank, messages.decode(data))]
            if any(isinstance(message, messages.Applied) for _, message in answers):
                self._hear([(rank, messages.encode(message)) for rank, message in answers])
                return
        message = f"round {number} came to no end"
        raise RuntimeError(message)

    def _hear(self, answers: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Decode, hand to the coordinator, and encode what it sends: the part that is timed."""
        clock, spent = time.thread_time, self.spent
        begin = clock()
        heard = [(rank, messages.decode(data)) for rank, data in answers]
        decoded = clock()
        actions: list[Action] = []
        for rank, message in heard:
            actions += self.coordinator.handle(Heard(rank, message), 1.0)
        decided = clock()
        told = [(action.to, messages.encode(action.message)) for action in actions if isinstance(action, Send)]
        encoded = clock()
        for part, seconds in zip(spent, (decided - decoded, encoded - decided, decoded - begin), strict=True):
            spent[part] += seconds
        if over := next((action for action in actions if isinstance(action, Finished)), None):
            sys.exit(f"error: the job ended: {over.why}")
        self.heard_bytes += sum(len(data) for _, data in answers)
        self.heard += len(answers)
        self.sent += len(told)
        self.sent_bytes += sum(len(data) for _, data in told)
        return told

    def _answers(self, rank: int, message: AnyMessage) -> list[tuple[int, AnyMessage]]:
        """Return what a rank says to a message."""
        serves = rank in self.layout.server_ranks
        match message:
            case messages.Plan() if not serves:
                scores = tuple(reports.Score(silo, 20, 10, 30.0) for silo in message.hosted if message.evaluate)
                reports = tuple(
                    reports.Report(silo, self.examples[silo], 3, 3 * self.examples[silo], 1.0, 9, 0.5, finished=True,
                                    elements=ELEMENTS)
                    for silo in message.dealt
                )  # fmt: skip
                digest = DIGEST if rank < self.layout.worker_ranks.start + 2 else ""
                evaluation = messages.Evaluation(message.round, digest, 0.1, 0.1, scores)
                return [(rank, evaluation), (rank, messages.Reports(message.round, 1.0, reports))]
            case messages.Settled() | messages.Tally(certain=True):
                return [(rank, messages.Applied(message.round, rank - 1, DIGEST, 0.1, 0.1))] if serves else []
            case messages.Tally():
                return [(rank, messages.Moved(message.round, message.attempt))]
        return []


def memory() -> int:
    """Return the most memory that this process has held, bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def measure(workers: int, silos: int, options: argparse.Namespace) -> dict[str, float]:
    """Play some rounds of a job; the first one is not counted."""
    bench = Bench(workers, silos, options.servers, apart=options.apart)
    seconds, parts = [], []
    bench.round(1)
    sent = bench.sent, bench.sent_bytes, bench.heard, bench.heard_bytes
    for number in range(2, 2 + options.rounds):
        before = dict(bench.spent)
        bench.round(number)
        parts.append({key: value - before[key] for key, value in bench.spent.items()})
        seconds.append(sum(parts[-1].values()))
    now = bench.sent, bench.sent_bytes, bench.heard, bench.heard_bytes
    sums = [(after - earlier) / options.rounds for earlier, after in zip(sent, now, strict=True)]
    found = {"workers": workers, "silos": silos, "seconds": median(seconds)}
    found |= {key: median(part[key] for part in parts) for key in bench.spent}
    return found | dict(zip(("sent", "sent_bytes", "heard", "heard_bytes"), sums, strict=True)) | {"memory": memory()}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", default=SIZES, metavar="WORKERS:SILOS")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--servers", type=int, default=4)
    parser.add_argument("--apart", action="store_true", help="ranks on nodes of their own: nothing is certain")
    options = parser.parse_args()
    found = []
    print("| workers | silos | s a round | deciding | encoding | decoding | sent | MB sent | heard | MB heard | memory MB |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for size in options.sizes:
        workers, silos = map(int, size.split(":"))
        one = measure(workers, silos, options)
        cells = (
            f"{workers:,}", f"{silos:,}", f"{one['seconds']:.4f}", f"{one['decide']:.4f}", f"{one['encode']:.4f}",
            f"{one['decode']:.4f}", f"{one['sent']:,.0f}", f"{one['sent_bytes'] / 1e6:.2f}", f"{one['heard']:,.0f}",
            f"{one['heard_bytes'] / 1e6:.2f}", f"{one['memory'] / 1e6:.0f}",
        )  # fmt: skip
        print(f"| {' | '.join(cells)} |")
        sys.stdout.flush()
        found.append(one)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
