"""The sizes of the batches that silos give."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from silofold.training import scoring

if TYPE_CHECKING:
    from collections.abc import Iterable

    from silofold.config import Local


class Shapes(NamedTuple):
    """Numbers of images in a batch, ascending: the smallest and the largest that occur.

    Attributes
    ----------
    train, test
        In training, in evaluation.
    """

    train: tuple[int, ...]
    test: tuple[int, ...]


def of(train: Iterable[int], test: Iterable[int], settings: Local) -> Shapes:
    """Work out the batch shapes that silos give, from the numbers of their training and test images."""
    return Shapes(
        _ends(train, settings.batch_size, drop_last=settings.drop_last),
        _ends(test, scoring.BATCH, drop_last=False),
    )


def _ends(examples: Iterable[int], size: int, *, drop_last: bool) -> tuple[int, ...]:
    found = set()
    for count in examples:
        if count >= size:
            found.add(size)
        if count % size and not drop_last:
            found.add(count % size)
    return tuple(sorted({min(found), max(found)})) if found else ()
