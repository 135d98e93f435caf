"""The ways of cutting: labels and groups (N,) in canonical order, and a generator, make the rows of each silo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from silofold.core.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from silofold.data.cut import Cut

TRIES: Final = 100
"""Draws after which a least size counts as impossible."""


def _iid(
    labels: NDArray[np.int32], groups: NDArray[np.int32], cut: Cut, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Shuffle, then deal: sizes differ by one at most."""
    del groups
    return np.array_split(rng.permutation(len(labels)), cut.silos)


def _dirichlet(
    labels: NDArray[np.int32], groups: NDArray[np.int32], cut: Cut, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Give each silo a share of each class: drawn from Dir(alpha). Hsu et al., arXiv:1909.06335."""
    del groups
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    even = len(labels) / cut.silos
    for _ in range(TRIES):
        counts = np.zeros(cut.silos, np.int64)
        parts: list[list[NDArray[np.int64]]] = [[] for _ in range(cut.silos)]
        for rows in classes:
            shares = rng.dirichlet(np.full(cut.silos, cut.alpha))
            if cut.balanced:
                shares = shares * (counts < even)
            total = shares.sum()
            if not np.isfinite(total) or total <= 0:  # so small an alpha that all shares came out as nothing: one gets all
                shares = np.zeros(cut.silos)
                shares[rng.choice(np.flatnonzero(counts < even) if cut.balanced else cut.silos)] = 1.0
                total = 1.0
            ends = np.floor(np.cumsum(shares / total)[:-1] * len(rows) + 1e-9).astype(np.int64)
            for number, piece in enumerate(np.split(rng.permutation(rows), ends)):
                parts[number].append(piece)
                counts[number] += len(piece)
        if counts.min() >= cut.least:
            return [np.concatenate(pieces) for pieces in parts]
    raise SchemaError(
        "partition-impossible",
        f"{cut.words}: found a silo of fewer than {cut.least} pictures in each of {TRIES} draws, expected none; "
        "a larger --alpha, fewer --silos, a smaller --least or --balanced",
    )


def _classes(
    labels: NDArray[np.int32], groups: NDArray[np.int32], cut: Cut, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Give silo i the class i mod C and others at random; holders share it evenly. Li et al., arXiv:2102.02079."""
    del groups
    present = np.unique(labels)
    if cut.per_silo > len(present):
        raise SchemaError(
            "tool-option", f"--per-silo: found {cut.per_silo}, expected at most {len(present)}, the classes there are"
        )
    if cut.silos * cut.per_silo < len(present):
        raise SchemaError(
            "partition-impossible",
            f"{cut.words}: found room for {cut.silos * cut.per_silo} classes, expected {len(present)}: some would be lost; "
            "more --silos or --per-silo",
        )
    holders: list[list[int]] = [[] for _ in present]
    for number in range(cut.silos):
        own = number % len(present)
        others = np.delete(np.arange(len(present)), own)
        for place in [own, *rng.choice(others, cut.per_silo - 1, replace=False).tolist()]:
            holders[place].append(number)
    lost = [place for place, held in enumerate(holders) if not held]
    for place in lost:  # fewer silos than classes: a class that nobody drew takes the place of one that several have
        richest = max(range(len(present)), key=lambda other: (len(holders[other]), -other))
        holders[place].append(holders[richest].pop())
    parts: list[list[NDArray[np.int64]]] = [[] for _ in range(cut.silos)]
    for place, label in enumerate(present):
        rows = rng.permutation(np.flatnonzero(labels == label))
        if len(holders[place]) > len(rows):
            raise SchemaError(
                "partition-impossible",
                f"{cut.words}: found {len(rows)} pictures of a class for {len(holders[place])} silos, expected one each",
            )
        for number, piece in zip(holders[place], np.array_split(rows, len(holders[place])), strict=True):
            parts[number].append(piece)
    return [np.concatenate([np.empty(0, np.int64), *pieces]) for pieces in parts]


def _shards(
    labels: NDArray[np.int32], groups: NDArray[np.int32], cut: Cut, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Sort by class, cut into equal shards, deal them at random. McMahan et al., arXiv:1602.05629."""
    del groups
    number = cut.silos * cut.per_silo
    if number > len(labels):
        raise SchemaError(
            "partition-impossible", f"{cut.words}: found {len(labels)} pictures, expected {number}, one a shard"
        )
    mixed = rng.permutation(len(labels))
    shards = np.array_split(mixed[np.argsort(labels[mixed], kind="stable")], number)
    dealt = rng.permutation(number).reshape(cut.silos, cut.per_silo)
    return [np.concatenate([shards[place] for place in mine]) for mine in dealt]


def _quantity(
    labels: NDArray[np.int32], groups: NDArray[np.int32], cut: Cut, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Give silos the same mix of classes and other sizes: by Dir(alpha), in proportion to 1, 2, 3 …, or log-normal."""
    del groups
    for _ in range(TRIES):
        if cut.shape == "linear":
            weights = np.arange(1, cut.silos + 1, dtype=np.float64)
        elif cut.shape == "lognormal":
            weights = rng.lognormal(0.0, cut.sigma, cut.silos)
        else:
            weights = rng.dirichlet(np.full(cut.silos, cut.alpha))
        sizes = proportional(weights, len(labels))
        if sizes.min() >= cut.least:
            return np.split(rng.permutation(len(labels)), np.cumsum(sizes)[:-1])
        if cut.shape == "linear":
            break
    raise SchemaError(
        "partition-impossible",
        f"{cut.words}: found a silo of fewer than {cut.least} pictures in every draw, expected none; fewer --silos, "
        "a smaller --least, or less skew",
    )


def _sizes(
    labels: NDArray[np.int32], groups: NDArray[np.int32], cut: Cut, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Give silo i so many pictures at random; what is left over is left out."""
    del groups
    return np.split(rng.permutation(len(labels)), np.cumsum(cut.sizes))[:-1]


def _inner_dirichlet(
    labels: NDArray[np.int32], groups: NDArray[np.int32], cut: Cut, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Give silos fixed sizes, and each a mix of classes of its own from Dir(alpha). Acar et al., arXiv:2111.04263.

    Silos draw in turn; a class that is used up drops out and the others of the mix take its share.
    """
    del groups
    present = np.unique(labels)
    piles = [rng.permutation(np.flatnonzero(labels == label)).tolist() for label in present]
    sizes = np.array(cut.sizes) if cut.sizes else proportional(np.ones(cut.silos), len(labels))
    mixes = rng.dirichlet(np.full(len(present), cut.alpha), cut.silos)
    parts: list[list[int]] = [[] for _ in range(cut.silos)]
    left = np.array([len(pile) for pile in piles])
    for number, size in enumerate(sizes.tolist()):
        missing = size
        while missing:
            mix = np.where(left > 0, np.nan_to_num(mixes[number]), 0.0)
            if mix.sum() <= 0:
                mix = np.where(left > 0, 1.0, 0.0)
            wanted = np.minimum(rng.multinomial(missing, mix / mix.sum()), left)
            for place in np.flatnonzero(wanted):
                for _ in range(wanted[place]):
                    parts[number].append(piles[place].pop())
            left -= wanted
            missing -= int(wanted.sum())
    return [np.array(part, np.int64) for part in parts]


def _groups(
    labels: NDArray[np.int32], groups: NDArray[np.int32], cut: Cut, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Give silos whole groups, consecutive ones in name order, as even in number as can be."""
    del labels, rng
    names = np.unique(groups)
    if len(names) < cut.silos:
        raise SchemaError(
            "partition-impossible", f"{cut.words}: found {len(names)} groups, expected at least {cut.silos}, one a silo"
        )
    return [np.flatnonzero(np.isin(groups, mine)) for mine in np.array_split(names, cut.silos)]


METHODS: Final[dict[str, Callable[..., list[NDArray[np.int64]]]]] = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "classes": _classes,
    "shards": _shards,
    "quantity": _quantity,
    "sizes": _sizes,
    "inner-dirichlet": _inner_dirichlet,
    "group": _groups,
}


def proportional(weights: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Share out a whole number in proportion to weights: largest remainders first, the earlier ones where equal.

    >>> proportional(np.array([1.0, 1.0, 1.0]), 10).tolist()
    [4, 3, 3]
    """
    exact = weights / weights.sum() * total
    found: NDArray[np.int64] = np.floor(exact + 1e-9).astype(np.int64)
    rest = total - int(found.sum())
    found[np.argsort(-(exact - found), kind="stable")[:rest]] += 1
    return found
