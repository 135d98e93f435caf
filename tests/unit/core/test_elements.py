from __future__ import annotations

import msgspec
import pytest

from silofold.core.elements import Elements, Tensor, lay_out

TABLE = lay_out(
    trained=[("conv.weight", (2, 3)), ("none", (0,)), ("scale", ())],
    frozen=[("old", (4,))],
    buffer=[("norm.mean", (2,)), ("norm.var", (2,))],
)


def test_tensors_lie_one_after_the_other() -> None:
    assert TABLE.size == 15
    assert [one.start for one in TABLE.tensors] == [0, 6, 6, 7, 11, 13]
    assert lay_out(trained=[]).size == 0


def test_a_round_trip() -> None:
    assert msgspec.json.decode(msgspec.json.encode(TABLE), type=Elements) == TABLE


@pytest.mark.parametrize(
    ("index", "name"),
    [(0, "conv.weight[0, 0]"), (5, "conv.weight[1, 2]"), (6, "scale"), (7, "old[0]"), (10, "old[3]"), (14, "norm.var[1]")],
)
def test_an_element_has_a_name(index: int, name: str) -> None:
    assert TABLE.at(index) == name


def test_a_name_cannot_forge_a_line() -> None:
    assert lay_out(trained=[("a\nerror", (1,))]).at(0) == "a\\nerror[0]"


@pytest.mark.parametrize(
    ("span", "runs"),
    [
        (slice(0, 15), [(slice(0, 7), "trained"), (slice(7, 11), "frozen"), (slice(11, 15), "buffer")]),
        (slice(3, 5), [(slice(0, 2), "trained")]),
        (slice(5, 8), [(slice(0, 2), "trained"), (slice(2, 3), "frozen")]),
        (slice(12, 15), [(slice(0, 3), "buffer")]),
        (slice(4, 4), []),
    ],
)
def test_runs_of_a_shard(span: slice, runs: list[tuple[slice, str]]) -> None:
    assert TABLE.runs(span) == runs


def test_a_shard_beyond_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="the table has 15 elements, expected 16 at least"):
        TABLE.runs(slice(10, 16))
    with pytest.raises(ValueError, match="the table has 0 elements"):
        Elements().runs(slice(0, 1))


def test_run_json_has_a_line_for_each_tensor() -> None:
    assert TABLE.described() == {
        "conv.weight": "0 trained 2x3", "none": "6 trained 0", "scale": "6 trained", "old": "7 frozen 4",
        "norm.mean": "11 buffer 2", "norm.var": "13 buffer 2",
    }  # fmt: skip


def test_the_first_difference_is_named() -> None:
    assert TABLE.difference(TABLE) == ""
    wider = lay_out(trained=[("conv.weight", (3, 2))])
    assert wider.difference(TABLE) == "conv.weight: 0 trained 3x2 | 0 trained 2x3"
    assert lay_out(trained=[("conv.weight", (2, 3))]).difference(TABLE) == "none: not there | 6 trained 0"
    turned = Elements((Tensor("b", (0,), 0, "trained"), Tensor("a", (0,), 0, "trained")))
    assert turned.difference(Elements(turned.tensors[::-1])) == "the order of the tensors"
