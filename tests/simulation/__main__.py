"""Simulate jobs by the thousand: python -m simulation --count 100000 --seed 1, from the folder tests."""

from __future__ import annotations

import argparse
import collections
import functools
import multiprocessing
import os
import sys
import time

from silofold.coordination import phases
from simulation import job


def summary(seed: int, *, one_dead_worker: bool) -> tuple[int, str, str, int, int, dict[tuple[str, str, str], int], str]:
    """Simulate a job, and tell what counts of it."""
    found = job.run(seed, one_dead_worker=one_dead_worker)
    return seed, found.kind, found.why, found.events, len(found.rounds), dict(found.transitions), found.test


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
    transitions: collections.Counter[tuple[str, str, str]] = collections.Counter()
    events = rounds = 0
    bad = []
    seeds = range(options.seed, options.seed + options.count)
    with multiprocessing.Pool(len(os.sched_getaffinity(0))) as pool:
        work = functools.partial(summary, one_dead_worker=options.one_dead_worker)
        for seed, kind, why, heard, played, moved, test in pool.imap_unordered(work, seeds, 50):
            kinds[kind] += 1
            events += heard
            rounds += played
            transitions.update(moved)
            if kind == "violation":
                bad.append((seed, why, test))
    took = time.monotonic() - began
    print(
        f"{options.count} jobs, {rounds} rounds, {events} events in {took:.1f} s: {options.count / took:.0f} jobs a second"
    )
    print(dict(kinds))
    for way in phases.TRANSITIONS:
        names = way.source.__name__, way.event.__name__, way.target.__name__
        print(f"{transitions[names]:9} {names[0]} → {names[2]} ({names[1]}): {way.meaning}")
    for seed, why, _ in sorted(bad)[:20]:
        print(f"seed {seed}: {why}")
    for _, _, test in sorted(bad)[:1]:
        print(f"\na unit test of the first, for tests/unit/coordination:\n\n{test}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
