"""The table of elements: which tensor each element of the flat vector is part of, and what may move it.

Trained elements are moved by the server optimizer. All others become what the strategy makes of those of the silos: buffers
their mean, frozen ones what they were, unless the model itself writes into them.
"""

from __future__ import annotations

import bisect
import math
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from silofold.core.console import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

Kind: TypeAlias = Literal["trained", "frozen", "buffer"]


class Tensor(msgspec.Struct, frozen=True, array_like=True):
    """One tensor of the model, where it lies in the vector."""

    name: str
    shape: tuple[int, ...]
    start: int
    kind: Kind

    @property
    def stop(self) -> int:
        """Return the index after its last element."""
        return self.start + math.prod(self.shape)


class Elements(msgspec.Struct, frozen=True, array_like=True):
    """A fact of the job, the same on every rank.

    Attributes
    ----------
    tensors
        In the order of the vector, without gaps.
    """

    tensors: tuple[Tensor, ...] = ()

    @property
    def size(self) -> int:
        """Return the length of the vector."""
        return self.tensors[-1].stop if self.tensors else 0

    def runs(self, span: slice) -> list[tuple[slice, Kind]]:
        """Cut a slice of the vector where the kind of the elements changes.

        Parameters
        ----------
        span
            Slice of the vector, with start and stop.

        Returns
        -------
        list
            Slices, counted from the start of `span`, and their kinds.

        Raises
        ------
        ValueError
            The table ends before the slice does: what is in no run would never move.
        """
        if span.stop > self.size:
            raise ValueError(f"the table has {self.size} elements, expected {span.stop} at least")
        found: list[tuple[slice, Kind]] = []
        for tensor in self.tensors:
            start, stop = max(tensor.start, span.start) - span.start, min(tensor.stop, span.stop) - span.start
            if start >= stop:
                continue
            if found and found[-1][1] == tensor.kind:
                start = found.pop()[0].start
            found.append((slice(start, stop), tensor.kind))
        return found

    def at(self, index: int) -> str:
        """Name an element of the vector: ``conv.weight[0, 2]``."""
        tensor = self.tensors[bisect.bisect_right(self.tensors, index, key=lambda one: one.start) - 1]
        rest, place = index - tensor.start, list[int]()
        for length in reversed(tensor.shape):
            rest, here = divmod(rest, length)
            place.insert(0, here)
        return shown(f"{tensor.name}{place}") if place else shown(tensor.name)

    def described(self) -> dict[str, str]:
        """Say name by name where a tensor starts, its kind and its shape; a line each in ``run.json``."""
        return {one.name: f"{one.start} {one.kind} {'x'.join(map(str, one.shape))}".rstrip() for one in self.tensors}

    def difference(self, other: Elements) -> str:
        """Name the first tensor that is not the same in another table; empty if there is none."""
        mine, theirs = self.described(), other.described()
        for name in [*mine, *theirs]:
            if (one := mine.get(name, "not there")) != (another := theirs.get(name, "not there")):
                return shown(f"{name}: {one} | {another}")
        return "" if [*mine] == [*theirs] else "the order of the tensors"


def lay_out(
    trained: Sequence[tuple[str, Sequence[int]]],
    frozen: Sequence[tuple[str, Sequence[int]]] = (),
    buffer: Sequence[tuple[str, Sequence[int]]] = (),
) -> Elements:
    """Lay tensors out one after the other, a name and a shape each: first what is trained."""
    tensors: list[Tensor] = []
    kinds: list[tuple[Kind, Sequence[tuple[str, Sequence[int]]]]] = [
        ("trained", trained), ("frozen", frozen), ("buffer", buffer),
    ]  # fmt: skip
    for kind, named in kinds:
        for name, shape in named:
            tensors.append(Tensor(name, tuple(shape), tensors[-1].stop if tensors else 0, kind))
    return Elements(tuple(tensors))
