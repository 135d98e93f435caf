from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from silofold.core import plugins, seeds
from silofold.core.errors import ConfigError


def draw(table: dict[str, Any], silos: list[int], number: int = 1) -> list[int]:
    drawn: list[int] = plugins.load("cohort", table).draw(silos, seeds.generator(1, "cohort", number))
    return drawn


def test_all() -> None:
    silos = [1, 4, 6]
    drawn = draw({"name": "all"}, silos)
    assert drawn == silos
    assert drawn is not silos


@pytest.mark.parametrize(
    ("size", "silos", "expected"),
    [(3, 10, 3), (1, 10, 1), (20, 10, 10), (0.3, 10, 3), (0.25, 10, 3), (0.01, 10, 1), (1.0, 10, 10), (0.5, 1, 1)],
)
def test_sizes(size: float, silos: int, expected: int) -> None:
    drawn = draw({"name": "sample", "size": size}, list(range(100, 100 + silos)))
    assert len(drawn) == len(set(drawn)) == expected
    assert drawn == sorted(drawn)
    assert set(drawn) <= set(range(100, 100 + silos))
    assert all(type(silo) is int for silo in drawn)


def test_a_share_that_is_a_whole_number_is_not_rounded_up() -> None:
    assert len(draw({"name": "sample", "size": 0.07}, list(range(100)))) == 7


def test_the_draw_depends_on_the_generator_alone() -> None:
    table, silos = {"name": "sample", "size": 5}, list(range(40))
    assert draw(table, silos, 3) == draw(table, silos, 3)
    assert draw(table, silos, 3) != draw(table, silos, 4)


def test_every_silo_is_equally_likely() -> None:
    silos = list(range(2, 22, 2))
    counts = Counter(silo for number in range(3000) for silo in draw({"name": "sample", "size": 3}, silos, number))
    deviation = np.sqrt(3000 * 0.3 * 0.7)
    assert set(counts) == set(silos)
    assert all(abs(count - 900) < 4 * deviation for count in counts.values())


@pytest.mark.parametrize("size", [0, -1, 0.0, 1.5, "half", True])
def test_sizes_out_of_range(size: object) -> None:
    with pytest.raises(ConfigError, match=r"^cohort sample: cohort\.size = "):
        plugins.load("cohort", {"name": "sample", "size": size})
