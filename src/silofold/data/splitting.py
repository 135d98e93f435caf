"""Drawing train, validation and test: whole groups on one side, classes alike on all sides as far as groups allow.

Pure: numbers in, numbers out. The draw follows from the samples and a seed alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from silofold.core.errors import SchemaError
from silofold.data.samples import CODES, few

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from silofold.data.samples import Samples

PURPOSE: Final = 0x5B11
"""Keeps this stream of random numbers apart from others of the same seed."""


def shares_of(text: str) -> tuple[float, float, float]:
    """Read ``0.7,0.1,0.2``: shares of train, validation and test.

    Raises
    ------
    SchemaError
        They are not three shares that add up to 1, train's above 0.
    """
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if len(shares) != 3 or not all(0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-9 or shares[0] == 0:
        raise SchemaError(
            "tool-option", f"--split {text}: expected shares of train, validation and test that add up to 1: 0.7,0.1,0.2"
        )
    return shares


def split(samples: Samples, shares: tuple[float, float, float], seed: int) -> Samples:
    """Draw the splits of every silo anew; external silos stay as they are.

    Raises
    ------
    SchemaError
        A silo has fewer groups than splits that must hold some.
    """
    drawn = samples.split.copy()
    for number, name in enumerate(samples.silos):
        rows = np.flatnonzero(samples.silo == number)
        if name in samples.external or not len(rows):
            continue
        rows = rows[np.lexsort((samples.order[rows], samples.label[rows], samples.group[rows]))]
        units, unit = np.unique(samples.group[rows], return_inverse=True)
        found = len(units) if samples.grouped else len(rows)
        needed = sum(share > 0 for share in shares)
        if found < needed:
            what = (
                f"{samples.group_word}s ({few(samples.groups[unit] for unit in units)})" if samples.grouped else "pictures"
            )
            raise SchemaError(
                "split-impossible",
                f"silo {name}: found {found} {what}, expected at least {needed}, one a split: none may stand on two sides",
            )
        rng = np.random.default_rng([seed, PURPOSE, number])
        if not samples.grouped:
            drawn[rows] = _by_class(samples.label[rows], shares, rng)
            continue
        table = np.zeros((len(units), len(samples.classes)), np.int64)
        np.add.at(table, (unit, samples.label[rows]), 1)
        drawn[rows] = _sides(table, shares, rng)[unit]
    return replace(samples, split=drawn)


def _by_class(labels: NDArray[np.int32], shares: tuple[float, float, float], rng: np.random.Generator) -> NDArray[np.int32]:
    """Put single pictures (N,) on sides, each class by itself; what does not divide evenly is made up by other classes."""
    side = np.zeros(len(labels), np.int32)
    owed = np.zeros(3)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        owed += np.array(shares) * len(rows)
        counts = np.floor(np.maximum(owed, 0)).astype(np.int64)
        counts = np.minimum(np.cumsum(counts), len(rows)) - np.minimum(np.cumsum(counts) - counts, len(rows))
        for _ in range(len(rows) - int(counts.sum())):
            counts[np.argmax(np.where(np.array(shares) > 0, owed - counts, -np.inf))] += 1
        owed -= counts
        side[rows] = np.repeat(np.arange(3, dtype=np.int32), counts)
    for code in (code for code, share in enumerate(shares) if share > 0):
        if not (side == code).any():  # so few pictures that none was left over for this side
            most = np.bincount(side, minlength=3).argmax()
            side[rng.choice(np.flatnonzero(side == most))] = code
    return side


def _sides(table: NDArray[np.int64], shares: tuple[float, float, float], rng: np.random.Generator) -> NDArray[np.int32]:
    """Put each unit, a row of counts (U, K) by class, on a side: the one that lacks most of what the unit brings.

    The largest units go first, equal ones in random order: Sechidis et al., "On the stratification of multi-label data",
    ECML PKDD 2011, with whole groups in place of examples.
    """
    wanted = np.outer(shares, table.sum(axis=0)).astype(np.float64)
    room = np.array(shares) * table.sum()
    side = np.zeros(len(table), np.int32)
    used = [code for code, share in enumerate(shares) if share > 0]
    placed = np.zeros(3, np.int64)
    mixed = rng.permutation(len(table))
    sizes = table.sum(axis=1)
    tie = rng.random((len(table), 3))
    for left, unit in zip(range(len(table), 0, -1), mixed[np.argsort(-sizes[mixed], kind="stable")], strict=True):
        empty = [code for code in used if not placed[code]]
        allowed = empty if left <= len(empty) else used
        counts = table[unit]
        present = counts > 0
        # how much of what it brings is still wanted on a side, as a share of all that is there of its classes
        need = (wanted[:, present] * (counts[present] / table[:, present].sum(axis=0))).sum(axis=1)
        best = max(allowed, key=lambda code: (round(need[code], 9), round(room[code], 9), tie[unit, code]))
        side[unit] = best
        placed[best] += 1
        wanted[best] -= counts
        room[best] -= sizes[unit]
    return side


assert tuple(CODES.values()) == (0, 1, 2)  # noqa: S101  (sides are numbered so)
