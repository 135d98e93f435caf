"""All randomness of a run, drawn by (seed, purpose, round, silo) and never by rank, clock or order of arrival."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

Purpose: TypeAlias = Literal["model", "cohort", "shuffle", "dropout", "evaluate"]
_CODES: dict[Purpose, int] = {"model": 1, "cohort": 2, "shuffle": 3, "dropout": 4, "evaluate": 5}


def generator(seed: int, purpose: Purpose, number: int = 0, silo: int = 0) -> np.random.Generator:
    """Make the generator of one purpose in one round for one silo.

    Parameters
    ----------
    seed
        The run's seed.
    purpose
        What the numbers are for; each purpose has a stream of its own.
    number
        Round, counted from 1; 0 outside rounds.
    silo
        Index of the silo; 0 where no silo is concerned.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, _CODES[purpose], number, silo))))


def torch_seed(seed: int, purpose: Purpose, number: int = 0, silo: int = 0) -> int:
    """Draw a 63-bit seed for a torch generator from the same tree of streams."""
    return int(generator(seed, purpose, number, silo).integers(2**63))


def seed_libraries(seed: int) -> None:
    """Seed the global generators of numpy and Python, for models of the user's own that draw from them; 20 µs.

    Parameters
    ----------
    seed
        As `torch_seed` makes it: torch, numpy and Python then follow from the same number.
    """
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002  (the very generator that such models draw from)
    random.seed(seed)


@contextlib.contextmanager
def libraries_kept() -> Iterator[None]:
    """Let the global generators of numpy and Python stand afterwards as they stood before."""
    ours, theirs = np.random.get_state(), random.getstate()  # noqa: NPY002  (as above)
    try:
        yield
    finally:
        np.random.set_state(ours)  # noqa: NPY002  (as above)
        random.setstate(theirs)
