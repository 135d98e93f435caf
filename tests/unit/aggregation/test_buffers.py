from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from silofold.aggregation import buffers, exact

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = 4000


def shrinking(seed: int, silos: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A variance of any magnitude, and what it has become in silos whose data have hardly any."""
    rng = np.random.default_rng(seed)
    before = (10.0 ** rng.uniform(-12, 6, SIZE)).astype(np.float32)
    left = rng.choice([0.0, 1e-30, 1e-12, 1e-7], (silos, SIZE)) * rng.random((silos, SIZE))
    return before, (before * left).astype(np.float32)


def received(
    kind: str, updates: NDArray[np.float32], weights: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """What a server gets, and the mean that it makes of it."""
    if kind == "rows":
        return updates, updates.astype(np.float64).mean(axis=0)
    total: NDArray[Any] = np.zeros(updates.shape[1], np.int64 if kind == "exact" else np.float32)
    for update, weight in zip(updates, weights, strict=True):
        if kind == "exact":
            exact.add(total, update, int(weight))
        else:
            total += np.float32(weight) * update
    return total, (exact.value(total) if kind == "exact" else total.astype(np.float64)) / float(weights.sum())


@pytest.mark.parametrize("kind", ["exact", "float32", "rows"])
@pytest.mark.parametrize("silos", [1, 3, 50])
def test_what_was_not_negative_stays_so(kind: str, silos: int) -> None:
    bitten = 0
    for seed in range(5):
        before, after = shrinking(seed, silos)
        weights = np.random.default_rng(seed).integers(1, 1000, silos)
        kept = before < exact.limit(int(weights.sum()))
        there, change = received(kind, (after - before)[:, kept], weights)
        moved = before[kept].copy()
        buffers.add(moved, change, buffers.rounding(there, silos))
        bitten += int((before[kept] + change < 0).sum())
        assert moved.min() >= 0
        assert (np.abs(moved - (before[kept] + change)) <= 1e-9 + 1e-5 * before[kept]).all()
    assert bitten or kind == "rows"  # the plain sum would have been negative


def test_what_is_negative_by_right_is_not_touched() -> None:
    before = np.array([1.0, 0.5, -1e-12, 1e-3, 0.0], np.float32)
    change = np.array([-1.5, -0.5 - 1e-9, 1e-13, 1.0, -1e-9])
    moved = before.copy()
    buffers.add(moved, change, buffers.rounding(np.zeros(5, np.int64), 7))
    assert moved.tobytes() == (before + change).astype(np.float32).tobytes()
    assert (moved < 0).tolist() == [True, True, True, False, True]
