"""What runs in every test run, and what only ``make fuzz`` and ``make faults`` run."""

from __future__ import annotations

import os

import pytest

whole_run = pytest.mark.skipif(os.environ.get("SILOFOLD_FAULTS") != "all", reason="a whole run: make faults has the time")
"""Marks a test of a fault that needs whole runs, beyond the few that every test run has time for."""


def count(full: int, sample: int) -> int:
    """Choose how many inputs are tried: all under ``make fuzz``, a sample in every test run."""
    return full if os.environ.get("SILOFOLD_FUZZ") == "all" else sample
