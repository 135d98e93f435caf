"""Federations as batch jobs on a real SLURM: same bits as without it, whatever happens to the job."""

from __future__ import annotations

import json
import os
import re
import signal
from typing import TYPE_CHECKING

import pytest

from silofold.commands.launching import launcher
from slurm import emulated
from slurm.jobs import RESTARTING, Job, digests, submit, without_slurm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.timeout(1200)


def test_three_nodes_give_the_same_bits(
    cluster: emulated.Cluster, silos: Path, undisturbed: list[str], tmp_path: Path
) -> None:
    job = submit(cluster, silos, tmp_path)
    job.wait()
    assert digests(job.out) == undisturbed
    assert job.restarts == 0
    ranks = json.loads((job.out / "run.json").read_text())["ranks"]
    assert [rank["host"] for rank in ranks] == [node for node in emulated.NODES for _ in range(4)]


@pytest.mark.skipif(os.environ.get("SILOFOLD_SLURM") != "all", reason="ten minutes: make test-slurm-all")
def test_the_whole_experiment_gives_the_same_bits(cluster: emulated.Cluster, silos: Path, tmp_path: Path) -> None:
    """The tutorial's 20 rounds of 20 epochs, by SLURM on three nodes and by mpirun without it."""
    job = submit(cluster, silos, tmp_path, settings=())
    job.wait(600)
    found = digests(job.out)
    assert len(found) == 20
    assert found == without_slurm(silos, tmp_path / "undisturbed", (), 600)


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


def warn(job: Job) -> None:
    """What SLURM does before the time limit, and at pre-emption."""
    answer = job.cluster.ask("scancel", "--batch", "--signal=USR1", str(job.number))
    assert answer.returncode == 0, answer


@pytest.mark.parametrize("harm", [requeue, warn, kill_step, kill_ranks, kill_daemon, kill_scheduler, lose_node])
def test_a_disturbed_job_ends_in_the_same_bits(
    harm: Callable[[Job], None], cluster: emulated.Cluster, silos: Path, undisturbed: list[str], tmp_path: Path
) -> None:
    job = submit(cluster, silos, tmp_path, SILOFOLD_LAUNCHER=RESTARTING)
    job.reach(3)
    harm(job)
    job.wait()
    assert job.restarts == 1, job.story()
    assert digests(job.out) == undisturbed
    assert json.loads((job.out / "run.json").read_text())["start_round"] > 2, "the rounds before are not played again"


def test_survivors_of_a_scheduler_go_on_in_the_same_bits(
    cluster: emulated.Cluster, silos: Path, undisturbed: list[str], tmp_path: Path
) -> None:
    """With ULFM: no place in the queue is lost. One worker less hosts the same silos."""
    if launcher.find_mpirun()[1] != "openmpi":
        pytest.skip("only Open MPI survives the death of a rank")
    job = submit(cluster, silos, tmp_path)
    job.reach(3)
    kill_scheduler(job)
    job.wait()
    assert digests(job.out) == undisturbed, job.story()


def test_too_short_a_wall_time(cluster: emulated.Cluster, silos: Path, tmp_path: Path) -> None:
    """As often as needed: the job saves itself before the minute is over, by itself or at SLURM's warning, which comes as
    early as SLURM likes; SLURM never has to end it."""
    settings = ("rounds.count=20", "local.epochs=4")
    job = submit(cluster, silos, tmp_path, "--time=1", settings=(*settings, "rounds.end_margin=12"))
    job.wait(1100)
    story = job.output.read_text()
    assert job.restarts >= 1, story
    saved = len(re.findall(r"^(?:saved before the allocation's end|stopped as asked): ", story, re.MULTILINE))
    assert saved == job.restarts, story
    assert "DUE TO TIME LIMIT" not in story
    assert digests(job.out) == without_slurm(silos, tmp_path / "undisturbed", settings)


def test_a_fault_that_stays_is_not_requeued(cluster: emulated.Cluster, silos: Path, tmp_path: Path) -> None:
    job = submit(cluster, silos, tmp_path, settings=("rounds.cuont=3",))
    cluster.wait([job.number], 60)
    found = cluster.job(job.number)
    assert (found["JobState"], found["ExitCode"], found["Restarts"]) == ("FAILED", "2:0", "0"), job.story()
    assert "did you mean 'count'" in job.output.read_text()


def test_a_loss_that_comes_back_is_given_up_after_three_starts(
    cluster: emulated.Cluster, silos: Path, tmp_path: Path
) -> None:
    fault = "scheduler: kill @ round 1 before train"
    job = submit(cluster, silos, tmp_path, SILOFOLD_LAUNCHER=RESTARTING, SILOFOLD_FAULT=fault)
    cluster.wait([job.number], 300)
    found = cluster.job(job.number)
    assert (found["JobState"], found["ExitCode"], found["Restarts"]) == ("FAILED", "75:0", "2"), job.story()
    assert "3 starts in a row ended by rank-lost and without a new checkpoint" in job.output.read_text()
