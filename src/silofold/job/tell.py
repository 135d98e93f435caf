"""What a job tells of itself: in run.json, before its first round, and as its last word."""

from __future__ import annotations

import logging
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

import silofold
from silofold.comm import world as worlds
from silofold.core import console, files, machine
from silofold.core.endings import DONE
from silofold.core.errors import RunFolderError
from silofold.evaluation.accuracy import chance
from silofold.job import rehearsal, timeline
from silofold.record import environment, history, losses, whole
from silofold.record.rundir import RunFolder

if TYPE_CHECKING:
    from silofold import config
    from silofold.core.summary import Summary
    from silofold.data import silo as silos
    from silofold.job.request import Request
    from silofold.roles.job import Job
    from silofold.roles.scheduler import Scheduler

logger = logging.getLogger(__name__)


def introduce(job: Job, parameters: int, rank_facts: list[dict[str, Any]]) -> None:
    """Say what is about to run and where, and in the log what each rank runs on."""
    for rank, one in enumerate(rank_facts):
        logger.info("rank %d is %s: %s", rank, job.layout.title(rank), one)
    workers = [rank_facts[rank] for rank in job.layout.worker_ranks]
    devices = sorted({f"{one['device']} ({one['hardware']})" for one in workers})
    hosts = len({one["host"] for one in rank_facts})
    sys.stdout.write(
        f"scheduler: 1, servers: {job.layout.servers}, workers: {len(workers)}, hosts: {hosts}; "
        f"silos: {len(job.data.silos)}, parameters: {parameters:,}; training on {', '.join(devices)}\n"
    )
    if hosts > 1 or any(one["gpus"] for one in rank_facts):
        sys.stdout.write(rehearsal.places(job.layout, rank_facts))
    sys.stdout.flush()


def record_of(job: Job, slices: list[slice], rank_facts: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything that a reader of ``run.json`` needs to judge, repeat or replay the run."""
    record = facts(job.settings, job.data, job.start_round, slices[-1].stop)
    record["versions"]["mpi"] = worlds.library_version()
    record["elements"] = job.elements.described()
    return record | {"ranks": [{"rank": rank, "role": job.layout.title(rank)} | one for rank, one in enumerate(rank_facts)]}


def facts(settings: config.Settings, data: silos.Manifest, start_round: int, parameters: int) -> dict[str, Any]:
    """Say what every run has, with or without MPI: program, settings, data, versions."""
    return {
        "silofold": silofold.__version__,
        "git_revision": _git_revision(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "start_round": start_round,
        "settings": msgspec.to_builtins(settings),
        "data_digest": data.digest,
        "classes": list(data.classes),
        "image_shape": list(data.image_shape),
        "silos": [{"name": silo.name, "train": silo.train.sha256, "test": silo.test.sha256} for silo in data.silos],
        "parameters": parameters,
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
    }


def _git_revision() -> str:
    """Name the commit of the checkout that this program runs from; empty when it is installed otherwise."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True, timeout=5, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.decode(errors="replace").strip()


def changed_environment(job: Job, request: Request, present: dict[str, Any]) -> list[str]:
    """Warn, before the first round, of what makes other bits than those of the run that is replayed or resumed likely."""
    earlier = RunFolder(request.replay) if request.replay else job.folder
    recorded = msgspec.structs.asdict(earlier.read_record()) if earlier.record.exists() else present
    changes = environment.differences(recorded, present)
    if changes:
        logger.warning("the environment is not that of the recorded run: %s", "; ".join(changes))
    if unequal := environment.unequal(present):
        logger.warning("workers are unequal, so other numbers of ranks may give other bits: %s", "; ".join(unequal))
    return changes


def close(scheduler: Scheduler, job: Job) -> None:
    """Close the record, say how it went, and write DONE last.

    Raises
    ------
    RunFolderError
        A file that DONE promises is missing or damaged.
    """
    rounds = history.read(job.folder.metrics)
    if not scheduler.ending and (faults := whole.unkept(job.folder, rounds[-1], model=True)):
        scheduler.close(f"not done: {'; '.join(faults)}")
        raise RunFolderError(
            "run-incomplete", f"{job.folder.path}: all rounds are done, but not all is saved: {'; '.join(faults)}"
        )
    best = next((summary for summary in reversed(rounds) if summary.accuracy is not None), None)
    story = accuracy_told(best, job.data)
    if best and best.round != rounds[-1].round:
        story = f"{story} after round {best.round}, the last one that was evaluated"
    story = "; ".join(filter(None, (story, losses.told(rounds))))
    if scheduler.ending:
        story = f"{scheduler.ending[1]}: {len(rounds)} rounds, accuracy {story}; go on with --resume {job.folder.path}"
    elif job.script:
        story = f"identical: {len(rounds)} rounds, every model digest equals the record"
    else:
        story = f"done: {len(rounds)} rounds, accuracy {story}; run folder {job.folder.path}"
    scheduler.close(story, scheduler.ending[0] if scheduler.ending else DONE)
    if not scheduler.ending:
        files.write_atomically(job.folder.done, f"{rounds[-1].model_sha256}\n".encode())
    sys.stdout.write("\n".join([*_timeline(job, rounds, scheduler.started), console.shown(story), ""]))
    sys.stdout.flush()


def accuracy_told(summary: Summary | None, data: silos.Manifest) -> str:
    """Tell the accuracy of a round, and whether it is worth anything."""
    if summary is None or summary.accuracy is None:
        return "n/a"
    histogram = [sum(counts) for counts in zip(*(silo.test.histogram for silo in data.silos), strict=True)]
    story = f"{summary.accuracy:.2%} of {summary.test_examples} test images"
    worthless = chance(round(summary.accuracy * summary.test_examples), summary.test_examples, histogram)
    story = f"{story}, {worthless}" if worthless else story
    lacking = history.untested(summary, len(data.silos))
    return f"{story}; {lacking}" if lacking else story


def _timeline(job: Job, rounds: list[Summary], started: float) -> list[str]:
    """Say where the rank-seconds of this job went."""
    played = [summary for summary in rounds if summary.round >= job.start_round]
    seconds = machine.age()
    found = timeline.shares(played, job.layout.size, seconds - (time.time() - started), seconds)
    record, local = job.folder.read_record().ranks, job.settings.local
    workers = [record[rank] for rank in job.layout.worker_ranks]
    plain = not (local.cuda_graph or local.compile) and any(str(one.get("device")).startswith("cuda") for one in workers)
    cores = [(str(one["host"]), int(one["cores"])) for one in workers]
    hints = timeline.hints(played, cores, job.layout.servers, kernel_by_kernel=plain)
    return [timeline.line(found), *(f"hint: {hint}" for hint in hints)]
