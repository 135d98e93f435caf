"""A table of labels beside a folder of pictures: a row a picture, columns for its file, class, silo, group and split."""

from __future__ import annotations

import csv
import io
import posixpath
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from silofold.core import guarded
from silofold.core.errors import SchemaError
from silofold.data import work
from silofold.data.picture import fitted
from silofold.data.samples import NO_SPLIT, natural_order, of_texts
from silofold.data.sources.columns import Columns, check_column, folds_of
from silofold.data.sources.tree import check_alike

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from silofold.data.fitting import Fitting
    from silofold.data.samples import Samples

MOST_BYTES: Final = 2048 * guarded.MIB
TABS: Final = {".tsv", ".tab"}
PARQUET: Final = {".parquet", ".pq"}


@dataclass(frozen=True)
class Table:
    """Pictures of a folder, and a table that tells what they are.

    Parameters
    ----------
    root
        The folder; files are named relative to it.
    table
        CSV, TSV or Parquet, with a head.
    silo
        Name of the only silo, where no column names one.
    renames
        New name of each class that has one.
    suffix
        What is to be added to the names of files.
    """

    root: Path
    table: Path
    columns: Columns
    silo: str
    classes: tuple[str, ...] = ()
    renames: Mapping[str, str] = field(default_factory=dict)
    suffix: str = ""

    @property
    def words(self) -> str:
        """What it is, for the record."""
        return f"a table of labels: {self.table.name}"

    def samples(self) -> Samples:
        """Read what is known of every picture.

        Raises
        ------
        SchemaError
            The table is damaged, lacks a column or a value, names a picture twice, or one that is not in the folder.
        """
        if not self.root.is_dir():
            raise SchemaError("table-image", f"{self.root}: no such folder, expected that of the pictures")
        wanted = Columns(
            self.columns.image or "file", self.columns.label or "label",
            self.columns.silo, self.columns.group, self.columns.fold,
        )  # fmt: skip
        found = read_columns(self.table, [name for name in vars(wanted).values() if name])
        rows = found.rows
        if not rows:
            raise SchemaError("table-read", f"{self.table}: found no row below the head, expected one a picture")
        column = {what: found.columns[name] for what, name in vars(wanted).items() if name}
        for what, name in vars(wanted).items():
            if name and what != "image":
                found.refuse_empty(name)
        paths = list(self._paths(column["image"], rows))
        labels = [self.renames.get(label, label) for label in column["label"]]
        if not self.classes:
            check_alike(self.table, sorted(set(labels)))
        splits = folds_of(column["fold"], str(self.table), rows) if "fold" in column else np.full(len(rows), NO_SPLIT, "i4")
        silos = column.get("silo") or [self.silo] * len(rows)
        place = np.zeros(len(rows), np.int64)
        names = [name + self.suffix for name in column["image"]]
        return of_texts(labels, silos, column.get("group"), splits, natural_order(names), paths, place, self.classes)

    def image(self, path: str, place: int, fitting: Fitting) -> NDArray[np.uint8]:
        """Read one picture as (H, W) or (H, W, 3) uint8."""
        del place
        return fitted(path, fitting)

    def _paths(self, names: Sequence[str], rows: Sequence[int]) -> Iterator[str]:
        """Find the file of each row."""
        first: dict[str, int] = {}
        for name, row in zip(names, rows, strict=True):
            where = f"{self.table}, line {row}"
            plain = posixpath.normpath(name + self.suffix) if name else ""
            if not plain or plain == "." or "\0" in plain:
                raise SchemaError("table-image", f"{where}: found no name of a file, expected one")
            if plain.startswith(("/", "../")) or plain == "..":
                raise SchemaError("table-image", f"{where}: found {name!r}, which lies outside of {self.root}")
            if plain in first:
                raise SchemaError(
                    "table-image", f"{where}: found {name!r} again, which line {first[plain]} names; expected each once"
                )
            first[plain] = row
            path = self.root / plain
            try:
                there = path.is_file()
            except OSError:
                there = False
            if not there:
                hint = "" if self.suffix or path.suffix else "; --suffix .png adds what its names lack"
                raise SchemaError("table-image", f"{where}: {path}: no such file, expected a picture{hint}")
            yield str(path)


