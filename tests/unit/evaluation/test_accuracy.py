from __future__ import annotations

import pytest

from silofold.evaluation.accuracy import chance, wilson


@pytest.mark.parametrize(
    ("correct", "examples", "low", "high"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion", Stat. Med. 17 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_intervals(correct: int, examples: int, low: float, high: float) -> None:
    assert wilson(correct, examples) == pytest.approx((low, high), abs=5e-5)


def test_by_hand() -> None:
    """With z = 2 (95.45 %) and 5 of 10: (0.5 + 0.2) / 1.4 ± 2 · sqrt(0.025 + 0.01) / 1.4."""
    half = 2 * 0.035**0.5 / 1.4
    assert wilson(5, 10, 0.9544997361036416) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-12)


@pytest.mark.parametrize(("correct", "examples"), [(0, 1), (1, 1), (0, 10), (10, 10), (10**6, 10**6), (3, 7)])
def test_the_interval_holds_the_share_and_stays_within_0_and_1(correct: int, examples: int) -> None:
    low, high = wilson(correct, examples)
    rounding = 1e-15
    assert 0 <= low <= correct / examples + rounding
    assert correct / examples - rounding <= high <= 1
    assert low < high
    assert wilson(examples - correct, examples) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_more_images_or_less_confidence_narrow_it() -> None:
    wide, narrow, sloppy = wilson(30, 100), wilson(300, 1000), wilson(30, 100, 0.5)
    assert narrow[1] - narrow[0] < wide[1] - wide[0]
    assert sloppy[1] - sloppy[0] < wide[1] - wide[0]


@pytest.mark.parametrize(
    ("correct", "histogram", "worthless"),
    [
        (25, (25, 25, 25, 25), True),
        (30, (25, 25, 25, 25), True),
        (40, (25, 25, 25, 25), False),
        (40, (40, 30, 30), True),
        (79, (40, 30, 30), False),
        (100, (100,), True),
        (5, (3, 3, 2), True),
        (0, (), False),
    ],
)
def test_an_accuracy_at_chance_level(correct: int, histogram: tuple[int, ...], worthless: bool) -> None:  # noqa: FBT001
    found = chance(correct, sum(histogram), histogram)
    assert bool(found) is worthless
    if found:
        assert f"({max(histogram) / sum(histogram):.2%})" in found
