"""Who does what: rank → role, silo → worker, shard → slice. Integer arithmetic alone, the same on every rank."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from silofold.core.errors import TopologyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

RoleName: TypeAlias = Literal["scheduler", "server", "standby", "worker"]
Placement: TypeAlias = Literal["packed", "spread"]
SCHEDULER = 0


@dataclass(frozen=True)
class Layout:
    """The roles of a job of `size` ranks: rank 0, then the servers, then the standbys, then the workers."""

    size: int
    servers: int
    standby: int = 0

    def __post_init__(self) -> None:
        """Refuse a job without workers."""
        least = self.servers + self.standby + 2
        if self.size < least:
            standby = f" + {self.standby} standby (roles.standby)" if self.standby else ""
            raise TopologyError(
                "topology-ranks",
                f"found {self.size} rank{'s' * (self.size != 1)}, expected at least {least}: "
                f"1 scheduler + {self.servers} server{'s' * (self.servers != 1)} (roles.servers){standby} "
                "+ 1 or more workers",
            )

    @property
    def server_ranks(self) -> range:
        """Ranks of the servers, in the order of their shards."""
        return range(1, 1 + self.servers)

    @property
    def standby_ranks(self) -> range:
        """Ranks that host no silo until one is missing elsewhere or the job is scaled out."""
        return range(1 + self.servers, 1 + self.servers + self.standby)

    @property
    def worker_ranks(self) -> range:
        """Ranks of the workers."""
        return range(1 + self.servers + self.standby, self.size)

    def role(self, rank: int) -> tuple[RoleName, int]:
        """Return the role of a rank and its index among the ranks of that role."""
        if rank == SCHEDULER:
            return "scheduler", 0
        if rank in self.server_ranks:
            return "server", rank - 1
        if rank in self.standby_ranks:
            return "standby", rank - self.standby_ranks.start
        return "worker", rank - self.worker_ranks.start

    def title(self, rank: int) -> str:
        """Name a rank as its folder in the run folder is named: ``scheduler``, ``server_0``, ``worker_3``."""
        role, index = self.role(rank)
        return role if role == "scheduler" else f"{role}_{index}"


def shard_slices(parameters: int, servers: int) -> list[slice]:
    """Cut a vector into contiguous slices whose lengths differ by at most one.

    Raises
    ------
    TopologyError
        There are more servers than parameters.
    """
    if parameters < servers:
        raise TopologyError(
            "topology-ranks", f"found {servers} servers for a model of {parameters} parameters, expected at most as many"
        )
    size, larger = divmod(parameters, servers)
    starts = [index * size + min(index, larger) for index in range(servers + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(starts)]


def arrange(nodes: Sequence[str], servers: int, placement: Placement) -> list[int]:
    """Order the ranks of a job: the scheduler, then the servers, then all others.

    Parameters
    ----------
    nodes
        Node of each rank.
    servers
        Number of servers.
    placement
        ``packed``: as the launcher numbers the ranks, which fills the first nodes with servers. ``spread``: one node after
        the other gives a server, the scheduler's own last.

    Returns
    -------
    list of int
        The present rank of each rank to be; rank 0 stays.
    """
    ranks = list(range(len(nodes)))
    if placement == "packed":
        return ranks
    free: dict[str, list[int]] = {node: [] for node in nodes}
    for rank in ranks[1:]:
        free[nodes[rank]].append(rank)
    turns = [*[node for node in free if node != nodes[0]], nodes[0]]
    dealt = [rank for row in itertools.zip_longest(*(free[node] for node in turns)) for rank in row if rank is not None]
    chosen = dealt[:servers]
    return [0, *chosen, *(rank for rank in ranks[1:] if rank not in chosen)]


def longest_first(silos: Iterable[int], examples: Sequence[int]) -> list[int]:
    """Put silos into the order in which they are given to workers: those with the most examples first."""
    return sorted(silos, key=lambda silo: (-examples[silo], silo))


def assign_silos(
    examples: Sequence[int], workers: int, reach: Sequence[frozenset[int]] | None = None
) -> list[tuple[int, ...]]:
    """Spread silos over workers, longest first, each to the worker with the fewest examples so far.

    Parameters
    ----------
    examples
        Training examples of each silo.
    workers
        Number of workers.
    reach
        Workers that may host each silo; none: all of them.

    Returns
    -------
    list of tuple of int
        Per worker the indices of its silos, ascending.

    Raises
    ------
    TopologyError
        There are fewer silos than workers, a silo is out of every worker's reach, or a worker is left without one.

    References
    ----------
    R. L. Graham, "Bounds on Multiprocessing Timing Anomalies", SIAM J. Appl. Math. 17 (1969): the LPT rule.
    """
    if len(examples) < workers:
        raise TopologyError(
            "topology-silos",
            f"found {len(examples)} silos for {workers} workers, expected at least one silo a worker: start with "
            f"{workers - len(examples)} fewer ranks, or pack more silos",
        )
    hosted: list[list[int]] = [[] for _ in range(workers)]
    loads = [0] * workers
    queue = [(0, worker) for worker in range(workers)]
    for silo in longest_first(range(len(examples)), examples):
        if reach is None:
            load, worker = queue[0]
            heapq.heapreplace(queue, (load + examples[silo], worker))
        elif reach[silo]:
            worker = min(sorted(reach[silo]), key=lambda index: loads[index])
            loads[worker] += examples[silo]
        else:
            raise TopologyError("topology-silos", f"silo {silo}: its file lies on no worker's node (roles.near)")
        hosted[worker].append(silo)
    if reach is not None and (idle := [worker for worker, silos in enumerate(hosted) if not silos]):
        raise TopologyError(
            "topology-silos",
            f"no silo for worker {idle[0]}: too few lie on its node (roles.near); start fewer workers there",
        )
    return [tuple(sorted(silos)) for silos in hosted]


def deal(silos: Iterable[int], examples: Sequence[int], hosts: Mapping[int, Sequence[int]]) -> dict[int, tuple[int, ...]]:
    """Deal silos out for one round, longest first, each to the rank with the fewest examples so far: if it can be, its host.

    Parameters
    ----------
    silos
        Those that are to train.
    examples
        Training examples of each silo there is.
    hosts
        Ranks that train, each with the silos that it hosts.

    Returns
    -------
    dict of int to tuple of int
        Per rank the silos that it trains, ascending; a rank may have none.

    References
    ----------
    The LPT rule, as in `assign_silos`.
    """
    home = {silo: rank for rank, held in hosts.items() for silo in held}
    dealt: dict[int, list[int]] = {rank: [] for rank in hosts}
    loads = dict.fromkeys(hosts, 0)
    queue = [(0, rank) for rank in sorted(hosts)]  # one entry a rank and load that it has had
    for silo in longest_first(silos, examples):
        while queue[0][0] != loads[queue[0][1]]:
            heapq.heappop(queue)
        least, first = queue[0]
        host = home.get(silo, first)
        rank = host if loads[host] == least else first
        dealt[rank].append(silo)
        loads[rank] += examples[silo]
        heapq.heappush(queue, (loads[rank], rank))
    return {rank: tuple(sorted(mine)) for rank, mine in dealt.items()}
