from __future__ import annotations

import os
from typing import TYPE_CHECKING

from silofold.core import files

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_file_that_a_signal_writes_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second signal meets the first one's handler, and both ask for a stop."""
    real, calls = os.fsync, [0]

    def interrupted(handle: int) -> None:
        calls[0] += 1
        if calls[0] == 1:
            files.write_atomically(tmp_path / "stop", b"round")
        real(handle)

    monkeypatch.setattr(os, "fsync", interrupted)
    files.write_atomically(tmp_path / "stop", b"round")
    assert [path.name for path in tmp_path.iterdir()] == ["stop"]
    assert (tmp_path / "stop").read_bytes() == b"round"
