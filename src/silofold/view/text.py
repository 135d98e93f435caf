"""Words and tables for terminals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofold.core.console import shown

if TYPE_CHECKING:
    from collections.abc import Sequence


def percent(value: float | None, digits: int = 2) -> str:
    """Write a share as per cent; ``n/a`` where there is none."""
    return "n/a" if value is None else f"{value:.{digits}%}"


def interval(low: float | None, high: float | None) -> str:
    """Write the two ends of an interval of a share."""
    return "–" if low is None or high is None else f"[{low:.1%}, {high:.1%}]"


def number(value: float | None) -> str:
    """Write a loss; ``n/a`` where there is none."""
    return "n/a" if value is None else f"{value:.4f}"


def names(every: Sequence[str], most: int = 5) -> str:
    """List names, the first few of many."""
    rest = len(every) - most
    return ", ".join(every[:most]) + (f" and {rest} more" if rest > 0 else "")


def points(difference: float) -> str:
    """Write a difference of two shares in percentage points, with its sign."""
    return f"{100 * difference:+.2f}"


def chance(p: float) -> str:
    """Write a p value."""
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def size(count: float) -> str:
    """Write a number of bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1000
    return f"{count:.3g} TB"


def span(seconds: float) -> str:
    """Write a duration."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Set a table in columns, the first to the left, the others to the right; control characters of names are escaped."""
    every = [[shown(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in every) for column in range(len(header))]
    lines = [
        "  ".join(f"{cell:{'<' if column == 0 else '>'}{widths[column]}}" for column, cell in enumerate(row)).rstrip()
        for row in every
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def sparkline(values: Sequence[float | None], width: int) -> str:
    """Draw the last values as bars of eight heights between their least and their greatest."""
    known = [value for value in values if value is not None][-width:]
    if not known:
        return ""
    low, high = min(known), max(known)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (value - low) / (high - low)) if high > low else 3] for value in known)
