from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from silofold.aggregation import exact
from silofold.core import plugins
from silofold.core.elements import Elements, lay_out
from silofold.core.topology import shard_slices
from silofold.roles import server

RULES: list[dict[str, Any]] = [
    {"name": "sgd"},
    {"name": "sgd", "momentum": 0.9, "lr": 0.5},
    {"name": "adaptive", "rule": "adam"},
    {"name": "adaptive", "rule": "yogi"},
    {"name": "adaptive", "rule": "adagrad"},
]
TABLE = lay_out(trained=[("a", (1000,)), ("b", (77,))], frozen=[("c", (300,))], buffer=[("mean", (50,)), ("var", (50,))])
FROZEN, REST = slice(1077, 1377), slice(1077, 1477)


def rounds(
    rule: dict[str, Any], strategy: dict[str, Any], elements: Elements | None, servers: int = 1, block: int = server.BLOCK,
    monkeypatch: pytest.MonkeyPatch | None = None, written: float = 1.0,
) -> tuple[bytes, dict[str, bytes]]:  # fmt: skip
    """Move a model by three rounds of three silos, and return its bits and those of the optimizer's state."""
    if monkeypatch:
        monkeypatch.setattr(server, "BLOCK", block)
    combine, step = plugins.load("strategy", strategy), plugins.load("server_optimizer", rule)
    rng, weights = np.random.default_rng(1), np.array([3, 1, 7])
    model = rng.standard_normal(TABLE.size).astype(np.float32)
    slices = shard_slices(TABLE.size, servers)
    states = [step.start(span.stop - span.start) for span in slices]
    for _ in range(3):
        updates = rng.standard_normal((3, TABLE.size)).astype(np.float32)
        updates[:, FROZEN] *= written
        received: Any = updates
        if combine.needs == "sum":
            received = np.zeros(TABLE.size, np.int64)
            for update, weight in zip(updates, weights, strict=True):
                exact.add(received, update, int(weight))
        order = [0, 1, 2] if combine.needs == "each" else None
        for span, state in zip(slices, states, strict=True):
            runs = elements.runs(span) if elements else None
            server.move(model[span], received[..., span].copy(), weights, order, combine, step, state, runs)
    return model.tobytes(), {name: np.concatenate([state[name] for state in states]).tobytes() for name in states[0]}


def values(bits: bytes) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.frombuffer(bits, np.float32)


@pytest.mark.parametrize("strategy", [{"name": "mean"}, {"name": "mean", "weights": "equal"}, {"name": "median"}], ids=str)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_each_kind_moves_by_its_own_rule(rule: dict[str, Any], strategy: dict[str, Any]) -> None:
    model, state = rounds(rule, strategy, TABLE)
    everything, trained = rounds(rule, strategy, None)
    averaged, _ = rounds({"name": "sgd"}, strategy, None)
    assert model[: 4 * 1077] == everything[: 4 * 1077]
    assert model[4 * 1077 :] == averaged[4 * 1077 :]
    optimizer = plugins.load("server_optimizer", rule)
    for name, fresh in optimizer.start(TABLE.size).items():
        assert state[name][: 8 * 1077] == trained[name][: 8 * 1077]
        assert state[name][8 * 1077 :] == fresh[1077:].tobytes()  # as it was made


@pytest.mark.parametrize("strategy", [{"name": "mean"}, {"name": "median"}], ids=str)
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize(("servers", "block"), [(2, 2**15), (7, 2**15), (1, 100), (3, 64), (5, 1)])
def test_cuts_change_no_bit(
    servers: int, block: int, rule: dict[str, Any], strategy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rounds(rule, strategy, TABLE, servers, block, monkeypatch) == rounds(rule, strategy, TABLE)


@pytest.mark.parametrize("strategy", [{"name": "mean"}, {"name": "median"}], ids=str)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_what_is_frozen_stays(rule: dict[str, Any], strategy: dict[str, Any]) -> None:
    model, _ = rounds(rule, strategy, TABLE, written=0.0)
    begun = np.random.default_rng(1).standard_normal(TABLE.size).astype(np.float32)
    assert values(model)[FROZEN].tobytes() == begun[FROZEN].tobytes()


def test_at_its_defaults_sgd_moves_all_alike() -> None:
    model, _ = rounds({"name": "sgd"}, {"name": "mean"}, TABLE)
    alike, _ = rounds({"name": "sgd"}, {"name": "mean"}, lay_out(trained=[("all", (TABLE.size,))]))
    assert model == alike
    assert values(model)[REST].min() < 0  # which a mean may be
