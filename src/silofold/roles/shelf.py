"""Splits of silos in the memory of a worker: all that it hosts, or those that were used last."""

from __future__ import annotations

import contextlib
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from silofold.core.errors import SilofoldError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

UNREADABLE = (SilofoldError, OSError, MemoryError)


class Held(Protocol):
    """What is kept."""

    @property
    def size(self) -> int: ...  # noqa: D102  (bytes)


K = TypeVar("K")
S = TypeVar("S", bound=Held)


class Shelf(Generic[K, S]):
    """Splits of the silos that a worker hosts or trains.

    Parameters
    ----------
    load
        Reads one.
    limit
        Bytes that they may take together, but for those in use and the one after them; 0: no limit.
    """

    def __init__(self, load: Callable[[K], S], limit: int) -> None:
        self._load, self._limit = load, limit
        self._hosted: set[K] = set()
        self._held: dict[K, S] = {}
        """The least recently used first."""
        self._bytes: dict[K, int] = {}
        """Of those that are held: they are asked once, since there may be thousands."""
        self._coming: dict[K, Future[S]] = {}
        self._reader = ThreadPoolExecutor(1)

    def host(self, splits: Iterable[K]) -> None:
        """Without a limit, let go of all others and read those that are new, as far as they can be read."""
        if self._limit:  # those are held that were used last, whoever hosts them
            return
        mine = set(splits)
        for split in [split for split in self._held if split not in mine]:
            del self._held[split], self._bytes[split]
        for split in mine - self._hosted:
            with contextlib.suppress(*UNREADABLE):
                self.take(split)
        self._hosted = mine

    def take(self, split: K) -> S:
        """Return a split, from memory or from its file.

        Raises
        ------
        SilofoldError, OSError, MemoryError
            It cannot be read.
        """
        held = self._held.pop(split, None)
        if held is None:
            coming = self._coming.pop(split, None)
            held = coming.result() if coming else self._load(split)
            self._bytes[split] = held.size
        while self._limit and self._held and sum(self._bytes.values()) > self._limit:
            oldest = next(iter(self._held))
            del self._held[oldest], self._bytes[oldest]
        self._held[split] = held
        return held

    def in_turn(self, splits: Iterable[K], then: Sequence[K] | None = None) -> Iterator[K]:
        """Go through splits; while one is at work, the next one is read, and at last the first of those that come then.

        Without ``then`` nobody knows what comes, and what was foreseen before still may.
        """
        order = list(splits)
        for split in set(self._coming) - set(order) if then is not None else ():  # foreseen, and it came otherwise
            self._coming.pop(split).cancel()
        for split, after in itertools.zip_longest(order, [*order[1:], *(then or ())[:1]][: len(order)]):
            if after is not None and after not in self._held and after not in self._coming:
                self._coming[after] = self._reader.submit(self._load, after)
            yield split
