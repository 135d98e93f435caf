from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from silofold.evaluation import paired


@pytest.mark.parametrize(
    ("gone", "won", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (0, 5, 2 / 32), (2, 8, 2 * (1 + 10 + 45) / 1024), (5, 5, 1.0), (0, 10, 2 / 1024)],
)
def test_mcnemar_by_hand(gone: int, won: int, p: float) -> None:
    assert paired.mcnemar(gone, won) == pytest.approx(p)
    assert paired.mcnemar(won, gone) == pytest.approx(p)


def answers(both: int, won: int, gone: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Right answers of two models with these counts."""
    counts = [both, won, gone, neither]
    return np.repeat([True, False, True, False], counts), np.repeat([True, True, False, False], counts)


def test_interval_of_newcombe() -> None:
    found = paired.compare(*answers(36, 12, 2, 0))  # the first example of his table II, method 10
    assert (found.low, found.high) == pytest.approx((0.0569, 0.3404), abs=6e-5)


def test_counts_and_direction() -> None:
    found = paired.compare(*answers(5, 3, 1, 2))
    assert (found.examples, found.only_first, found.only_second) == (11, 1, 3)
    assert found.difference == pytest.approx(2 / 11)
    assert found.p == pytest.approx(2 * 5 / 16)


@given(st.tuples(*[st.integers(0, 40)] * 4).filter(any))
def test_interval_holds_the_difference_and_turns_round(counts: tuple[int, int, int, int]) -> None:
    first, second = answers(*counts)
    found, back = paired.compare(first, second), paired.compare(second, first)
    assert -1 - 1e-12 <= found.low <= found.difference + 1e-12
    assert found.difference - 1e-12 <= found.high <= 1 + 1e-12
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))
    assert 0 <= found.p <= 1
