"""Every silo that is ready trains in every round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofold.config import Section

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np


class AllSettings(Section, frozen=True):
    """Settings of the cohort ``all``: none of its own."""

    name: str = "all"


class All:
    """All silos that are ready."""

    Settings = AllSettings

    def __init__(self, settings: AllSettings) -> None:
        del settings

    def draw(self, silos: Sequence[int], rng: np.random.Generator) -> list[int]:  # noqa: ARG002  (nothing is drawn)
        """Return all of them."""
        return list(silos)


plugin = All
