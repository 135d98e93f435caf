"""Where the rank-seconds of a job went, and what another number of ranks would have saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from silofold.core.summary import Summary

IDLE = 0.99
"""Share of its time that a server must have been idle for the hint that fewer would do."""


class Shares(NamedTuple):
    """Seconds of all ranks together."""

    training: float
    evaluation: float
    communication: float
    """Waiting for the model, adding up and moving the shards."""
    start: float
    waiting: float
    """All the rest: for work, for slower ranks, for messages."""


def shares(rounds: Sequence[Summary], ranks: int, start: float, seconds: float) -> Shares:
    """Add up where the time went.

    Parameters
    ----------
    rounds
        Those that the job played.
    ranks
        How many it has.
    start
        Seconds before its first round.
    seconds
        Seconds that it took in all.
    """
    each = [rank for summary in rounds for rank in summary.ranks]
    training, evaluation = sum(rank.train for rank in each), sum(rank.evaluate for rank in each)
    communication = sum(rank.broadcast + rank.reduce + rank.apply for rank in each)
    busy = training + evaluation + communication
    return Shares(training, evaluation, communication, ranks * start, max(0.0, ranks * (seconds - start) - busy))


def line(found: Shares) -> str:
    """Tell the shares in one line."""
    total = max(sum(found), 1e-9)
    parts = ", ".join(f"{value / total:.1%} {name}" for name, value in found._asdict().items())
    return f"of {total:.0f} rank-seconds: {parts}"


def hints(
    rounds: Sequence[Summary], cores: Sequence[tuple[str, int]], servers: int, *, kernel_by_kernel: bool = False
) -> list[str]:
    """Name what makes a job slower than it need be.

    Parameters
    ----------
    rounds
        Those that the job played.
    cores
        Node of each worker, and the cores that it may use there.
    servers
        How many there are.
    kernel_by_kernel
        Whether workers start each kernel of a step on a GPU by a call of its own.
    """
    told = []
    seconds = sum(summary.seconds.total for summary in rounds)
    busiest = sum(summary.seconds.reduce + summary.seconds.apply for summary in rounds)
    # one server would add up and move all the shards: so many times as much
    if servers > 1 and servers * busiest < (1 - IDLE) * seconds:
        told.append(f"{servers} servers were idle {1 - busiest / seconds:.1%} of the time: one would do (--servers 1)")
    nodes = {node: (sum(other == node for other, _ in cores), count) for node, count in cores}
    for node, (workers, count) in nodes.items():
        if workers > count:
            told.append(f"{workers} workers share {count} cores of {node}: a worker hosts several silos (--workers auto)")
    if kernel_by_kernel:
        told.append("steps ran on a GPU kernel by kernel: small models train faster with --set local.cuda_graph=true")
    return told
