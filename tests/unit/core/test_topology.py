from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silofold.core import topology
from silofold.core.errors import TopologyError


def test_layout() -> None:
    layout = topology.Layout(7, 2)
    assert list(layout.server_ranks) == [1, 2]
    assert list(layout.worker_ranks) == [3, 4, 5, 6]
    assert [layout.role(rank) for rank in range(7)] == [
        ("scheduler", 0), ("server", 0), ("server", 1), ("worker", 0), ("worker", 1), ("worker", 2), ("worker", 3),
    ]  # fmt: skip
    assert [layout.title(rank) for rank in (0, 1, 2, 3, 6)] == [
        "scheduler", "server_0", "server_1", "worker_0", "worker_3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("size", "servers", "story"),
    [
        (1, 1, r"^found 1 rank, expected at least 3: 1 scheduler \+ 1 server \(roles.servers\) \+ 1 or more workers$"),
        (4, 3, r"^found 4 ranks, expected at least 5: 1 scheduler \+ 3 servers \(roles.servers\) \+ 1 or more workers$"),
    ],
)
def test_too_few_ranks(size: int, servers: int, story: str) -> None:
    with pytest.raises(TopologyError, match=story):
        topology.Layout(size, servers)
    assert list(topology.Layout(servers + 2, servers).worker_ranks) == [servers + 1]


def test_shards_by_hand() -> None:
    assert topology.shard_slices(10, 3) == [slice(0, 4), slice(4, 7), slice(7, 10)]
    assert topology.shard_slices(3, 3) == [slice(0, 1), slice(1, 2), slice(2, 3)]


@given(st.integers(1, 50), st.integers(0, 10**6))
def test_shards_cover_the_vector_evenly(servers: int, more: int) -> None:
    slices = topology.shard_slices(servers + more, servers)
    assert len(slices) == servers
    assert [part.start for part in slices] == [0, *(part.stop for part in slices[:-1])]
    assert slices[-1].stop == servers + more
    lengths = [part.stop - part.start for part in slices]
    assert min(lengths) >= 1
    assert max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True)


def test_more_servers_than_parameters() -> None:
    with pytest.raises(TopologyError, match=r"^found 4 servers for a model of 3 parameters, expected at most as many$"):
        topology.shard_slices(3, 4)


@pytest.mark.parametrize(
    ("examples", "workers", "hosted"),
    [
        # 7 → w0, 5 → w1, 4 → w1 (5 < 7), 3 → w0 (7 < 9), 1 → w1 (9 < 10)
        ([7, 5, 4, 3, 1], 2, [(0, 3), (1, 2, 4)]),
        # equal silos go round in order: ties go to the lower silo and the lower worker
        ([2, 2, 2, 2], 3, [(0, 3), (1,), (2,)]),
        # 9 → w0, 8 → w1, 3 → w2, 2 → w2 (3), 1 → w2 (5)
        ([1, 9, 2, 8, 3], 3, [(1,), (3,), (0, 2, 4)]),
        ([5], 1, [(0,)]),
    ],
)
def test_silos_by_hand(examples: list[int], workers: int, hosted: list[tuple[int, ...]]) -> None:
    assert topology.assign_silos(examples, workers) == hosted


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=60), st.data())
def test_every_silo_has_one_worker_and_loads_are_balanced(examples: list[int], data: st.DataObject) -> None:
    workers = data.draw(st.integers(1, len(examples)))
    hosted = topology.assign_silos(examples, workers)
    assert len(hosted) == workers
    assert all(silos == tuple(sorted(silos)) and silos for silos in hosted)
    assert sorted(silo for silos in hosted for silo in silos) == list(range(len(examples)))
    loads = [sum(examples[silo] for silo in silos) for silos in hosted]
    # a worker got its last silo when it had the least of all, so without it nobody has less
    assert all(load - min(examples[silo] for silo in silos) <= min(loads) for load, silos in zip(loads, hosted, strict=True))


def test_more_workers_than_silos() -> None:
    with pytest.raises(TopologyError, match=r"^found 2 silos for 5 workers, .* start with 3 fewer ranks"):
        topology.assign_silos([10, 10], 5)


