"""Watching a run from outside, by its folder."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def rounds(out: Path) -> list[dict[str, Any]]:
    """Read the rounds that are on record as whole lines; none before the first."""
    path = out / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def until(true: Callable[[], object], seconds: float = 90) -> None:
    """Wait until something holds; that it never does fails the test."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
