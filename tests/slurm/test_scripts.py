"""The other batch scripts: packing before training, sweeps, and two jobs at once."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from slurm.jobs import PYTHON, ROOT, SHORT, Job, changed, digests, submit

if TYPE_CHECKING:
    from pathlib import Path

    from slurm import emulated

pytestmark = pytest.mark.timeout(600)
QUICK = ("rounds.count=2", "local.epochs=1")


def test_packing_then_training(cluster: emulated.Cluster, pictures: Path, silos: Path, tmp_path: Path) -> None:
    packed, output = tmp_path / "silos", tmp_path / "pack.out"
    lines = {"PICTURES": pictures, "SILOS": packed}
    script = changed(ROOT / "slurm" / "pack.sbatch", lines, tmp_path / "pack.sbatch")
    surroundings = {"PYTHON": PYTHON, "SITE": str(tmp_path / "none")}
    first = cluster.submit(script, f"--output={output}", environment=surroundings, folder=ROOT)
    job = submit(cluster, packed, tmp_path, f"--dependency=afterok:{first}", "--kill-on-invalid-dep=yes", settings=QUICK)
    assert cluster.job(job.number)["JobState"] == "PENDING"
    job.wait()
    assert cluster.job(first)["JobState"] == "COMPLETED", output.read_text()
    manifests = [json.loads((folder / "silos.json").read_text()) for folder in (packed, silos)]
    assert manifests[0]["silos"] == manifests[1]["silos"], "packed by the job as without SLURM"


def test_training_does_not_follow_packing_that_failed(cluster: emulated.Cluster, tmp_path: Path) -> None:
    lines = {"PICTURES": tmp_path / "nowhere", "SILOS": tmp_path / "silos"}
    script = changed(ROOT / "slurm" / "pack.sbatch", lines, tmp_path / "pack.sbatch")
    surroundings = {"PYTHON": PYTHON, "SITE": str(tmp_path / "none")}
    first = cluster.submit(script, f"--output={tmp_path / 'out'}", environment=surroundings, folder=ROOT)
    job = submit(cluster, tmp_path / "silos", tmp_path, f"--dependency=afterok:{first}", "--kill-on-invalid-dep=yes")
    cluster.wait([first, job.number], 60)
    assert cluster.job(first)["JobState"] == "FAILED"
    assert cluster.job(job.number)["JobState"] == "CANCELLED"
    assert not job.out.exists()


def test_a_sweep_over_four_seeds_ends_with_a_table(cluster: emulated.Cluster, silos: Path, tmp_path: Path) -> None:
    job = submit(cluster, silos, tmp_path, script="sweep.sbatch", settings=QUICK, PYTHON=PYTHON)
    cluster.wait([f"{job.number}_{task}" for task in range(1, 5)], 300)
    runs = [job.out / f"seed={seed}" for seed in range(1, 5)]
    assert all((run / "DONE").exists() for run in runs), job.output.read_text()
    assert len({digests(run)[-1] for run in runs}) == 4
    table = (job.out / "table.txt").read_text().splitlines()
    assert [line.split()[0] for line in table] == ["run", *(run.name for run in runs), "mean"]
    for line, run in zip(table[1:5], runs, strict=True):
        assert line.endswith(digests(run)[-1][:8])
    assert table[5].endswith("4 runs")


def test_two_jobs_at_once_on_the_same_nodes(
    cluster: emulated.Cluster, silos: Path, undisturbed: list[str], tmp_path: Path
) -> None:
    jobs: list[Job] = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        jobs.append(submit(cluster, silos, tmp_path / name, settings=SHORT))
    cluster.wait([job.number for job in jobs], 60, frozenset({"RUNNING"}))
    for job in jobs:
        job.reach(1)
    assert {cluster.job(job.number)["JobState"] for job in jobs} == {"RUNNING"}, "both at once"
    for job in jobs:
        job.wait(400)
        assert digests(job.out) == undisturbed


def test_doctor_in_an_allocation(cluster: emulated.Cluster, silos: Path, tmp_path: Path) -> None:
    """Four faults of batch jobs at once: all ranks on one node, run folder and data on one node alone, too many cores."""
    lost = cluster.scratch / "silos"
    (cluster.on_node("n1") / "silos").mkdir()
    for file in silos.iterdir():
        (cluster.on_node("n1") / "silos" / file.name).write_bytes(file.read_bytes())
    script = tmp_path / "doctor.sbatch"
    words = (
        f"{sys.prefix}/bin/silofold doctor {ROOT}/examples/femnist/run.toml --json --data {lost} --out {cluster.scratch}/run"
    )
    script.write_text(f"#!/bin/bash\n{words}\nPRTE_MCA_rmaps_default_mapping_policy=:oversubscribe {words}\n")
    shape = ("--nodes=3", "--ntasks-per-node=4", "--cpus-per-task=2", f"--output={tmp_path / 'out'}")
    number = cluster.submit(script, *shape, folder=ROOT)
    cluster.wait([number], 120)
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines() if line.startswith("[")]
    (first, second) = [{entry["text"]: entry for entry in told} for told in lines]
    faults = {text for text, entry in first.items() if entry["status"] == "fail"}
    assert "the run folder is not the same one on n2, n3" in faults
    assert {f"node {node} does not see silos.json of the data folder" for node in ("n2", "n3")} <= faults
    assert "2 cores a task, of which torch uses local.threads = 1" in first
    assert any(text.startswith("node n3: ranks 8-11") for text in first)
    faults = {text for text, entry in second.items() if entry["status"] == "fail"}
    assert "PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe puts all ranks on the first node" in faults
    assert "the ranks are on 1 of 3 nodes" in faults
