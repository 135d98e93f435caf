"""A few kills of whole jobs; `make kills` has more of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import kills

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.timeout(600)
def test_killed_and_resumed_on_other_ranks(tmp_path: Path) -> None:
    trials = kills.run(3, 2, tmp_path)
    assert all(trial.equal for trial in trials), trials
