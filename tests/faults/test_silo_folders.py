"""Silo folders that ended the process that read them, or never came to an end."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DAMAGED = Path(__file__).parent / "damaged"
"""Two files of some 450 with flipped bits, pixels blanked: HDF5's library 2.0 ends by a signal, or reads for ever."""


@pytest.mark.parametrize("name", ["crash", "endless"])
def test_a_file_that_hdf5_cannot_bear_is_one_line(tmp_path: Path, name: str) -> None:
    shutil.copy(DAMAGED / "silos.json", tmp_path)
    (tmp_path / "silo_0000.h5").write_bytes(gzip.decompress((DAMAGED / f"{name}.h5.gz").read_bytes()))
    command = [sys.executable, str(ROOT / "data_tools" / "verify.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert line.startswith(str(tmp_path / "silo_0000.h5"))
