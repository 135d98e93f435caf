"""``metrics.csv``: the flat part of each round's summary, for spreadsheets and plots."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import msgspec

from silofold.config import Section

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from silofold.messages import Summary

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
        self._file = (folder / "metrics.csv").open("w", newline="", encoding="utf-8")
        self._writer: csv.DictWriter[str] | None = None
        for summary in earlier:
            self.write(summary)

    def write(self, summary: Summary) -> None:
        """Write one row."""
        row = _row(summary)
        if self._writer is None:
            self._writer = csv.DictWriter(self._file, list(row), extrasaction="ignore", lineterminator="\n")
            self._writer.writeheader()
        self._writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _row(summary: Summary) -> dict[str, Any]:
    row = {key: getattr(summary, key) for key in PLAIN}
    row |= {"cohort": len(summary.cohort), "accepted": len(summary.accepted)}
    row |= {f"seconds_{phase}": value for phase, value in msgspec.structs.asdict(summary.seconds).items()}
    return row | {f"accuracy_{silo.name}": silo.accuracy for silo in summary.silos}


plugin = Csv
