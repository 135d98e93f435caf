from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from silofold.core.fingerprint import Fingerprint, difference

ONE = Fingerprint(
    structure="a", constants="b", vector="c", answers="d", logits=[1.0, -20.0, 3.0], attributes={"mask": "e", "scale": "f"}
)


@pytest.mark.parametrize(
    ("change", "equal", "unequal"),
    [
        ({}, None, None),
        ({"structure": "x"}, "names, shapes or order", "names, shapes or order"),
        ({"constants": "x"}, "not float32", "not float32"),
        ({"vector": "x"}, "the initial parameters", None),
        ({"answers": "x"}, "the answers to one batch", None),
        ({"answers": "x", "attributes": {"mask": "y", "scale": "f"}}, "the attributes mask", None),
        ({"answers": "x", "logits": [1.0, -20.01, 3.0]}, "the answers", None),
        ({"answers": "x", "logits": [1.0, -20.03, 3.0]}, "the answers", "the answers"),
        ({"answers": "x", "logits": [1.0, -20.0, math.nan]}, "the answers", "the answers"),
        ({"logits": []}, "the answers", "the answers"),
        ({"attributes": {}}, None, None),
    ],
)
def test_what_differs(change: dict[str, Any], equal: str | None, unequal: str | None) -> None:
    """On workers of equal device, instructions and torch every bit counts; on others only what is far off."""
    other = msgspec.structs.replace(ONE, **change)
    for places, expected in ((["x", "x", "x"], equal), (["x", "x", "y"], unequal)):
        found = difference([ONE, ONE, other], places)
        assert (found is None) is (expected is None), found
        if found and expected:
            assert found[1] == 2
            assert expected in found[2]


def test_two_that_are_alike_among_others() -> None:
    other = msgspec.structs.replace(ONE, vector="x")
    assert difference([ONE, other, other], ["x", "y", "y"]) is None
    assert difference([ONE, other, ONE], ["x", "y", "y"]) == (1, 2, "the initial parameters")
    assert difference([ONE], ["x"]) is None
