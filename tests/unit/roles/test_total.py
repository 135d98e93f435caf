from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from silofold.aggregation import exact
from silofold.roles import total

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLACES = [
    torch.device("cpu"),
    pytest.param(
        torch.device("cuda", 0), marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
    ),
]


def updates() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    wild = [rng.standard_normal(50_000).astype(np.float32) * 2.0**power for power in (-40, -32, -9, 0, 15)]
    halves = (np.arange(-500, 500) + 0.5).astype(np.float32) * np.float32(2.0**-32)  # ties go to the even one
    return [np.concatenate([one, halves]).astype(np.float32) for one in wild]


def test_fixed_point_is_that_of_an_exact_sum() -> None:
    for update in updates():
        expected = np.empty(len(update), np.int64)
        exact.add(expected, update, 1, first=True)
        assert np.array_equal(total.fixed_point(torch.from_numpy(update)).numpy(), expected)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_a_sum_is_that_of_numpy(dtype: type, place: torch.device) -> None:
    room: NDArray[Any] = np.full(51_000, 7, dtype)
    held = total.Total(room, place)
    for _ in range(2):  # what was in the room is gone
        held.clear()
        expected: NDArray[Any] = np.zeros(len(room), dtype)
        for weight, update in enumerate(updates(), 3):
            held.add(torch.from_numpy(update.copy()).to(place), weight)
            if dtype is np.int64:
                exact.add(expected, update, weight)
            else:
                expected += update * np.float32(weight)
        assert held.to_host() is room
        assert room.tobytes() == expected.tobytes()
    held.clear()
    assert not held.to_host().any()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("update", "largest"), [([0.0, -3.0, 2.0], 3.0), ([1.0, 4.0], 4.0), ([-0.0, 0.0], 0.0), ([1.0, -np.inf], np.inf)]
)
def test_the_largest_magnitude(update: list[float], largest: float, place: torch.device) -> None:
    assert total.largest(torch.tensor(update, device=place)) == largest


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("update", [[np.nan, 1.0], [1.0, np.nan, np.inf], [-np.inf, np.nan]])
def test_what_is_no_number_is_told(update: list[float], place: torch.device) -> None:
    assert np.isnan(total.largest(torch.tensor(update, device=place)))
