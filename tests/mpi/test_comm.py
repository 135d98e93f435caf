from __future__ import annotations

from pathlib import Path

import pytest

import mpirun

PROGRAM = str(Path(__file__).parent / "program_comm.py")


@pytest.mark.parametrize("ranks", [3, 4, 6, 9])
def test_control_agreement_and_model_bytes(ranks: int) -> None:
    ended = mpirun.on_ranks(ranks, [PROGRAM], 90)
    assert ended.code == 0, ended
    assert "WRONG" not in ended.err
