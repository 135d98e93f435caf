"""The silos of a worker in memory: all of them, or those that were used last."""

from __future__ import annotations

import contextlib
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from silofold.errors import SilofoldError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

UNREADABLE = (SilofoldError, OSError, MemoryError)


class Held(Protocol):
    """A silo in memory."""

    @property
    def size(self) -> int: ...  # noqa: D102  (bytes)


S = TypeVar("S", bound=Held)


class Shelf(Generic[S]):
    """Silos that a worker hosts or trains.

    Parameters
    ----------
    load
        Reads one.
    limit
        Bytes that they may take together, but for those in use and the one after them; 0: no limit.
    """

    def __init__(self, load: Callable[[int], S], limit: int) -> None:
        self._load, self._limit = load, limit
        self._hosted: tuple[int, ...] = ()
        self._held: dict[int, S] = {}
        """The least recently used first."""
        self._bytes: dict[int, int] = {}
        """Of those that are held: they are asked once, since there may be thousands."""
        self._coming: dict[int, Future[S]] = {}
        self._reader = ThreadPoolExecutor(1)

    def host(self, silos: tuple[int, ...]) -> None:
        """Without a limit, let go of all other silos and read those that are new, as far as they can be read."""
        if self._limit:  # those are held that were used last, whoever hosts them
            return
        mine = set(silos)
        for silo in [silo for silo in self._held if silo not in mine]:
            del self._held[silo], self._bytes[silo]
        for silo in mine - set(self._hosted):
            with contextlib.suppress(*UNREADABLE):
                self.take(silo)
        self._hosted = silos

    def take(self, silo: int) -> S:
        """Return a silo, from memory or from its file.

        Raises
        ------
        SilofoldError, OSError, MemoryError
            It cannot be read.
        """
        held = self._held.pop(silo, None)
        if held is None:
            coming = self._coming.pop(silo, None)
            held = coming.result() if coming else self._load(silo)
            self._bytes[silo] = held.size
        while self._limit and self._held and sum(self._bytes.values()) > self._limit:
            oldest = next(iter(self._held))
            del self._held[oldest], self._bytes[oldest]
        self._held[silo] = held
        return held

    def in_turn(self, silos: Iterable[int], then: Sequence[int] = ()) -> Iterator[int]:
        """Go through silos; while one is at work, the next one is read, and at last the first of those that come then."""
        order = list(silos)
        for silo in set(self._coming) - set(order) if order else ():  # foreseen, and it came otherwise
            self._coming.pop(silo).cancel()
        for silo, after in itertools.zip_longest(order, [*order[1:], *then[:1]][: len(order)]):
            if after is not None and after not in self._held and after not in self._coming:
                self._coming[after] = self._reader.submit(self._load, after)
            yield silo
