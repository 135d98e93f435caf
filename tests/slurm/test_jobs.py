"""Federations as batch jobs on a real SLURM: same bits as without it, whatever happens to the job."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest

from slurm import emulated
from slurm.jobs import Job, digests, submit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.timeout(600)


def test_three_nodes_give_the_same_bits(
    cluster: emulated.Cluster, silos: Path, undisturbed: list[str], tmp_path: Path
) -> None:
    job = submit(cluster, silos, tmp_path)
    job.wait()
    assert digests(job.out) == undisturbed
    assert job.restarts == 0
    ranks = json.loads((job.out / "run.json").read_text())["ranks"]
    assert [rank["host"] for rank in ranks] == [node for node in emulated.NODES for _ in range(4)]


def requeue(job: Job) -> None:
    answer = job.cluster.ask("scontrol", "requeue", str(job.number))
    assert answer.returncode == 0, answer


def kill_step(job: Job) -> None:
    """The step that holds mpirun's daemons, and so the ranks, of the second and third node."""
    answer = job.cluster.ask("scancel", "--signal=KILL", f"{job.number}.0")
    assert answer.returncode == 0, answer


def kill_ranks(job: Job) -> None:
    ranks = job.cluster.running("n3", r"-m silofold train")
    assert len(ranks) == 4
    for pid in ranks:
        os.kill(pid, signal.SIGKILL)


def kill_daemon(job: Job) -> None:
    daemons = job.cluster.running("n2", r"bin/prted ")
    assert daemons
    for pid in daemons:
        os.kill(pid, signal.SIGKILL)


def kill_scheduler(job: Job) -> None:
    record = json.loads((job.out / "run.json").read_text())
    os.kill(record["ranks"][0]["pid"], signal.SIGKILL)


def lose_node(job: Job) -> None:
    job.cluster.kill_node("n3")
    emulated.until(lambda: job.cluster.job(job.number)["JobState"] == "PENDING", 90, "the job to be back in the queue")
    job.cluster.start_node("n3")


@pytest.mark.parametrize("harm", [requeue, kill_step, kill_ranks, kill_daemon, kill_scheduler, lose_node])
def test_a_disturbed_job_ends_in_the_same_bits(
    harm: Callable[[Job], None], cluster: emulated.Cluster, silos: Path, undisturbed: list[str], tmp_path: Path
) -> None:
    job = submit(cluster, silos, tmp_path)
    job.reach(3)
    harm(job)
    job.wait()
    assert job.restarts == 1
    assert digests(job.out) == undisturbed
    assert json.loads((job.out / "run.json").read_text())["start_round"] > 2, "the rounds before are not played again"


def test_a_fault_that_stays_is_not_requeued(cluster: emulated.Cluster, silos: Path, tmp_path: Path) -> None:
    job = submit(cluster, silos, tmp_path, settings=("rounds.cuont=3",))
    cluster.wait([job.number], 60)
    found = cluster.job(job.number)
    assert (found["JobState"], found["ExitCode"], found["Restarts"]) == ("FAILED", "2:0", "0"), job.story()
    assert "did you mean 'count'" in job.output.read_text()
