"""Program of test_comm.py: checks world and fabric on the communicator it gets; exits with 0 if all is right."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import numpy as np

from silofold.comm import waiting, world
from silofold.comm.fabric import Fabrics
from silofold.comm.window import Node
from silofold.core.errors import ConfigError, SilofoldError
from silofold.core.messages import Members, Ready, Reports
from silofold.core.reports import Report
from silofold.core.topology import Layout, shard_slices

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from silofold.comm.fabric import Fabric


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
                    raise ConfigError("settings-key", f"rank {culprit} found a fault")
            check(right=False, what="no fault was raised")
        except SilofoldError as fault:
            check(right=str(fault) == f"rank {culprit} found a fault" and fault.exit_code == 2, what=f"{fault!r}")
    check(right=here.share(b"abc" if here.rank == 0 else b"") == b"abc", what="share")
    gathered = here.gather(bytes(here.rank))
    check(right=[len(part) for part in gathered] == list(range(here.size)), what="gather")


def meet() -> None:
    """What the control messages of a round do: nobody goes on before all have come here."""
    waiting.complete([here.comm.Ibarrier()], time.monotonic() + 20)


def model(servers: int, parameters: int, nodes: int) -> None:
    """Broadcast, sum and gather, among all workers and among a part of them, on as many nodes; 0: nobody shares memory."""
    layout = Layout(here.size, servers)
    slices = shard_slices(parameters, servers)
    labels = [str(rank % nodes) for rank in range(here.size)] if nodes else None
    node = Node(here, layout, parameters, np.float32, np.int64, labels)
    beside = [rank for rank in range(here.size) if nodes and rank % nodes == here.rank % nodes]
    check(right=node.shared == (len(beside) > 1), what=f"{nodes} nodes: shared is {node.shared}")
    check(right=all(not part.size or part.ctypes.data % 64 == 0 for part in (node.model, node.room)), what="alignment")
    fabrics = Fabrics(here, layout, slices, node, 20)
    kind, index = layout.role(here.rank)
    workers = list(layout.worker_ranks)
    for epoch, members in enumerate((workers, workers[:1], workers[-1:], workers)):
        fabric = fabrics.among(Members.of(members, epoch, 0))
        truth = np.arange(parameters, dtype=np.float32) + epoch
        vector = node.model[slices[index]] if kind == "server" else np.zeros(parameters, np.float32)
        if kind == "server":
            vector[:] = truth[slices[index]]
        meet()
        check(right=not fabric.share_model(vector, 20, epoch + 1), what="broken broadcast")
        if here.rank in members:
            check(right=bool((vector == truth).all()), what=f"broadcast to {members}")
        base = np.arange(parameters, dtype=np.int64)
        size = len(vector)
        node.room[:] = (base * here.rank + 2**40)[: len(node.room)]
        meet()
        total = np.full(size, -1, np.int64) if kind == "server" else node.room
        for _ in range(2):  # an attempt that has broken is made again
            check(right=not fabric.collect(total, None, 20), what="broken sum")
        if kind == "server":
            expected = (base * sum(members) + len(members) * 2**40)[slices[index]]
            check(right=bool((total == expected).all()), what=f"sum of {members} on {nodes} nodes")
            if node.holds((*layout.server_ranks, *members)):
                total = node.lend(members[0], slices[index])
                check(right=not fabric.collect(total, None, 20), what="broken sum in place")
                check(right=bool((total == expected).all()), what=f"sum of {members} in the first one's room")
            check(right=nodes == 1 or not node.holds(range(here.size)), what=f"all on one of {nodes} nodes")
        if not nodes:
            gather(fabric, layout, members, truth, slices)
        meet()


def gather(fabric: Fabric, layout: Layout, members: list[int], truth: NDArray[np.float32], slices: list[slice]) -> None:
    kind, index = layout.role(here.rank)
    counts = [1 + position % 2 for position, _ in enumerate(members)]
    if kind == "server":
        rows = np.zeros((sum(counts), slices[index].stop - slices[index].start), np.float32)
    else:
        mine = counts[members.index(here.rank)] if here.rank in members else 0
        rows = np.zeros((mine, len(truth)), np.float32)
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
        for size, nodes in ((1003, 0), (40_001, 0), (1003, 1), (300_001, 1), (1003, 2), (300_001, 3)):
            model(count, size, nodes)
if here.size == 3:  # between two ranks Open MPI adds up in steps of 8 KiB, one a look
    model(1, 5_000_000, 0)
check(right="torch" not in sys.modules, what="torch was imported")
world.finish(here, 0)