@dataclass(frozen=True)
class Found:
    """Columns of a table as texts, and the line of each row."""

    path: Path
    columns: Mapping[str, list[str]]
    rows: Sequence[int]

    def refuse_empty(self, column: str) -> None:
        """Refuse a column that lacks a value.

        Raises
        ------
        SchemaError
            A row has none.
        """
        values = self.columns[column]
        missing = [row for row, value in zip(self.rows, values, strict=True) if not value.strip()]
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise SchemaError(
                "table-cell",
                f"{self.path}, line {missing[0]}: found nothing in the column {column!r}, expected a value{more}",
            )


def read_columns(path: Path, names: Sequence[str]) -> Found:
    """Read columns of a table: comma or semicolon separated, tab separated (.tsv), or Parquet.

    Raises
    ------
    SchemaError
        It cannot be read, lacks a column, or a row has more or fewer cells than the head.
    """
    if path.suffix.lower() in PARQUET:
        from silofold.data.sources.parquet import text_columns  # noqa: PLC0415  (an extra)

        columns = work.apart(text_columns, (path, tuple(dict.fromkeys(names))))
        return Found(path, columns, range(1, 1 + len(next(iter(columns.values()), []))))
    try:
        text = guarded.read(path, MOST_BYTES).decode("utf-8-sig")
    except (OSError, guarded.UnfitError) as fault:
        raise SchemaError("table-read", f"{path}: {getattr(fault, 'strerror', None) or fault}") from None
    except UnicodeDecodeError as fault:
        raise SchemaError(
            "table-read", f"{path}: found the byte 0x{fault.object[fault.start]:02x} at {fault.start}, expected UTF-8"
        ) from None
    head, _, _ = text.partition("\n")
    separator = "\t" if path.suffix.lower() in TABS else ";" if ";" in head and "," not in head else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        return _columns(path, reader, names)
    except csv.Error as fault:
        raise SchemaError("table-read", f"{path}, line {reader.line_num}: {fault}, expected a table") from None


def _columns(path: Path, reader: Iterator[list[str]], names: Sequence[str]) -> Found:
    head = [name.strip() for name in next(reader, [])]
    places = {}
    for name in names:
        check_column(name, head, path)
        if head.count(name) > 1:
            raise SchemaError(
                "table-column", f"{path}: found the column {name!r} {head.count(name)} times, expected it once"
            )
        places[name] = head.index(name)
    columns: dict[str, list[str]] = {name: [] for name in names}
    lines: list[int] = []
    known: dict[str, str] = {}  # labels, silos and groups occur many times: one text of each
    for cells in reader:
        line = int(reader.line_num)  # type: ignore[attr-defined]
        if not cells:
            continue
        if len(cells) != len(head):
            raise SchemaError(
                "table-read", f"{path}, line {line}: found {len(cells)} cells, expected {len(head)}, as many as the head has"
            )
        lines.append(line)
        for name, place in places.items():
            cell = cells[place].strip()
            columns[name].append(known.setdefault(cell, cell))
    return Found(path, columns, lines)


def read_renames(path: Path) -> dict[str, str]:
    """Read a table with the columns ``from`` and ``to``: other names of classes.

    Raises
    ------
    SchemaError
        It cannot be read, or gives one class two names.
    """
    found = read_columns(path, ["from", "to"])
    found.refuse_empty("from")
    found.refuse_empty("to")
    renames: dict[str, str] = {}
    for old, new, row in zip(found.columns["from"], found.columns["to"], found.rows, strict=True):
        if renames.setdefault(old, new) != new:
            raise SchemaError("table-cell", f"{path}, line {row}: found a second name for {old!r}, expected one")
    return renames
