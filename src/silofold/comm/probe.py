"""What the MPI library and the ranks of a job can do: asked by ``silofold doctor``, never by a run."""

from __future__ import annotations

import ctypes
import os
import time
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from silofold.comm import lifecycle, node_memory, waiting

if TYPE_CHECKING:
    from mpi4py import MPI

    from silofold.comm.world import World

THREAD_LEVELS = ("single", "funneled", "serialized", "multiple")
SHARED_BYTES = 2**20
FAULT_TOLERANT = "OMPI_MCA_mpi_ft_enable"
"""What Open MPI's launcher says to ranks that it started with ``--with-ft ulfm``."""
PATIENCE = 20.0
"""Seconds that a collective of all ranks may take here."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What one rank finds out."""

    library: str
    standard: tuple[int, int]
    """Version of the MPI standard that the library keeps."""
    threads: str
    survives: bool
    """Whether the survivors of a rank's death can go on: the library and the launcher agree on ULFM."""
    cuda_aware: bool
    beside: int
    """Ranks that share memory with this one, as MPI sees it."""
    sharing: str
    """What went wrong when the ranks of this node shared memory; empty if nothing did."""
    clock: float
    """Seconds since the epoch, right after all ranks met."""


def look(world: World) -> Facts:
    """Find out what this rank's library can do; called on every rank.

    Raises
    ------
    waiting.Timeout
        The ranks do not meet: some hang, or no message passes between nodes.
    """
    from mpi4py import MPI  # noqa: PLC0415  (importing it starts MPI: not when this module is read)

    node = MPI.Intracomm(world.comm.Split_type(MPI.COMM_TYPE_SHARED))
    problem = _share(node)
    waiting.complete([world.comm.Ibarrier()], time.monotonic() + PATIENCE)
    return Facts(
        library=lifecycle.library_version(),
        standard=MPI.Get_version(),
        threads=THREAD_LEVELS[
            (MPI.THREAD_SINGLE, MPI.THREAD_FUNNELED, MPI.THREAD_SERIALIZED, MPI.THREAD_MULTIPLE).index(MPI.Query_thread())
        ],
        survives=MPI.get_vendor()[0] == "Open MPI" and os.environ.get(FAULT_TOLERANT, "") in {"1", "true"},
        cuda_aware=_cuda_aware(),
        beside=node.Get_size(),
        sharing=problem,
        clock=time.time(),
    )


def _share(node: MPI.Intracomm) -> str:
    """Write into memory that the ranks of a node share, as a run does, and read what the neighbour wrote."""
    rank, size = node.Get_rank(), node.Get_size()
    memory = node_memory.map_memory(node, size * SHARED_BYTES, [(rank * SHARED_BYTES, SHARED_BYTES)])
    if memory is None:
        return f"no file of {size * SHARED_BYTES} bytes can be mapped in {node_memory.MEMORY}"
    parts = memory.reshape(size, SHARED_BYTES)
    parts[rank] = rank % 251
    waiting.complete([node.Ibarrier()], time.monotonic() + PATIENCE)
    neighbour = (rank + 1) % size
    wrong = int(np.count_nonzero(parts[neighbour] != neighbour % 251))
    return f"{wrong} of {SHARED_BYTES} bytes of a neighbour arrived wrong" if wrong else ""


def _cuda_aware() -> bool:
    """Ask Open MPI whether it takes pointers into the memory of a GPU; other libraries have no such question."""
    query = getattr(ctypes.CDLL(None), "MPIX_Query_cuda_support", None)
    return bool(query is not None and query())
