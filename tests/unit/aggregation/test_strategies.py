from __future__ import annotations

import numpy as np
import pytest

from silofold.core import plugins

# two silos of 1 and 3 examples, three weights
UPDATES = np.array([[1.0, -2.0, 0.0], [5.0, 2.0, 0.5]])
WEIGHTS = np.array([1, 3], np.int64)


def test_mean_by_hand() -> None:
    mean = plugins.load("strategy", {"name": "mean"})
    assert mean.needs == "sum"
    assert mean.weight(17) == 17
    # sums: 1 + 15, -2 + 6, 0 + 1.5
    assert mean.combine(np.array([16.0, 4.0, 1.5]), WEIGHTS).tolist() == [4.0, 1.0, 0.375]


def test_equal_mean_by_hand() -> None:
    mean = plugins.load("strategy", {"name": "mean", "weights": "equal"})
    assert mean.weight(17) == 1
    assert mean.combine(UPDATES.sum(axis=0), np.array([1, 1], np.int64)).tolist() == [3.0, 0.0, 0.25]


def test_median_by_hand() -> None:
    median = plugins.load("strategy", {"name": "median"})
    assert median.needs == "each"
    assert median.weight(17) == 1
    assert median.combine(UPDATES, WEIGHTS).tolist() == [3.0, 0.0, 0.25]
    odd = np.vstack([UPDATES, [1e30, -1e30, 0.25]])
    assert median.combine(odd, np.ones(3, np.int64)).tolist() == [5.0, -2.0, 0.25]


def test_a_minority_cannot_move_the_median_beyond_the_others() -> None:
    rng = np.random.default_rng(1)
    honest, wild = rng.standard_normal((5, 20)), 1e9 * rng.standard_normal((4, 20))
    median = plugins.load("strategy", {"name": "median"}).combine(np.vstack([wild, honest]), np.ones(9, np.int64))
    assert np.all((median >= honest.min(axis=0)) & (median <= honest.max(axis=0)))


@pytest.mark.parametrize("name", ["mean", "median"])
def test_shards_give_the_bits_of_the_whole(name: str) -> None:
    strategy = plugins.load("strategy", {"name": name})
    rng = np.random.default_rng(2)
    received = rng.standard_normal(37) if strategy.needs == "sum" else rng.standard_normal((4, 37))
    weights = np.array([3, 1, 4, 1], np.int64)
    whole = strategy.combine(received, weights)
    parts = [strategy.combine(received[..., part], weights) for part in (slice(0, 5), slice(5, 6), slice(6, 37))]
    assert whole.dtype == np.float64
    assert np.concatenate(parts).tobytes() == whole.tobytes()
