from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from silofold.core import plugins
from silofold.core.errors import ConfigError
from silofold.core.topology import shard_slices

Vector: TypeAlias = NDArray[np.float64]
START = (1.0, -2.0, 0.5)
EVERY: list[dict[str, Any]] = [
    {"name": "sgd"},
    {"name": "sgd", "lr": 0.3, "momentum": 0.9},
    {"name": "adaptive"},
    {"name": "adaptive", "rule": "yogi", "lr": 0.1, "tau": 0.01},
    {"name": "adaptive", "rule": "adagrad", "lr": 0.1},
]


def run(table: dict[str, Any], start: Vector, updates: Vector) -> tuple[NDArray[np.float32], dict[str, Vector]]:
    optimizer = plugins.load("server_optimizer", table)
    model = start.astype(np.float32)
    state = optimizer.start(len(model))
    for update in updates:
        optimizer.step(model, update.copy(), state)
    return model, state


def test_sgd_at_its_defaults_adds_the_update() -> None:
    model, state = run({"name": "sgd"}, np.array(START), np.array([[0.5, 1.0, -0.25], [1.0, 1.0, 1.0]]))
    assert model.tolist() == [2.5, 0.0, 1.25]
    assert model.dtype == np.float32
    assert state == {}


def test_sgd_with_momentum_by_hand() -> None:
    # v1 = u1, v2 = 0.5 v1 + u2; model = start + 2 (v1 + v2)
    table = {"name": "sgd", "lr": 2.0, "momentum": 0.5}
    model, state = run(table, np.array(START), np.array([[1.0, 2.0, 0.0], [1.0, -1.0, 4.0]]))
    assert state["momentum"].tolist() == [1.5, 0.0, 4.0]
    assert model.tolist() == [1.0 + 2 * 2.5, -2.0 + 2 * 2.0, 0.5 + 2 * 4.0]


def test_the_update_is_added_before_it_is_rounded() -> None:
    """1 + 2^-24 is a tie in float32, 1 + 3·2^-25 is not: an update that was rounded first would be lost as well."""
    model, _ = run({"name": "sgd"}, np.ones(2), np.array([[2.0**-24, 3 * 2.0**-25]]))
    assert model.tolist() == [1.0, 1.0 + 2.0**-23]


def test_adam_by_hand() -> None:
    # first = 0.1, second = 0.99e-6 + 0.01 = 0.01000099, its root 0.10000495: 0.01 · 0.1 / (0.10000495 + 0.001)
    model, state = run({"name": "adaptive"}, np.array(START), np.array([[1.0, 0.0, -1.0]]))
    assert state["first"] == pytest.approx([0.1, 0.0, -0.1], rel=1e-12)
    assert state["second"] == pytest.approx([0.01000099, 0.99e-6, 0.01000099], rel=1e-12)
    assert model == pytest.approx([1.0 + 0.0099005, -2.0, 0.5 - 0.0099005], abs=1e-7)


@pytest.mark.parametrize(
    ("rule", "second"),
    [
        # from tau² = 1: update 2 has square 4, 0.5 has 0.25
        ("yogi", [1 + 0.01 * 4, 1 - 0.01 * 0.25, 1.0]),
        ("adagrad", [1 + 4.0, 1.25, 1.0]),
        ("adam", [0.99 + 0.04, 0.99 + 0.0025, 0.99]),
    ],
)
def test_second_moments_by_hand(rule: str, second: list[float]) -> None:
    table = {"name": "adaptive", "rule": rule, "tau": 1.0, "beta1": 0.0, "lr": 1.0}
    model, state = run(table, np.array(START), np.array([[2.0, 0.5, 0.0]]))
    assert state["second"] == pytest.approx(second, rel=1e-14)
    moved = [2.0 / (math.sqrt(second[0]) + 1), 0.5 / (math.sqrt(second[1]) + 1), 0.0]
    assert model == pytest.approx([x + y for x, y in zip(START, moved, strict=True)], rel=1e-6)


