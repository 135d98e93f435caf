"""All randomness of a run, drawn by (seed, purpose, round, silo) and never by rank, clock or order of arrival."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

Purpose: TypeAlias = Literal["model", "cohort", "shuffle", "dropout"]
_CODES: dict[Purpose, int] = {"model": 1, "cohort": 2, "shuffle": 3, "dropout": 4}


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
