"""Which rank runs where: servers over nodes, silos on the nodes that have their files, GPUs of a node."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from slurm.jobs import Job, digests, submit, without_slurm

if TYPE_CHECKING:
    from pathlib import Path

    from slurm import emulated

pytestmark = pytest.mark.timeout(600)
QUICK = ("rounds.count=2", "local.epochs=1")


@pytest.fixture(scope="module")
def quick(silos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Digests of two short rounds without SLURM."""
    return without_slurm(silos, tmp_path_factory.mktemp("quick") / "run", QUICK)


def hosts(job: Job) -> dict[str, str]:
    ranks: list[dict[str, Any]] = json.loads((job.out / "run.json").read_text())["ranks"]
    return {rank["role"]: rank["host"] for rank in ranks}


def test_servers_spread_over_nodes(cluster: emulated.Cluster, silos: Path, quick: list[str], tmp_path: Path) -> None:
    job = submit(cluster, silos, tmp_path, settings=(*QUICK, "roles.placement=spread"))
    job.wait()
    assert digests(job.out) == quick
    found = hosts(job)
    assert [found[f"server_{index}"] for index in range(4)] == ["n2", "n3", "n1", "n2"]
    assert [found[f"worker_{index}"] for index in range(7)] == ["n1", "n1", "n2", "n2", "n3", "n3", "n3"]
    assert "n1: scheduler, server_2, worker_0, worker_1; cores" in job.output.read_text()


def test_silos_on_the_nodes_that_have_their_files(
    cluster: emulated.Cluster, silos: Path, quick: list[str], tmp_path: Path
) -> None:
    """Each node has other silos on its own disk, under the same path; n1, where rank 0 runs, knows of all by silos.json."""
    lie = {"n1": [0, 3], "n2": [1, 4, 6], "n3": [2, 5]}
    for node, kept in lie.items():
        folder = cluster.on_node(node) / "near"
        folder.mkdir()
        for silo in kept:
            shutil.copy(silos / f"silo_{silo:04d}.h5", folder)
    shutil.copy(silos / "silos.json", cluster.on_node("n1") / "near")
    settings = (*QUICK, "roles.near=true", "roles.placement=spread")
    # silofold launch looks at the manifest before it starts ranks: the batch script runs on n1
    job = submit(
        cluster, cluster.scratch / "near", tmp_path, "--ntasks=9", "--ntasks-per-node=3", settings=settings, SERVERS="2"
    )
    job.wait()
    assert digests(job.out) == quick
    found = hosts(job)
    for entry in (role for role in found if role.startswith("worker")):
        log = (job.out / entry / "worker.log").read_text()
        hosted = {silo for silo in range(7) if f"silo dataset_{silo}:" in log}
        assert hosted
        assert hosted <= set(lie[found[entry]]), (entry, found[entry])


def test_gpus_of_a_node_reach_its_workers(cluster: emulated.Cluster, silos: Path, quick: list[str], tmp_path: Path) -> None:
    """The GPUs are emulated: SLURM grants them, torch finds none behind them, and training is on the CPU."""
    job = submit(cluster, silos, tmp_path, script="gpu.sbatch", settings=QUICK, SERVERS="4", DEVICE="cpu")
    job.wait()
    assert digests(job.out) == quick
    assert "GPUs 0,1" in job.output.read_text()
    ranks = json.loads((job.out / "run.json").read_text())["ranks"]
    assert {rank["gpus"] for rank in ranks} == {"0,1"}


def test_more_ranks_than_tasks(cluster: emulated.Cluster, silos: Path, tmp_path: Path) -> None:
    job = submit(cluster, silos, tmp_path, "--nodes=1", "--ntasks=4", settings=QUICK)
    cluster.wait([job.number], 60)
    assert cluster.job(job.number)["ExitCode"] == "2:0", job.story()
    assert "found 4 servers and -1 workers" in job.output.read_text()
