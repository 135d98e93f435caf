from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import run_folder
from silofold.core import machine

if TYPE_CHECKING:
    import pytest


def test_spans() -> None:
    assert machine.spans([]) == ""
    assert machine.spans([3]) == "3"
    assert machine.spans([8, 0, 1, 2, 3, 5]) == "0-3,5,8"


def test_node_is_what_slurm_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    assert machine.node() == "n7"
    monkeypatch.delenv("SLURMD_NODENAME")
    assert machine.node() == os.uname().nodename


def test_the_tightest_control_group_counts(tmp_path: Path) -> None:
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    job = cgroups / "slurm" / "job_7"
    job.mkdir(parents=True)
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("0::/slurm/job_7\n")
    (proc / "meminfo").write_text("MemTotal:       1024 kB\nMemFree: 1 kB\n")
    assert machine.memory_limit(cgroups, proc) == 2**20
    assert machine.core_quota(cgroups, proc) is None
    (cgroups / "slurm" / "memory.max").write_text("4096\n")
    (job / "memory.max").write_text("max\n")
    (job / "cpu.max").write_text("max 100000\n")
    assert machine.memory_limit(cgroups, proc) == 4096
    assert machine.core_quota(cgroups, proc) is None
    (cgroups / "slurm" / "cpu.max").write_text("250000 100000\n")
    assert machine.core_quota(cgroups, proc) == 2.5


def test_control_groups_of_version_1(tmp_path: Path) -> None:
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("5:memory:/slurm/job_7\n3:cpu,cpuacct:/\n")
    (proc / "meminfo").write_text("MemTotal: 1024 kB\n")
    (cgroups / "memory" / "slurm" / "job_7").mkdir(parents=True)
    (cgroups / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (cgroups / "memory" / "slurm" / "job_7" / "memory.limit_in_bytes").write_text("65536\n")
    assert machine.memory_limit(cgroups, proc) == 65536


def test_this_process() -> None:
    assert 2**20 < machine.memory_used() < machine.memory_limit()
    before = machine.age()
    assert 0 < before < time.monotonic() + 1
    assert set(machine.cores()) == os.sched_getaffinity(0)


def test_allocation() -> None:
    assert machine.allocation_end({}) is None
    assert machine.allocation_end({"SLURM_JOB_END_TIME": "0"}) is None
    assert machine.allocation_end({"SLURM_JOB_END_TIME": "1700000000"}) == 1.7e9
    assert machine.tasks({"SLURM_NTASKS": "12"}) == 12
    assert machine.tasks({}) is None


def test_gpus(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "null"):
        (tmp_path / name).touch()
    assert machine.gpus({}, tmp_path) == ["0", "1"]
    assert machine.gpus({"CUDA_VISIBLE_DEVICES": "1"}, tmp_path) == ["1"]
    assert machine.gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == []


def test_processes_that_a_process_started(tmp_path: Path) -> None:
    for pid, state, parent in ((7, "S", 1), (8, "R", 7), (9, "T", 8), (10, "Z", 7), (11, "S", 1)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a (name) of it) {state} {parent} 0")
        (tmp_path / str(pid) / "cmdline").write_text(f"program\0{pid}\0")
    (tmp_path / "8" / "environ").write_text("HOME=/\0OMPI_COMM_WORLD_LOCAL_SIZE=3\0")
    found = machine.descendants(7, tmp_path)
    assert found == [machine.Child(8, 7, "program 8 ", stopped=False), machine.Child(9, 8, "program 9 ", stopped=True)]
    assert [machine.beside(pid, tmp_path) for pid in (8, 9)] == [3, 0]


def test_names_of_any_bytes(tmp_path: Path) -> None:
    """Anybody on a node may give a process such a name, command line or environment."""
    odd = b"sim_\xe9t\xc3) T 1 ("
    for pid, parent in ((7, 1), (8, 7)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_bytes(b"%d (%s) S %d 0" % (pid, odd, parent))
        (tmp_path / str(pid) / "cmdline").write_bytes(b"\xff\0-m silofold \0")
    (tmp_path / "8" / "environ").write_bytes(b"X=\xfe\0OMPI_COMM_WORLD_LOCAL_SIZE=many\0MPI_LOCALNRANKS=2\0")
    (tmp_path / "9").mkdir()
    (tmp_path / "9" / "stat").write_bytes(b"")
    (child,) = machine.descendants(7, tmp_path)
    assert (child.pid, child.parent, child.stopped) == (8, 7, False)
    assert machine.beside(8, tmp_path) == 2


def test_a_host_whose_name_is_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "caf\udce9 1")
    assert machine.host() == "caf\ufffd_1"
    monkeypatch.delenv("SLURMD_NODENAME", raising=False)
    assert machine.node() == machine.host()


def test_the_processes_that_a_process_comes_from() -> None:
    assert [*machine.ancestors(os.getpid())]
    assert "slurmstepd" not in machine.ancestors(os.getpid())


LAUNCHER = """
import ctypes, subprocess, sys, threading, time
ctypes.CDLL(None).prctl(15, b"prterun", 0, 0, 0)  # PR_SET_NAME
def start():
    rank = (
        "import time; from silofold.core import machine; "
        "machine.end_with_launcher(); print('up', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", rank], stdout=subprocess.PIPE)
    child.stdout.readline()
    print(child.pid, flush=True)
thread = threading.Thread(target=start)
thread.start()
thread.join()
time.sleep(60)
"""


def test_a_rank_ends_with_its_launcher_and_not_with_a_thread_of_it() -> None:
    with subprocess.Popen([sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        rank = Path(f"/proc/{int(process.stdout.readline())}/stat")
        time.sleep(1.0)  # the thread that has started it ends
        assert ") Z" not in rank.read_text()
        process.kill()
        run_folder.until(lambda: not rank.exists() or ") Z" in rank.read_text(), 20)
