"""Simulate jobs by the thousand: python -m simulation --count 100000 --seed 1, from the folder tests."""

from __future__ import annotations

import argparse
import collections
import functools
import multiprocessing
import os
import sys
import time
from typing import NamedTuple

from silofold.coordination import member, phases, recovery
from simulation import job


class Told(NamedTuple):
    """What counts of a job."""

    seed: int
    kind: str
    why: str
    events: int
    rounds: int
    ways: dict[tuple[str, ...], int]
    test: str


def summary(seed: int, *, one_dead_worker: bool) -> Told:
    """Simulate a job, and tell what counts of it."""
    found = job.run(seed, one_dead_worker=one_dead_worker)
    return Told(seed, found.kind, found.why, found.events, len(found.rounds), dict(found.ways), found.test)


def table() -> dict[tuple[str, ...], str]:
    """List every way that the coordinator, a member and a survivor may take, and what each means."""
    found: dict[tuple[str, ...], str] = {}
    for step in phases.TRANSITIONS:
        found["coordinator", step.source.__name__, step.event.__name__, step.target.__name__] = step.meaning
    for machine, ways in (("member", member.WAYS), ("recovery", recovery.WAYS)):
        found |= {(machine, way.source, way.event.__name__, way.target): way.meaning for way in ways}
    return found


def main() -> int:
    """Simulate, count, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--one-dead-worker", action="store_true", help="nothing but the death of one worker, at the defaults"
    )
    parser.add_argument("--show", type=int, metavar="SEED", help="everything that happens in one job")
    options = parser.parse_args()
    if options.show is not None:
        found = job.run(options.show, one_dead_worker=options.one_dead_worker)
        for entry in found.log:
            print(*entry)
        print(found.kind, found.why, found.plan)
        print(found.test)
        return int(found.kind == "violation")
    began = time.monotonic()
    kinds: collections.Counter[str] = collections.Counter()
    ways: collections.Counter[tuple[str, ...]] = collections.Counter()
    events = rounds = 0
    bad = []
    seeds = range(options.seed, options.seed + options.count)
    with multiprocessing.Pool(len(os.sched_getaffinity(0))) as pool:
        work = functools.partial(summary, one_dead_worker=options.one_dead_worker)
        for told in pool.imap_unordered(work, seeds, 50):
            kinds[told.kind] += 1
            events += told.events
            rounds += told.rounds
            ways.update(told.ways)
            if told.kind == "violation":
                bad.append((told.seed, told.why, told.test))
    took = time.monotonic() - began
    print(
        f"{options.count} jobs, {rounds} rounds, {events} events in {took:.1f} s: {options.count / took:.0f} jobs a second"
    )
    print(dict(kinds))
    for way, meaning in table().items():
        machine, source, event, target = way
        print(f"{ways[way]:9} {machine}: {source} → {target} ({event}): {meaning}")
    for seed, why, _ in sorted(bad)[:20]:
        print(f"seed {seed}: {why}")
    for _, _, test in sorted(bad)[:1]:
        print(f"\na unit test of the first, for tests/unit/coordination:\n\n{test}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
