"""A random sample of the silos that are ready trains in each round."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from silofold.config import Count, Section, Share

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np


class SampleSettings(Section, frozen=True):
    """Settings of the cohort ``sample``."""

    name: str
    size: Count | Share
    """An integer is a number of silos; a number with a point is a share of those that are ready, rounded up."""


class Sample:
    """Sampling without replacement, each silo equally likely."""

    Settings = SampleSettings

    def __init__(self, settings: SampleSettings) -> None:
        self._size = settings.size

    def draw(self, silos: Sequence[int], rng: np.random.Generator) -> list[int]:
        """Draw the sample."""
        wanted = self._size if isinstance(self._size, int) else max(1, math.ceil(self._size * len(silos) - 1e-9))
        return sorted(rng.choice(silos, min(wanted, len(silos)), replace=False).tolist())


plugin = Sample
