"""Processes of this machine that each hold an object and answer calls to it.

Each ends by itself when the one that started it is gone, however that ended.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from typing import TYPE_CHECKING, Any, Self

from silofold.core.errors import RequeueError, SilofoldError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

PATIENCE = 5.0
"""Seconds that a process has to end by itself."""
LOOK_EVERY = 0.5


class Pool:
    """Processes, each with an object of its own.

    Parameters
    ----------
    make
        Makes the object, in its process.
    arguments
        Of `make`, for each process.
    """

    def __init__(self, make: Callable[..., object], arguments: Sequence[tuple[Any, ...]]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for given in arguments:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, make, given), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(PATIENCE)
            if process.is_alive():
                process.terminate()

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the first process's object, and return its answer; see `ask_all`."""
        self._say(0, (method, arguments))
        return self._hear(0)

    def ask_all(
        self, method: str, arguments: Sequence[tuple[Any, ...]] = (), look: Callable[[], object] | None = None
    ) -> list[Any]:
        """Call a method of every object at the same time, and return the answers.

        Parameters
        ----------
        method
            Its name.
        arguments
            For each process; none: the method takes none.
        look
            Is called every `LOOK_EVERY` seconds while the answers are awaited; what it raises ends the waiting.

        Raises
        ------
        SilofoldError
            A call, or the making of an object, raised it.
        RequeueError
            A process is gone.
        """
        for index in range(len(self._pipes)):
            self._say(index, (method, arguments[index] if arguments else ()))
        return [self._hear(index, look) for index in range(len(self._pipes))]

    def _say(self, index: int, call: tuple[str, tuple[Any, ...]]) -> None:
        try:
            self._pipes[index].send(call)
        except ConnectionError:  # what it said before it ended is still to be heard
            return

    def _hear(self, index: int, look: Callable[[], object] | None = None) -> Any:
        try:
            while look and not self._pipes[index].poll(LOOK_EVERY):
                look()
            found = self._pipes[index].recv()
        except (EOFError, ConnectionError):
            raise RequeueError(
                "rank-lost", f"process {index} is gone, out of memory perhaps; the same command goes on"
            ) from None
        if isinstance(found, SilofoldError):
            raise found
        return found


def _serve(pipe: Connection, make: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    """Answer calls for as long as there is somebody to ask; the main function of a process."""
    for name in (signal.SIGINT, signal.SIGUSR1):  # the parent's to answer; this process ends when the pipe does
        signal.signal(name, signal.SIG_IGN)
    with contextlib.suppress(EOFError, ConnectionError):  # nobody is there any more
        try:
            held = make(*arguments)
            while True:
                method, given = pipe.recv()
                pipe.send(getattr(held, method)(*given))
        except SilofoldError as fault:
            pipe.send(fault)
