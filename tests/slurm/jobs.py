"""Batch jobs of federations: the scripts of slurm/ submitted as a user does, and what comes of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import mpirun
from slurm import emulated

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable
RECIPE = "examples/femnist/run.toml"
SHORT = ("rounds.count=10", "local.epochs=2")
"""The experiment of examples/femnist in short: 10 rounds of 2 epochs instead of 20 of 20."""
RESTARTING = f"{sys.prefix}/bin/mpirun"
"""A launcher without ULFM: the death of a rank ends the job, which starts again and takes nothing back."""


def without_slurm(silos: Path, out: Path, settings: tuple[str, ...], seconds: float = 400) -> list[str]:
    """Digests of a run of 12 ranks by mpirun."""
    ended = mpirun.train(12, ROOT / RECIPE, silos, out, *settings, seconds=seconds)
    assert ended.code == 0, ended
    return digests(out)


def rounds(out: Path) -> list[dict[str, Any]]:
    path = out / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


def digests(out: Path) -> list[str]:
    return [entry["model_sha256"] for entry in rounds(out)]


class Job(NamedTuple):
    """A submitted batch job of a federation."""

    cluster: emulated.Cluster
    number: int
    out: Path
    output: Path

    def story(self) -> str:
        """What the job and its batch script said."""
        return f"{self.cluster.job(self.number)}\n{self.output.read_text() if self.output.exists() else 'no output'}"

    def wait(self, seconds: float = 240) -> None:
        """Wait until the job is over, and expect the run to be complete."""
        try:
            self.cluster.wait([self.number], seconds)
        except TimeoutError as fault:
            fault.add_note(self.story())
            raise
        assert self.cluster.job(self.number)["JobState"] == "COMPLETED", self.story()
        assert (self.out / "DONE").exists(), self.story()

    def reach(self, number: int, seconds: float = 180) -> None:
        """Wait until so many rounds are recorded."""
        try:
            emulated.until(lambda: len(rounds(self.out)) >= number, seconds, f"round {number}")
        except TimeoutError as fault:
            fault.add_note(self.story())
            raise

    @property
    def restarts(self) -> int:
        """How often SLURM has put the job back into the queue."""
        return int(self.cluster.job(self.number)["Restarts"])


def changed(script: Path, lines: dict[str, Path], to: Path) -> Path:
    """Copy a batch script and change its two lines, as a user does."""
    found, text = [], []
    for line in script.read_text(encoding="utf-8").splitlines():
        name = line.partition("=")[0]
        if name in lines and line.startswith(f"{name}=${{{name}:-"):
            found.append(name)
            text.append(f"{name}={lines[name]}")
        else:
            text.append(line)
    assert sorted(found) == sorted(lines), f"{script}: found {found}"
    to.write_text("\n".join(text) + "\n", encoding="utf-8")
    return to


def submit(
    cluster: emulated.Cluster,
    silos: Path,
    folder: Path,
    *options: str,
    settings: tuple[str, ...] = SHORT,
    script: str = "train.sbatch",
    **variables: str,
) -> Job:
    """Submit a batch script of slurm/ with its two lines changed, on three nodes of four tasks."""
    out, output = folder / "run", folder / "job.out"
    batch = changed(ROOT / "slurm" / script, {"SILOS": silos, "RUN_DIR": out}, folder / script)
    environment = {
        "RECIPE": RECIPE,
        "OPTIONS": " ".join(f"--set {setting}" for setting in settings),
        "SITE": str(folder / "none"),  # whatever the checkout has for its own site
        "SILOFOLD": f"{sys.prefix}/bin/silofold",
    }
    shape = ("--nodes=3", "--ntasks-per-node=4", f"--output={output}")
    number = cluster.submit(batch, *shape, *options, environment=environment | variables, folder=ROOT)
    return Job(cluster, number, out, output)
