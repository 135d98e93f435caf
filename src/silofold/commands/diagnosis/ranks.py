"""The ranks that ``doctor`` starts: what each finds, and what rank 0 makes of it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

import silofold
from silofold.comm import lifecycle, waiting
from silofold.comm import probe as mpi_probe
from silofold.commands.diagnosis.findings import Finding, fail, ok, warn
from silofold.core import machine
from silofold.core.errors import SilofoldError
from silofold.data import silo as silos
from silofold.training import instruction_set

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from silofold import config
    from silofold.comm.world import World


class RankFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What one rank says of itself."""

    node: str
    cores: str
    started: float
    """Seconds from the start of the process until MPI was up."""
    versions: str
    instructions: str
    """CPU instructions that change the bits of a run."""
    folder: bool
    """Whether it sees what rank 0 wrote beside the run folder."""
    missing: list[str]
    """Silo files that it does not see."""
    gpus: int
    """GPUs of its node that torch can use."""
    granted: list[str]
    """GPUs of its node that it was given."""
    torch: str
    """How the first rank of each node finds torch; empty on the others."""
    mpi: mpi_probe.Facts


def as_rank(settings: config.Settings, out: Path | None) -> list[Finding]:
    """Look at MPI on every rank, and judge on rank 0."""
    try:
        world = lifecycle.connect()
    except SilofoldError as fault:
        if fault.told_elsewhere:
            return []
        return [
            fail(str(fault), "start it by `silofold launch`, by the mpirun of this environment, or by srun with its --mpi=")
        ]
    token = (out or Path()).absolute()
    token = next(path for path in (token, *token.parents) if path.is_dir()) / f".silofold-doctor-{os.getpid()}"
    token = Path(world.start.share(str(token).encode()).decode())
    try:
        if world.rank == 0:
            token.touch()
        world.start.gather(b"")
        people = [
            msgspec.json.decode(answer, type=RankFacts)
            for answer in world.start.gather(msgspec.json.encode(_look(world, settings, token)))
        ]
    except OSError:
        people = []  # said already, by who started these ranks
    except waiting.Timeout:
        return [fail("the ranks cannot reach each other", "OMPI_MCA_btl_tcp_if_include=<interface> chooses a network")]
    finally:
        token.unlink(missing_ok=True)
    lifecycle.leave(world)
    return list(judge_ranks(people, settings)) if world.rank == 0 else []


def _look(world: World, settings: config.Settings, token: Path) -> RankFacts:
    started = machine.age()
    nodes = [answer.decode() for answer in world.start.gather(machine.node().encode())]
    folder, missing = Path(settings.data.folder), []
    if settings.data.folder and (folder / silos.MANIFEST).exists():
        missing = [silo.file for silo in silos.read_manifest(folder).silos if not (folder / silo.file).exists()]
    elif settings.data.folder:
        missing = [silos.MANIFEST]
    gpus, torch = 0, ""
    if nodes.index(nodes[world.rank]) == world.rank:  # once a node: the import takes seconds
        from silofold.training import device

        gpus, torch = device.census()
    return RankFacts(
        node=nodes[world.rank],
        cores=machine.spans(machine.cores()),
        started=started,
        versions=f"silofold {silofold.__version__}, Python {platform.python_version()}, numpy {np.__version__}",
        instructions=f"{instruction_set.cpu()[0]}, {instruction_set.widest()}",
        folder=token.exists(),
        missing=missing,
        gpus=gpus,
        granted=machine.gpus(),
        torch=torch,
        mpi=mpi_probe.look(world),
    )


