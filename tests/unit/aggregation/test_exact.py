from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given as each
from hypothesis import strategies as st

from silofold.aggregation import exact

if TYPE_CHECKING:
    from random import Random

    from numpy.typing import NDArray

P = 3
small = st.floats(-64, 64, width=32)
silos = st.lists(st.tuples(st.lists(small, min_size=P, max_size=P), st.integers(1, 5000)), min_size=1, max_size=9)
Silos = list[tuple[list[float], int]]


def sum_of(given: Silos) -> NDArray[np.int64]:
    total = np.zeros(P, np.int64)
    for update, weight in given:
        exact.add(total, np.array(update, np.float32), weight)
    return total


def extreme(update: NDArray[np.float32]) -> float:
    return float(np.abs(update).max())


def fixed(x: float) -> int:
    """The coordinate in fixed point, by integer arithmetic alone; Python rounds halves to even as well."""
    return round(Fraction(x) * 2**32)


def test_by_hand() -> None:
    total = np.zeros(P, np.int64)
    exact.add(total, np.array([1.0, -0.5, 2.0**-32], np.float32), 3)
    exact.add(total, np.array([0.25, 0.5, 3 * 2.0**-34], np.float32), 1)  # 0.75 units of the last place: 1
    assert total.tolist() == [3 * 2**32 + 2**30, -(2**32), 3 + 1]
    assert exact.value(total).tolist() == [3.25, -1.0, 2.0**-30]
    assert exact.value(total).dtype == np.float64


@each(silos, st.randoms(use_true_random=False), st.integers(1, 4))
def test_neither_order_nor_grouping_changes_a_bit(given: Silos, random: Random, groups: int) -> None:
    reference = sum_of(given)
    mixed = list(given)
    random.shuffle(mixed)
    parts = [sum_of(mixed[start::groups]) for start in range(groups)]
    assert sum(parts[1:], parts[0]).tobytes() == reference.tobytes()


@each(silos)
def test_a_coordinate_is_off_by_2_to_the_minus_33_at_most(given: Silos) -> None:
    total, weights = sum_of(given), sum(weight for _, weight in given)
    for place in range(P):
        true = sum((Fraction(update[place]) * weight for update, weight in given), Fraction(0)) / weights
        assert abs(Fraction(int(total[place]), 2**32 * weights) - true) <= Fraction(1, 2**33)
        # back in floating point one rounding of float64 comes on top
        found, fixed_point = Fraction(float(exact.value(total)[place])), Fraction(int(total[place]), 2**32)
        assert abs(found - fixed_point) <= abs(fixed_point) / 2**53


@each(
    st.lists(
        st.tuples(st.integers(1, 2**33), st.floats(0.25, 1.5), st.sampled_from([1.0, -1.0]), small),
        min_size=1,
        max_size=6,
    )
)
def test_what_is_in_range_never_wraps(given: list[tuple[int, float, float, float]]) -> None:
    """Coordinates are drawn around the bound, so that about half of the updates are refused."""
    whole = sum(weight for weight, *_ in given)
    total, expected = np.zeros(2, np.int64), [0, 0]
    for weight, part, sign, other in given:
        update = np.array([sign * part * 2**31 / whole, other / whole], np.float32)
        if exact.in_range(extreme(update), whole):
            exact.add(total, update, weight)
            expected = [old + weight * fixed(float(x)) for old, x in zip(expected, update, strict=True)]
    assert max(abs(x) for x in expected) < 2**63
    assert total.tolist() == expected


@pytest.mark.parametrize(
    ("largest", "whole", "fits"),
    [
        (2.0**19 - 2.0**-5, 1, True),  # the largest float32 below 2^19
        (2.0**19, 1, False),
        (2.0**19 - 2.0**-5, 2**12, True),
        (2.0**19 - 2.0**-5, 2**12 + 1, False),
        (1.0, 2**31 - 1, True),
        (1.0, 2**31, False),
        (2.0**-10, 2**41 - 2**20, True),
        (2.0**-10, 2**41, False),
        # rint may move every update by half a unit, weight times: 2^-32 · 2^63 alone would wrap
        (0.0, 2**62, True),
        (0.0, 2**63, False),
        (np.nan, 1, False),
        (np.inf, 1, False),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_bound(largest: float, whole: int, fits: bool, sign: int) -> None:  # noqa: FBT001
    update = np.array([0.0, sign * largest, 0.0], np.float32)
    assert exact.in_range(extreme(update), whole) is fits
    if fits:
        total = np.zeros(3, np.int64)
        exact.add(total, update, whole)
        assert total.tolist() == [0, whole * fixed(float(update[1])), 0]


def test_an_infinity_beside_a_nan_is_refused() -> None:
    assert not exact.in_range(extreme(np.array([np.nan, np.inf, -np.inf], np.float32)), 1)


def test_an_empty_shard() -> None:
    assert exact.in_range(0.0, 10)
    exact.add(np.empty(0, np.int64), np.empty(0, np.float32), 10)
    assert exact.value(np.empty(0, np.int64)).shape == (0,)


@pytest.mark.parametrize("size", [exact.BLOCK - 1, exact.BLOCK, 2 * exact.BLOCK + 3])
def test_blocks_do_not_show(size: int) -> None:
    update = np.random.default_rng(1).standard_normal(size).astype(np.float32)
    total = np.full(size, 5, np.int64)
    exact.add(total, update, 7)
    assert np.array_equal(total, 5 + 7 * np.rint(update.astype(np.float64) * 2**32).astype(np.int64))
    cut = size // 3
    parts = [np.full(len(part), 5, np.int64) for part in (update[:cut], update[cut:])]
    for part, piece in zip(parts, (update[:cut], update[cut:]), strict=True):
        exact.add(part, piece, 7)
    assert np.array_equal(np.concatenate(parts), total)
