from __future__ import annotations

import pytest

from silofold.core.summary import Phases, RankPhases, Summary
from silofold.job import timeline


def played(server: float, train: float = 2.0) -> Summary:
    phases = Phases(broadcast=0.1, evaluate=0.5, train=train, wait=0.0, reduce=server, apply=server, total=4.0)
    ranks = [RankPhases(role="server_0", reduce=server, apply=server)]
    ranks += [RankPhases(role=f"worker_{i}", broadcast=0.1, evaluate=0.5, train=train - i) for i in (0, 1)]
    return Summary(
        round=1, void=False, cohort=[], accepted=[], train_loss=None, accuracy=None, accuracy_low=None, accuracy_high=None,
        test_loss=None, test_examples=0, silos=[], seconds=phases, ranks=ranks, bytes_down=0, bytes_up=0, model_sha256="",
        shard_sha256=[],
    )  # fmt: skip


def test_shares_are_all_the_rank_seconds() -> None:
    found = timeline.shares([played(0.2), played(0.2)], ranks=4, start=3.0, seconds=12.0)
    assert found == pytest.approx((6.0, 2.0, 1.2, 12.0, 26.8))
    assert sum(found) == pytest.approx(4 * 12)
    assert timeline.line(found) == (
        "of 48 rank-seconds: 12.5% training, 4.2% evaluation, 2.5% communication, 25.0% start, 55.8% waiting"
    )


def test_idle_servers_and_crowded_cores_are_named() -> None:
    busy, idle = [played(1.0)], [played(0.004)]
    nodes = [("a", 2), ("a", 2), ("a", 2), ("b", 2)]
    assert timeline.hints(busy, nodes[1:], 2) == []
    assert timeline.hints(idle, nodes[1:], 1) == []
    assert timeline.hints(idle, nodes[1:], 2) == ["2 servers were idle 99.8% of the time: one would do (--servers 1)"]
    (graph,) = timeline.hints(busy, nodes[1:], 2, kernel_by_kernel=True)
    assert "local.cuda_graph=true" in graph
    assert timeline.hints(busy, nodes, 2) == ["3 workers share 2 cores of a: a worker hosts several silos (--workers auto)"]
