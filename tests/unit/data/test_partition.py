"""Every way of cutting a set against its definition: by hand, and for whatever hypothesis draws."""

from __future__ import annotations

import doctest
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofold.core.errors import SchemaError
from silofold.data import partition as cuts
from silofold.data import partition_methods as methods
from silofold.data import skew
from silofold.data.cut import Cut
from silofold.data.partition import partition
from silofold.data.samples import Samples


def samples(labels: list[int], groups: list[int] | None = None, classes: int = 0) -> Samples:
    size = len(labels)
    of_groups = groups or [0] * size
    names = tuple(f"g{code:03d}" for code in range(max(of_groups) + 1))
    zeros = np.zeros(size, np.int32)
    return Samples(
        tuple(map(str, range(classes or max(labels) + 1))), ("all",), names if groups else ("all",),
        np.array(labels, np.int32), zeros, np.array(of_groups, np.int32), zeros, np.arange(size), [""],
        np.arange(size), grouped=groups is not None,
    )  # fmt: skip


def counts(found: Samples) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    table = np.zeros((len(found.silos), len(found.classes)), np.int64)
    np.add.at(table, (found.silo, found.label), 1)
    return table


TEN = samples([label for label in range(10) for _ in range(60)])
WAYS = {
    "iid": {}, "dirichlet": {"alpha": 0.3}, "classes": {"per_silo": 3}, "shards": {"per_silo": 2},
    "quantity": {"alpha": 2.0}, "inner-dirichlet": {"alpha": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("by", WAYS)
def test_each_picture_is_in_one_silo_and_the_seed_alone_decides(by: str) -> None:
    cut = Cut(by, 7, 3, **WAYS[by])  # type: ignore[arg-type]
    one, other = partition(TEN, cut)[0], partition(TEN, cut)[0]
    assert np.array_equal(one.silo, other.silo)
    assert not np.array_equal(one.silo, partition(TEN, replace(cut, seed=4))[0].silo)
    assert len(one) == len(TEN)
    assert np.array_equal(np.sort(one.place), np.arange(600))
    assert counts(one).sum(axis=1).min() > 0


def test_the_order_in_which_pictures_come_is_of_no_account() -> None:
    mixed = np.random.default_rng(1).permutation(600)
    columns = {name: getattr(TEN, name)[mixed] for name in ("label", "silo", "group", "split", "order", "place")}
    cut = Cut("dirichlet", 5, 1, alpha=0.5)
    one, other = partition(TEN, cut)[0], partition(replace(TEN, **columns), cut)[0]
    assert np.array_equal(one.silo[mixed], other.silo)


def test_iid_deals_evenly() -> None:
    sizes = counts(partition(TEN, Cut("iid", 7, 1))[0]).sum(axis=1)
    assert sorted(sizes.tolist()) == [85] * 2 + [86] * 5


def test_shares_of_dirichlet_are_those_of_the_generator() -> None:
    found = counts(partition(TEN, Cut("dirichlet", 4, 9, alpha=0.7))[0])
    rng = np.random.default_rng([9, cuts.PURPOSE])
    for label in range(10):
        ends = np.floor(np.cumsum(rng.dirichlet([0.7] * 4))[:-1] * 60 + 1e-9)
        assert found[:, label].tolist() == np.diff([0, *ends, 60]).tolist()
        rng.permutation(60)


def test_dirichlet_goes_from_one_class_to_all_alike() -> None:
    far = [skew.distance_to_pooled(counts(partition(TEN, Cut("dirichlet", 4, 1, alpha=alpha))[0])).mean()
           for alpha in (0.05, 0.5, 5.0, 500.0)]  # fmt: skip
    assert far == sorted(far, reverse=True)
    assert far[0] > 0.3
    assert far[-1] < 0.01


def test_a_balanced_dirichlet_leaves_out_who_has_enough() -> None:
    plain = counts(partition(TEN, Cut("dirichlet", 6, 2, alpha=0.2))[0]).sum(axis=1)
    even = counts(partition(TEN, Cut("dirichlet", 6, 2, alpha=0.2, balanced=True))[0]).sum(axis=1)
    assert even.max() < 100 + 60  # a silo below its even share gets one class more at most
    assert even.std() < plain.std()


def test_classes_are_shared_evenly_by_who_holds_them() -> None:
    found = counts(partition(TEN, Cut("classes", 12, 5, per_silo=2))[0])
    assert ((found > 0).sum(axis=1) == 2).all()
    assert all(found[number, number % 10] > 0 for number in range(12))
    for column in found.T:
        held = column[column > 0]
        assert held.max() - held.min() <= 1
        assert held.sum() == 60


def test_shards_hold_few_classes() -> None:
    found = counts(partition(TEN, Cut("shards", 10, 5, per_silo=2))[0])
    assert (found.sum(axis=1) == 60).all()
    assert ((found > 0).sum(axis=1) <= 2).all()  # 20 shards of 30, two of each class


def test_linear_sizes() -> None:
    found = partition(TEN, Cut("quantity", 4, 5, shape="linear"))[0]
    assert counts(found).sum(axis=1).tolist() == [60, 120, 180, 240]
    assert skew.distance_to_pooled(counts(found)).max() < 0.1


def test_lognormal_sizes_spread_with_sigma() -> None:
    spread = [counts(partition(TEN, Cut("quantity", 10, 5, shape="lognormal", sigma=sigma))[0]).sum(axis=1).std()
              for sigma in (0.1, 1.0)]  # fmt: skip
    assert spread[0] < spread[1]


def test_sizes_by_hand_leave_the_rest_out() -> None:
    found = partition(TEN, Cut("sizes", 3, 5, sizes=(100, 7, 50)))[0]
    assert np.bincount(found.silo).tolist() == [100, 7, 50]
    assert len(np.unique(found.place)) == 157


def test_inner_dirichlet_keeps_sizes_and_bends_mixes() -> None:
    found = counts(partition(TEN, Cut("inner-dirichlet", 3, 5, alpha=0.1, sizes=(200, 100, 40)))[0])
    assert found.sum(axis=1).tolist() == [200, 100, 40]
    assert skew.effective_classes(found).max() < 7
    even = counts(partition(TEN, Cut("inner-dirichlet", 6, 5, alpha=100.0))[0])
    assert even.sum(axis=1).tolist() == [100] * 6


def test_groups_stay_whole_or_are_said_to_be_torn() -> None:
    grouped = samples([number % 3 for number in range(30)], [number // 3 for number in range(30)])
    whole, torn = partition(grouped, Cut("group", 4, 1))
    assert not torn
    assert [len(np.unique(whole.group[whole.silo == silo])) for silo in range(4)] == [3, 3, 2, 2]
    assert whole.groups == grouped.groups
    cut, torn = partition(grouped, Cut("iid", 4, 1))
    assert torn
    pairs = {(cut.groups[group], silo) for group, silo in zip(cut.group, cut.silo, strict=True)}
    assert len(pairs) == len(cut.groups)  # each name stands in one silo
    for row in range(30):
        assert cut.groups[cut.group[row]].startswith(grouped.groups[grouped.group[row]])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=80), st.sampled_from([*methods.METHODS]), st.integers(1, 9),
    st.floats(0.01, 100), st.integers(1, 4), st.integers(0, 99), st.booleans(),
)  # fmt: skip
def test_whatever_is_asked_for_is_done_or_refused(
    labels: list[int],
    by: str,
    silos: int,
    alpha: float,
    per_silo: int,
    seed: int,
    balanced: bool,  # noqa: FBT001
) -> None:
    try:
        sizes = (2,) * silos if by == "sizes" else ()
        cut = Cut(by, silos, seed, alpha=alpha, per_silo=per_silo, balanced=balanced, sizes=sizes)
        found, _ = partition(samples(labels, list(range(len(labels)))), cut)
    except SchemaError:
        return
    assert (np.bincount(found.silo, minlength=silos) > 0).all()
    assert len(np.unique(found.place)) == len(found) == (2 * silos if by == "sizes" else len(labels))


def test_numbers_of_skew_by_hand() -> None:
    table = np.array([[10, 0], [0, 10]])
    assert skew.effective_classes(table).tolist() == [1.0, 1.0]
    # against (1/2, 1/2): (log2(1 / 0.75) + (log2(0.5 / 0.75) + log2(0.5 / 0.25)) / 2) / 2
    assert skew.distance_to_pooled(table) == pytest.approx([0.31127812445913283] * 2)
    assert skew.effective_classes(np.zeros((1, 2), np.int64)).tolist() == [0.0]


@pytest.mark.parametrize("module", [methods, skew])
def test_examples_in_the_text(module: object) -> None:
    assert doctest.testmod(module) == (0, {methods: 1, skew: 2}[module])  # type: ignore[arg-type, index]