def algorithm_2(
    x: float, deltas: list[float], rule: str, lr: float, beta1: float, beta2: float, tau: float
) -> tuple[float, float, float]:
    """Reddi et al., Algorithm 2, one coordinate: ends in x, m, v."""
    m, v = 0.0, tau**2
    for delta in deltas:
        m = beta1 * m + (1 - beta1) * delta
        if rule == "adagrad":
            v = v + delta**2
        elif rule == "yogi":
            sign = (v - delta**2 > 0) - (v - delta**2 < 0)
            v = v - (1 - beta2) * delta**2 * sign
        else:
            v = beta2 * v + (1 - beta2) * delta**2
        x = x + lr * m / (math.sqrt(v) + tau)
    return x, m, v


@pytest.mark.parametrize("rule", ["adam", "yogi", "adagrad"])
@pytest.mark.parametrize("values", [(0.01, 0.9, 0.99, 1e-3), (0.5, 0.0, 0.5, 0.1), (0.1, 0.8, 0.0, 1e-6)])
def test_adaptive_is_algorithm_2(rule: str, values: tuple[float, float, float, float]) -> None:
    lr, beta1, beta2, tau = values
    table = {"name": "adaptive", "rule": rule, "lr": lr, "beta1": beta1, "beta2": beta2, "tau": tau}
    rng = np.random.default_rng(4)
    start, updates = rng.standard_normal(7), rng.standard_normal((6, 7)) * 10.0 ** rng.integers(-5, 1, (6, 7))
    model, state = run(table, start, updates)
    for place in range(7):
        x, m, v = algorithm_2(float(np.float32(start[place])), updates[:, place].tolist(), rule, lr, beta1, beta2, tau)
        assert state["first"][place] == pytest.approx(m, rel=1e-12, abs=1e-300)
        assert state["second"][place] == pytest.approx(v, rel=1e-12)
        assert model[place] == pytest.approx(x, rel=1e-5, abs=1e-6)  # the model is rounded to float32 after each step


@pytest.mark.parametrize("table", EVERY, ids=str)
@pytest.mark.parametrize("servers", [2, 3, 8])
def test_shards_give_the_bits_of_the_whole(table: dict[str, Any], servers: int) -> None:
    rng = np.random.default_rng(5)
    start, updates = rng.standard_normal(101), rng.standard_normal((4, 101))
    model, state = run(table, start, updates)
    parts = [run(table, start[cut], updates[:, cut]) for cut in shard_slices(101, servers)]
    assert np.concatenate([part for part, _ in parts]).tobytes() == model.tobytes()
    for name, whole in state.items():
        assert whole.dtype == np.float64
        assert np.concatenate([memory[name] for _, memory in parts]).tobytes() == whole.tobytes()


@pytest.mark.parametrize("table", EVERY, ids=str)
def test_state_is_all_there_is_to_resume(table: dict[str, Any]) -> None:
    rng = np.random.default_rng(6)
    start, updates = rng.standard_normal(11), rng.standard_normal((5, 11))
    whole, _ = run(table, start, updates)
    half, state = run(table, start, updates[:2])
    resumed = plugins.load("server_optimizer", table)
    read_back = resumed.start(11)
    for name, array in state.items():
        read_back[name][:] = array
    for update in updates[2:]:
        resumed.step(half, update, read_back)
    assert half.tobytes() == whole.tobytes()


@pytest.mark.parametrize(
    "wrong",
    [{"name": "sgd", "momentum": 1.0}, {"name": "sgd", "lr": -1.0}, {"name": "adaptive", "tau": 0.0},
     {"name": "adaptive", "rule": "adamw"}, {"name": "adaptive", "beta2": 1.0}],
)  # fmt: skip
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^server_optimizer {wrong['name']}: server_optimizer.{list(wrong)[1]} = "):
        plugins.load("server_optimizer", wrong)