def test_silos_near_their_files_by_hand() -> None:
    near = [frozenset({0, 1}), frozenset({2}), frozenset({0, 1}), frozenset({2}), frozenset({1, 2})]
    # 9 → w0 of {0, 1}, 8 → w2, 5 → w1 of {0, 1}, 4 → w2, 3 → w1 of {1, 2} (5 < 12)
    assert topology.assign_silos([9, 8, 5, 4, 3], 3, near) == [(0,), (2, 4), (1, 3)]
    everywhere = [frozenset({0, 1, 2})] * 5
    assert topology.assign_silos([1, 9, 2, 8, 3], 3, everywhere) == topology.assign_silos([1, 9, 2, 8, 3], 3)


def test_silos_that_lie_nowhere_and_workers_beside_none() -> None:
    with pytest.raises(TopologyError, match=r"^silo 1: its file lies on no worker's node"):
        topology.assign_silos([2, 1], 2, [frozenset({0, 1}), frozenset()])
    with pytest.raises(TopologyError, match=r"^no silo for worker 1: too few lie on its node"):
        topology.assign_silos([2, 1], 2, [frozenset({0}), frozenset({0})])


@pytest.mark.parametrize(
    ("silos", "hosts", "dealt"),
    [
        # 9 → its host 5, 8 → 4 (0 < 9), though 5 hosts it, 3 → 4 (8 < 9), 1 → its host 5 (9 < 11)
        ((0, 1, 2, 4), {4: (3,), 5: (0, 1, 2, 4)}, {4: (1, 2), 5: (0, 4)}),
        # equal silos stay at home, or go to the lowest rank with the least
        ((5, 6, 7), {3: (), 4: (5, 6), 5: (7,)}, {3: (6,), 4: (5,), 5: (7,)}),
        ((6,), {7: (0,), 8: (6,)}, {7: (), 8: (6,)}),
        ((3, 8), {2: (3,)}, {2: (3, 8)}),
        ((), {2: (3,)}, {2: ()}),
    ],
)
def test_dealing_by_hand(
    silos: tuple[int, ...], hosts: dict[int, tuple[int, ...]], dealt: dict[int, tuple[int, ...]]
) -> None:
    assert topology.deal(silos, [9, 8, 3, 4, 1, 2, 2, 2, 7], hosts) == dealt


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40), st.data())
def test_what_is_dealt_is_whole_and_balanced_whoever_hosts_it(examples: list[int], data: st.DataObject) -> None:
    ranks = data.draw(st.lists(st.integers(2, 99), min_size=1, max_size=8, unique=True))
    homes = [data.draw(st.sampled_from(ranks)) for _ in examples]
    silos = data.draw(st.lists(st.sampled_from(range(len(examples))), unique=True))
    hosts = {rank: tuple(silo for silo, home in enumerate(homes) if home == rank) for rank in ranks}
    dealt = topology.deal(silos, examples, hosts)
    assert dealt.keys() == hosts.keys()
    assert sorted(silo for mine in dealt.values() for silo in mine) == sorted(silos)
    assert all(mine == tuple(sorted(mine)) for mine in dealt.values())
    least = min(sum(examples[silo] for silo in mine) for mine in dealt.values())
    assert all(
        sum(examples[silo] for silo in mine) - min(examples[silo] for silo in mine) <= least
        for mine in dealt.values() if mine
    )  # fmt: skip


NODES = ["a"] * 4 + ["b"] * 4 + ["c"] * 4


def test_packed_ranks_stay_as_they_are() -> None:
    assert topology.arrange(NODES, 4, "packed") == list(range(12))


def test_servers_spread_by_hand() -> None:
    # b and c first, then a, which has the scheduler; the fourth server on b again
    assert topology.arrange(NODES, 4, "spread") == [0, 4, 8, 1, 5, 2, 3, 6, 7, 9, 10, 11]
    assert topology.arrange(["a"] * 4, 2, "spread") == [0, 1, 2, 3]
    assert topology.arrange(["a", "b"], 1, "spread") == [0, 1]


@given(st.lists(st.sampled_from("abcd"), min_size=2, max_size=30), st.integers(1, 30))
def test_an_arrangement_keeps_every_rank_and_the_scheduler(nodes: list[str], servers: int) -> None:
    order = topology.arrange(nodes, servers, "spread")
    assert sorted(order) == list(range(len(nodes)))
    assert order[0] == 0
