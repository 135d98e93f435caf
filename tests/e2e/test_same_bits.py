"""Some rows of the same-bits table, against digests that were recorded for this CPU and torch by an earlier commit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import same_as

if TYPE_CHECKING:
    from pathlib import Path

REPEATED = [name for name, row in same_as.ROWS.items() if row.repeated]


@pytest.mark.parametrize("name", REPEATED)
def test_the_digests_are_those_on_record(name: str, tiny: Path, tmp_path: Path) -> None:
    here, recorded = same_as.machine(), json.loads(same_as.RECORDED.read_text(encoding="utf-8"))
    if here not in recorded:
        pytest.skip(f"no digests are recorded for {here}: make same-as BASE=COMMIT compares with a commit instead")
    assert same_as.play(same_as.ROOT, same_as.ROWS[name], tiny, tmp_path / "run") == recorded[here][name]


def test_eight_rows_are_repeated() -> None:
    assert len(REPEATED) == 8
    assert not any(same_as.ROWS[name].differs for name in REPEATED)
    assert len(same_as.ROWS) > 20
