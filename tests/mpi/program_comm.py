"""Program of test_comm.py: checks world and fabric on the communicator it gets; exits with 0 if all is right."""

from __future__ import annotations

import sys
import time

import numpy as np

from silofold.comm import waiting, world
from silofold.comm.fabric import Fabrics
from silofold.errors import ConfigError, SilofoldError
from silofold.messages import Members, Ready, Report, Reports
from silofold.topology import Layout, shard_slices


def check(*, right: bool, what: str) -> None:
    if not right:
        sys.stderr.write(f"WRONG: {what}\n")
        sys.stderr.flush()
        here.abort(3)


def control() -> None:
    """Small and large messages of one sender arrive in order; a wait ends at its deadline."""
    if here.rank == 0:
        heard: dict[int, list[str]] = {rank: [] for rank in range(1, here.size)}
        for _ in range(3 * (here.size - 1)):
            rank, message = here.hear(time.monotonic() + 20)
            heard[rank].append(type(message).__name__)
        check(right=all(kinds == ["Ready", "Reports", "Ready"] for kinds in heard.values()), what=f"order: {heard}")
        begin = time.monotonic()
        try:
            here.hear(begin + 0.2)
            check(right=False, what="a message from nowhere")
        except waiting.Timeout:
            check(right=0.2 <= time.monotonic() - begin < 5, what="deadline")
    else:
        rows = tuple(Report(silo, 1, 2, 3, 0.5, 4, 0.25, finished=True, elements=1) for silo in range(5000))
        here.say(Ready(f"rank {here.rank}"), 0)
        here.say(Reports(7, 1.0, rows), 0)
        here.say(Ready(f"rank {here.rank}"), 0)
        here.flush(20)


def agreement() -> None:
    """A fault of any one rank is raised on all, with its text and its exit code; no fault is raised on none."""
    with here.together():
        pass
    for culprit in range(here.size):
        try:
            with here.together():
                if here.rank == culprit:
                    raise ConfigError(f"rank {culprit} found a fault")
            check(right=False, what="no fault was raised")
        except SilofoldError as fault:
            check(right=str(fault) == f"rank {culprit} found a fault" and fault.exit_code == 2, what=f"{fault!r}")
    check(right=here.share(b"abc" if here.rank == 0 else b"") == b"abc", what="share")
    gathered = here.gather(bytes(here.rank))
    check(right=[len(part) for part in gathered] == list(range(here.size)), what="gather")


def model(servers: int, parameters: int) -> None:
    """Broadcast, sum and gather, among all workers and among a part of them."""
    layout = Layout(here.size, servers)
    slices = shard_slices(parameters, servers)
    fabrics = Fabrics(here, layout, slices, 20)
    truth = np.arange(parameters, dtype=np.float32)
    kind, index = layout.role(here.rank)
    workers = list(layout.worker_ranks)
    for epoch, members in enumerate((workers, workers[:1], workers[-1:], workers)):
        fabric = fabrics.among(Members(tuple(members), epoch, 0))
        vector = truth[slices[index]].copy() if kind == "server" else np.zeros(parameters, np.float32)
        fabric.share_model(vector, 20)
        if here.rank in members:
            check(right=bool((vector == truth).all()), what=f"broadcast to {members}")
        base = np.arange(parameters, dtype=np.int64)
        size = len(vector)
        total = np.full(size, -1, np.int64) if kind == "server" else base * here.rank + 2**40
        fabric.collect(total, None, 20)
        if kind == "server":
            expected = (base * sum(members) + len(members) * 2**40)[slices[index]]
            check(right=bool((total == expected).all()), what=f"sum of {members}")
        counts = [1 + position % 2 for position, _ in enumerate(members)]
        if kind == "server":
            rows = np.zeros((sum(counts), size), np.float32)
        else:
            mine = counts[members.index(here.rank)] if here.rank in members else 0
            rows = np.zeros((mine, parameters), np.float32)
            for row in range(mine):
                rows[row] = truth + 100 * here.rank + row
        fabric.collect(rows, counts, 20)
        if kind == "server":
            wanted = [truth + 100 * rank + row for rank, n in zip(members, counts, strict=True) for row in range(n)]
            check(right=bool((rows == np.stack(wanted)[:, slices[index]]).all()), what=f"gather of {members}")


here = world.connect()
control()
agreement()
for count in (1, 2, 4):
    if here.size >= count + 2:
        for size in (1003, 40_001):
            model(count, size)
check(right="torch" not in sys.modules, what="torch was imported")
world.finish(here, 0)
