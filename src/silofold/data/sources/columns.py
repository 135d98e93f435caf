"""Columns of a table, or arrays of a file: which says what, and what may stand in them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from silofold.core import guarded
from silofold.core.errors import SchemaError
from silofold.data.samples import CODES, few

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray


MOST_BYTES: Final = 2048 * guarded.MIB
TABS: Final = {".tsv", ".tab"}
PARQUET: Final = {".parquet", ".pq"}
FOLDS: Final = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "validation": "validation", "valid": "validation", "val": "validation",
}  # fmt: skip
"""What a column of splits may say, in whatever case."""


@dataclass(frozen=True)
class Columns:
    """Names of the columns or arrays that say what; none where nothing does."""

    image: str | None = None
    label: str | None = None
    silo: str | None = None
    group: str | None = None
    fold: str | None = None


def check_column(name: str, names: Sequence[str], where: object) -> None:
    """Refuse a column or array that is not there, and name what is.

    Raises
    ------
    SchemaError
        It is not there.
    """
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"; is {near[0]!r} meant?" if near else ""
        raise SchemaError(
            "table-column", f"{where}: found no column {name!r}, expected one of {few(map(repr, names)) or 'none'}{hint}"
        )


def folds_of(values: Iterable[str], where: str, rows: Sequence[int]) -> NDArray[np.int32]:
    """Read a column of splits.

    Raises
    ------
    SchemaError
        A value is none.
    """
    found = []
    for value, row in zip(values, rows, strict=True):
        split = FOLDS.get(value.strip().casefold())
        if split is None:
            raise SchemaError(
                "table-cell", f"{where}, line {row}: found the split {value!r}, expected train, validation or test"
            )
        found.append(CODES[split])  # type: ignore[index]
    return np.array(found, np.int32)
