"""Cutting a set into silos on purpose: who gets which picture follows from the labels, a method and a seed alone.

Pure: numbers in, numbers out. What cannot be done is refused; nothing is tried again for ever.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from silofold.core.errors import SchemaError
from silofold.data.cut import Cut, check
from silofold.data.partition_methods import METHODS
from silofold.data.samples import all_of, few

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from silofold.data.samples import Samples

PURPOSE: Final = 0x9A27


def partition(samples: Samples, cut: Cut) -> tuple[Samples, bool]:
    """Cut a set into silos; splits stay as they are.

    Returns
    -------
    tuple
        The samples with new silos, and whether a group was torn apart. Groups that were are named ``group (silo)``.

    Raises
    ------
    SchemaError
        The set cannot be cut in that way.
    """
    size = len(samples)
    check(cut, size)
    rng = np.random.default_rng([cut.seed, PURPOSE])
    silo = np.full(size, -1, np.int32)
    # in an order that is the same whatever silos the pictures came from
    order = np.lexsort((samples.order, samples.label, samples.group))
    for number, rows in enumerate(METHODS[cut.by](samples.label[order], samples.group[order], cut, rng)):
        silo[order[rows]] = number
    counts = np.bincount(silo[silo >= 0], minlength=cut.silos)
    small = int(counts.argmin())
    if counts[small] < max(1, cut.least):
        raise SchemaError(
            "partition-impossible",
            f"{cut.words}: silo {small} would have {counts[small]} pictures, expected {cut.least} or more",
        )
    kept = np.flatnonzero(silo >= 0)
    names = tuple(f"silo_{number:0{max(4, len(str(cut.silos - 1)))}d}" for number in range(cut.silos))
    return _regrouped(_taken(samples, kept), silo[kept], names)


def _taken(samples: Samples, rows: NDArray[np.int64]) -> Samples:
    """Keep some pictures alone."""
    if len(rows) == len(samples):
        return samples
    columns = {name: getattr(samples, name)[rows] for name in ("label", "silo", "group", "split", "order", "place")}
    paths = samples.paths if len(samples.paths) == 1 else [samples.paths[row] for row in rows]
    return replace(samples, **columns, paths=paths)


def _regrouped(samples: Samples, silo: NDArray[np.int32], names: tuple[str, ...]) -> tuple[Samples, bool]:
    """Give pictures new silos; a group in several becomes one in each."""
    samples = replace(samples, silo=silo, silos=names, external=frozenset())
    if not samples.grouped:
        return replace(samples, groups=tuple(map(all_of, names)), group=silo.copy()), False
    pairs, inverse = np.unique(np.stack([samples.group, silo]), axis=1, return_inverse=True)
    homes = np.bincount(pairs[0], minlength=len(samples.groups))
    torn = bool((homes > 1).any())
    if not torn:
        return samples, False
    told = [
        samples.groups[group] if homes[group] < 2 else f"{samples.groups[group]} ({names[home]})" for group, home in pairs.T
    ]
    groups = tuple(sorted(told))
    place = {name: code for code, name in enumerate(groups)}
    codes = np.array([place[name] for name in told], np.int32)
    return replace(samples, groups=groups, group=codes[inverse.reshape(-1)]), True


def refuse_unknown(by: str) -> None:
    """Refuse a method that there is not.

    Raises
    ------
    SchemaError
        There is none of that name.
    """
    if by not in METHODS:
        raise SchemaError("tool-option", f"--by {by}: expected one of {few(METHODS)}")
