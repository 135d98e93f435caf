from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from silofold.record import deaths

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import ctypes, os, signal, sys
from pathlib import Path
from silofold.record import deaths, log
def handed_over(*_): print("the MPI library's own dump", file=sys.stderr)
signal.signal(signal.SIGSEGV, handed_over)
deaths.heed(log.start(Path(sys.argv[1]) / "worker_3" / "worker.log", "worker_3"))
def forward(): ctypes.string_at(0) if sys.argv[2] == "read" else os.abort()
forward()
"""


@pytest.mark.parametrize(("how", "said"), [("read", "Segmentation fault"), ("abort", "Aborted")])
def test_a_rank_that_dies_by_a_signal_of_its_own_says_where(how: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "own.py"), str(tmp_path), how]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode < 0
    assert (ended.stdout, ended.stderr) == ("", "")
    (story,) = deaths.since(tmp_path, 0)
    assert story == f"worker_3: {said} ({tmp_path}/own.py:8 in forward)"
    assert deaths.since(tmp_path, 2**40) == []


def test_what_no_log_tells(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    assert deaths.told(log) == ""
    log.write_text(f"x{deaths.BEGINS}1\nFatal Python error: Aborted\n\nx{deaths.BEGINS}2\nround 1\n")
    assert deaths.told(log) == ""
    assert deaths.told(tmp_path) == ""
