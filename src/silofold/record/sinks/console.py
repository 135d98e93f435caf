"""One line a round on standard output; on a terminal a bar of the rounds below it.

Ranks write to pipes of the launcher, so they cannot see whether a person looks: ``silofold launch`` says so in the
environment variable SILOFOLD_COLUMNS, the width of its terminal.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from tqdm import tqdm

from silofold.config import Section

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from silofold.messages import Summary


class ConsoleSettings(Section, frozen=True):
    """Settings of the sink ``console``: none of its own."""

    name: str = "console"


class Console:
    """Prints the rounds."""

    Settings = ConsoleSettings

    def __init__(self, settings: ConsoleSettings) -> None:
        del settings
        self._columns = int(os.environ.get("SILOFOLD_COLUMNS") or 0)
        self._rounds = 0

    def expect(self, rounds: int) -> None:
        """Say how many rounds the run has, for the bar."""
        self._rounds = rounds

    def open(self, folder: Path, earlier: Sequence[Summary]) -> None:  # noqa: ARG002  (it writes nothing there)
        """Begin the bar after the earlier rounds."""
        done = sum(not summary.void for summary in earlier)
        self._bar: tqdm[None] = tqdm(
            total=self._rounds or None, initial=done, disable=not self._columns, ncols=self._columns, unit="round",
            file=sys.stdout, desc="training", leave=False,
        )  # fmt: skip
        self._bar.refresh()

    def write(self, summary: Summary) -> None:
        """Print one line."""
        if self._columns:
            self._bar.clear()
        print(line(summary), flush=True)  # noqa: T201  (standard output is what this sink is for)
        if not summary.void:
            self._bar.update()

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


def line(summary: Summary) -> str:
    """Put a round's summary into one line."""
    parts = [f"round {summary.round:>3}"]
    if summary.accuracy is not None:
        low, high = summary.accuracy_low or 0.0, summary.accuracy_high or 0.0
        parts.append(f"accuracy {summary.accuracy:6.2%} [{low:.1%}, {high:.1%}] of {summary.test_examples}")
    if summary.train_loss is not None:
        parts.append(f"train loss {summary.train_loss:.4f}")
    parts.append(f"silos {len(summary.accepted)}/{len(summary.cohort)}")
    if summary.void:
        parts.append("VOID: below quorum, the model stands")
    parts.append(f"{summary.seconds.total:.2f} s")
    parts.append(summary.model_sha256[:8])
    return "  ".join(parts)


plugin = Console