def judge_ranks(people: Sequence[RankFacts], settings: config.Settings) -> Iterator[Finding]:
    """Judge what the ranks found out.

    Parameters
    ----------
    people
        One of each rank, in their order.
    settings
        Of the run.
    """
    if not people:
        return
    first, nodes = people[0], list(dict.fromkeys(person.node for person in people))
    least = settings.roles.servers + 2
    if len(people) < least:
        yield fail(
            f"{len(people)} ranks, expected at least {least}: 1 scheduler + {settings.roles.servers} servers + 1 worker",
            "start more ranks, or set fewer roles.servers",
        )
    yield from _judge_library(first.mpi, settings)
    wanted = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    if len(nodes) < wanted:
        yield fail(
            f"the ranks are on {len(nodes)} of {wanted} nodes",
            "unset PRTE_MCA_rmaps_default_mapping_policy, or set it to slot:oversubscribe; srun needs --nodes",
        )
    for node in nodes:
        ranks = [rank for rank, person in enumerate(people) if person.node == node]
        found = people[ranks[0]]
        yield ok(f"node {node}: ranks {machine.spans(ranks)}, cores {found.cores}, GPUs: {found.gpus}, {found.torch}")
        if found.granted and not found.gpus and settings.device != "cpu":
            yield (fail if settings.device == "cuda" else warn)(
                f"node {node} gives GPU {','.join(found.granted)}, and torch cannot use it",
                "a torch with CUDA that fits the driver (nvidia-smi), from PyTorch's index of CUDA wheels",
            )
        if settings.device == "cuda" and not found.granted:
            yield fail(f'device = "cuda", and node {node} gives no GPU', "sbatch --gpus-per-node, see slurm/gpu.sbatch")
        if broken := next((people[rank].mpi.sharing for rank in ranks if people[rank].mpi.sharing), ""):
            yield warn(f"node {node}: ranks cannot share memory: {broken}", "free /dev/shm there; runs go on by messages")
    yield from _judge_differences(people, nodes)
    slowest = max(people, key=lambda person: person.started)
    text = f"start-up takes {slowest.started:.1f} s on the slowest rank ({slowest.node})"
    if slowest.started > 30:
        yield warn(text, "a file system that is slow for many small files: put the environment into one image (Apptainer)")
    else:
        yield ok(text)
    clocks = [person.mpi.clock for person in people]
    if max(clocks) - min(clocks) > 5:
        yield warn(
            f"the clocks of the nodes are {max(clocks) - min(clocks):.0f} s apart: logs and the job's end mislead",
            "have the nodes' time synchronised (chrony)",
        )


def _judge_library(mpi: mpi_probe.Facts, settings: config.Settings) -> Iterator[Finding]:
    version = ".".join(map(str, mpi.standard))
    if mpi.standard < (3, 0):
        yield fail(f"{mpi.library} keeps MPI {version}, expected 3.0 or later", "load a newer MPI module")
    yield ok(f"{mpi.library}, MPI {version}, threads: {mpi.threads}{', CUDA-aware' if mpi.cuda_aware else ''}")
    if mpi.threads == "single":
        yield warn("the MPI library was built without threads", "load another build of it")
    if mpi.survives:
        yield ok("ULFM: the survivors of a rank's death go on")
    else:
        standby = " and standby ranks are of no use" if getattr(settings.roles, "standby", 0) else ""
        yield warn(
            f"no ULFM: a rank's death ends the job{standby}; the run is resumed from its last checkpoint",
            "Open MPI 5 by `silofold launch`, or mpirun --with-ft ulfm",
        )


def _judge_differences(people: Sequence[RankFacts], nodes: Sequence[str]) -> Iterator[Finding]:
    for name, remedy in (
        ("versions", "the same environment on all nodes: a shared file system, or one image"),
        (
            "instructions",
            'nodes of one kind (sbatch --constraint), or local.cpu_isa = "avx2": else the bits depend on the node',
        ),
    ):
        found = {getattr(person, name): person.node for person in people}
        if len(found) > 1:
            message = "; ".join(f"{node}: {value}" for value, node in found.items())
            status = fail if name == "versions" else warn
            yield status(f"nodes differ: {message}", remedy)
    if blind := [node for node in nodes if not all(person.folder for person in people if person.node == node)]:
        yield fail(
            f"the run folder is not the same one on {', '.join(blind)}", "an --out on a file system that all nodes see"
        )
    for node in nodes:
        missing = sorted({name for person in people if person.node == node for name in person.missing})
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            yield fail(
                f"node {node} does not see {', '.join(missing[:3])}{more} of the data folder",
                "data on a file system that all nodes see, or roles.near = true for silos that lie on their own node",
            )
