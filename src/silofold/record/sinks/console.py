"""One line a round on standard output. Plain lines: launchers pass on whole lines alone.

On a terminal ``silofold launch`` draws a bar below them, from these lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofold.config import Section

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from silofold.core.summary import Summary


class ConsoleSettings(Section, frozen=True):
    """Settings of the sink ``console``: none of its own."""

    name: str = "console"


class Console:
    """Prints the rounds."""

    Settings = ConsoleSettings

    def __init__(self, settings: ConsoleSettings) -> None:
        del settings

    def open(self, folder: Path, earlier: Sequence[Summary]) -> None:
        """Nothing: the rounds of a resumed run were printed when they were played."""

    def write(self, summary: Summary) -> None:
        """Print one line."""
        print(line(summary), flush=True)  # noqa: T201  (standard output is what this sink is for)

    def close(self) -> None:
        """Nothing."""


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
