"""What the batch system has given, and variables that lead a run astray."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from silofold.commands.diagnosis.findings import Finding, fail, ok, warn
from silofold.core import machine

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def judge_allocation(environment: Mapping[str, str], threads: int, ranks: int) -> Iterator[Finding]:
    """Compare the allocation of SLURM with what the run asks for."""
    job = environment.get("SLURM_JOB_ID")
    if job is None:
        yield ok("no SLURM allocation: the ranks run on this machine")
        return
    nodes, tasks = environment.get("SLURM_JOB_NUM_NODES", "1"), machine.tasks(environment)
    if tasks is None:
        yield warn(f"job {job} on {nodes} nodes does not say how many ranks it is for", "give sbatch --ntasks")
    elif tasks < ranks:
        yield fail(f"job {job} has {tasks} tasks for {ranks} ranks", f"sbatch --ntasks={ranks}, or fewer servers or workers")
    else:
        yield ok(f"job {job}: {tasks} tasks on {nodes} nodes, for {ranks} ranks")
    each = int(environment.get("SLURM_CPUS_PER_TASK", "1"))
    if each < threads:
        yield fail(
            f"{each} cores a task for local.threads = {threads}",
            f"sbatch --cpus-per-task={threads}, or local.threads = {each}",
        )
    elif each > threads:
        yield warn(
            f"{each} cores a task, of which torch uses local.threads = {threads}",
            f"local.threads = {each} (another number gives other bits), or sbatch --cpus-per-task={threads}",
        )
    end = machine.allocation_end(environment)
    if end is not None and end < time.time():
        yield warn("SLURM_JOB_END_TIME is past: it is ignored", "unset SLURM_JOB_END_TIME, or look at the node's clock")
    if end is None:
        yield warn(
            "SLURM_JOB_END_TIME is not set: the run cannot save itself before the time limit",
            "start it by slurm/train.sbatch, which asks squeue for it",
        )


def judge_variables(environment: Mapping[str, str], threads: int) -> Iterator[Finding]:
    """Look for variables that lead a run astray."""
    for name in ("MPI4PY_MPIABI", "MPI4PY_LIBMPI"):
        if value := environment.get(name):
            yield warn(f"{name}={value} makes mpi4py load another MPI library than the environment's", f"unset {name}")
    if (value := environment.get("OMP_NUM_THREADS", str(threads))) != str(threads):
        yield warn(
            f"OMP_NUM_THREADS={value}, and local.threads = {threads}: numpy's threads would compete with the ranks",
            f"unset OMP_NUM_THREADS, or set it to {threads}",
        )
    policy = environment.get("PRTE_MCA_rmaps_default_mapping_policy", "")
    if policy.startswith(":") and environment.get("SLURM_JOB_NUM_NODES", "1") != "1":
        yield fail(
            f"PRTE_MCA_rmaps_default_mapping_policy={policy} puts all ranks on the first node",
            f"unset it, or set it to slot{policy}",
        )
