"""Splits: no group on two sides, shares as near as groups allow, the same from the same seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofold.core.errors import SchemaError
from silofold.data.samples import Samples
from silofold.data.splitting import split

SHARES = (0.7, 0.1, 0.2)


def samples(labels: list[int], groups: list[int], silos: list[int], *, grouped: bool = True) -> Samples:
    size = len(labels)
    return Samples(
        tuple("abcdef"), tuple(f"s{code}" for code in range(max(silos) + 1)),
        tuple(f"g{code:03d}" for code in range(max(groups) + 1)),
        np.array(labels, np.int32), np.array(silos, np.int32), np.array(groups, np.int32), np.full(size, -1, np.int32),
        np.arange(size), [""], np.arange(size), grouped=grouped,
    )  # fmt: skip


def test_single_pictures_are_stratified_to_the_picture() -> None:
    found = split(samples([0] * 100 + [1] * 50 + [2] * 10, [0] * 160, [0] * 160, grouped=False), SHARES, 1)
    table = np.zeros((3, 3), np.int64)
    np.add.at(table, (found.label, found.split), 1)
    assert table.tolist() == [[70, 10, 20], [35, 5, 10], [7, 1, 2]]


def test_classes_of_few_pictures_do_not_all_go_to_one_side() -> None:
    labels = [label for label in range(6) for _ in range(2)]
    found = split(samples(labels, [0] * 12, [0] * 12, grouped=False), (0.5, 0.0, 0.5), 1)
    assert np.bincount(found.split, minlength=3).tolist() == [6, 0, 6]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), min_size=1, max_size=150),
    st.sampled_from([SHARES, (0.8, 0.0, 0.2), (1.0, 0.0, 0.0), (0.34, 0.33, 0.33)]), st.integers(0, 5),
)  # fmt: skip
def test_no_group_stands_on_two_sides(
    pictures: list[tuple[int, int]], shares: tuple[float, float, float], seed: int
) -> None:
    labels, groups = (list(column) for column in zip(*pictures, strict=True))
    given_ = samples(labels, groups, [group % 2 for group in groups])
    try:
        found = split(given_, shares, seed)
    except SchemaError as fault:
        assert fault.id == "split-impossible"  # noqa: PT017
        return
    assert all(len(np.unique(found.split[found.group == group])) == 1 for group in set(groups))
    for silo in np.unique(found.silo):
        there = np.bincount(found.split[found.silo == silo], minlength=3) > 0
        assert there.tolist() == [share > 0 for share in shares]
    assert np.array_equal(found.split, split(given_, shares, seed).split)


def test_groups_come_near_the_shares() -> None:
    rng = np.random.default_rng(3)
    groups = rng.integers(0, 120, 3000)
    labels = (groups + rng.integers(0, 3, 3000)) % 5
    found = split(samples(labels.tolist(), groups.tolist(), [0] * 3000), SHARES, 1)
    table = np.zeros((5, 3))
    np.add.at(table, (found.label, found.split), 1)
    assert np.abs(table / table.sum(axis=1, keepdims=True) - SHARES).max() < 0.03


def test_another_seed_is_another_draw_and_external_silos_stay() -> None:
    base = samples([0, 1] * 30, [number // 2 for number in range(60)], [number // 30 for number in range(60)])
    assert not np.array_equal(split(base, SHARES, 1).split, split(base, SHARES, 2).split)
    outside = replace(base, split=np.full(60, 2, np.int32), external=frozenset({"s1"}))
    found = split(outside, SHARES, 1)
    assert (found.split[30:] == 2).all()
    assert set(found.split[:30].tolist()) == {0, 1, 2}


def test_too_few_groups_are_refused_by_name() -> None:
    with pytest.raises(SchemaError, match=r"silo s0: found 2 writers .g000, g001., expected at least 3"):
        split(samples([0] * 9, [0, 1, 1] * 3, [0] * 9), SHARES, 1)
