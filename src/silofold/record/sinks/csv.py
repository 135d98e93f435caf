"""``metrics.csv``: the flat part of each round's summary, for spreadsheets and plots."""

from __future__ import annotations

import csv
import math
from typing import TYPE_CHECKING, Any

import msgspec

from silofold.config import Section
from silofold.core.console import shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from silofold.core.summary import Summary

PLAIN = (
    "round", "void", "train_loss", "accuracy", "accuracy_low", "accuracy_high", "test_loss", "test_examples",
    "bytes_down", "bytes_up", "model_sha256",
)  # fmt: skip


class CsvSettings(Section, frozen=True):
    """Settings of the sink ``csv``: none of its own."""

    name: str = "csv"


class Csv:
    """Writes one row a round."""

    Settings = CsvSettings

    def __init__(self, settings: CsvSettings) -> None:
        del settings

    def open(self, folder: Path, earlier: Sequence[Summary]) -> None:
        """Begin the file anew with the header and the earlier rounds."""
        path = folder / "metrics.csv"
        path.unlink(missing_ok=True)  # where it is a link, what it leads to is not ours
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._columns: list[tuple[str, str]] = []
        for summary in earlier:
            self.write(summary)

    def write(self, summary: Summary) -> None:
        """Write one row."""
        row = _row(summary)
        if not self._columns:
            self._columns = list(row)
            self._writer.writerow(_header(self._columns))
        self._writer.writerow([row.get(column) for column in self._columns])
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _row(summary: Summary) -> dict[tuple[str, str], Any]:
    """Return values by kind and name of their column: a silo may have the name of another column."""
    row: dict[str, Any] = {key: getattr(summary, key) for key in PLAIN}
    row |= {"cohort": len(summary.cohort), "accepted": len(summary.accepted)}
    row |= {f"seconds_{phase}": value for phase, value in msgspec.structs.asdict(summary.seconds).items()}
    every = {("", key): value for key, value in row.items()} | {("silo", silo.name): silo.accuracy for silo in summary.silos}
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in every.items()}


def _header(columns: Sequence[tuple[str, str]]) -> list[str]:
    """Name the columns, each by another name: a silo called ``low`` would have that of the interval's lower end."""
    header: list[str] = []
    for kind, name in columns:
        column = shown(f"accuracy_{name}") if kind else name
        while column in header:
            column += "_"
        header.append(column)
    return header


plugin = Csv
