"""What the start check found on a worker, and whether workers have made the same model of one seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

TOLERANCE = 1e-3
"""How far answers may differ, of the largest logit or of 1, between workers that round otherwise."""


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """One worker's model, as the start check saw it.

    Attributes
    ----------
    structure
        Digest of names, shapes, dtypes and order of parameters and buffers.
    constants
        Digest of the buffers that are not float32.
    vector
        Digest of the initial parameters and buffers.
    answers
        Digest of the logits for one fixed batch, and of the vector after one step on another.
    logits
        The first of these logits.
    attributes
        Digest of each tensor, array or generator that is a plain attribute, by its name.
    """

    structure: str
    constants: str
    vector: str
    answers: str
    logits: list[float]
    attributes: dict[str, str] = {}


def difference(prints: Sequence[Fingerprint], places: Sequence[Hashable]) -> tuple[int, int, str] | None:
    """Find two workers that did not make the same model.

    Parameters
    ----------
    prints
        One a worker.
    places
        What decides the bits on each: workers of equal places must agree to the last bit, others to `TOLERANCE`.

    Returns
    -------
    tuple or None
        Indices of two workers and what differs; none if all are alike.
    """
    first: dict[Hashable, int] = {}
    for index, (found, place) in enumerate(zip(prints, places, strict=True)):
        if found.structure != prints[0].structure:
            return 0, index, "names, shapes or order of parameters and buffers"
        if found.constants != prints[0].constants:
            return 0, index, "buffers that are not float32"
        twin = first.setdefault(place, index)
        if found.vector != prints[twin].vector:
            return twin, index, "the initial parameters"
        if found.answers != prints[twin].answers:
            return twin, index, _named(prints[twin], found)
        if not _near(prints[0].logits, found.logits):
            return 0, index, _named(prints[0], found)
    return None


def _near(one: Sequence[float], other: Sequence[float]) -> bool:
    scale = max(1.0, *map(abs, one)) if one else 1.0
    return len(one) == len(other) and all(abs(a - b) <= TOLERANCE * scale for a, b in zip(one, other, strict=True))


def _named(one: Fingerprint, other: Fingerprint) -> str:
    names = sorted(one.attributes.keys() | other.attributes.keys())
    differ = [name for name in names if one.attributes.get(name) != other.attributes.get(name)]
    return f"the answers to one batch, and the attributes {', '.join(differ[:5])}" if differ else "the answers to one batch"
