from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import mpirun
from slurm import emulated
from slurm.jobs import PYTHON, ROOT, SHORT, without_slurm

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def cluster() -> Iterator[emulated.Cluster]:
    """Three nodes under a SLURM of their own."""
    if reason := emulated.missing():
        pytest.skip(reason)
    with emulated.Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real FEMNIST, or made-up writers where it is not at hand."""
    folder = tmp_path_factory.mktemp("pictures")
    if source := os.environ.get("SILOFOLD_FEMNIST"):
        with zipfile.ZipFile(Path(source) / "writers_img.zip") as archive:
            archive.extractall(folder)
        return folder / "client_img"
    made = [PYTHON, str(ROOT / "data_tools" / "synthesize.py"), str(folder / "made"), "--writers", "35", "--seed", "1"]
    assert mpirun.run(made).code == 0
    return folder / "made"


@pytest.fixture(scope="session")
def silos(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """35 writers in 7 silos."""
    folder = tmp_path_factory.mktemp("packed") / "silos"
    tool = [PYTHON, str(ROOT / "data_tools" / "pack.py"), str(pictures), str(folder)]
    ended = mpirun.run([*tool, "--users", "35", "--silos", "7", "--size", "32"])
    assert ended.code == 0, ended
    return folder


@pytest.fixture(scope="session")
def undisturbed(silos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Digests of the short experiment by ``mpirun -n 12``, without SLURM."""
    return without_slurm(silos, tmp_path_factory.mktemp("undisturbed") / "run", SHORT)
