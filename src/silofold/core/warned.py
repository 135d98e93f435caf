"""Warnings of libraries and of the user's own code: each kind is told once, in one line.

A model may warn at every call, with a number in the text: Python takes those for different ones.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from silofold.core import console

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST = 300
"""Characters of a warning's own words that are told."""


def settle(tell: Callable[[str], object]) -> None:
    """Have warnings told by a function, from now on; what was told is not told again.

    Parameters
    ----------
    tell
        Takes one line.
    """

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
        kind = (category.__name__, filename, lineno)
        if kind not in _told:
            _told.add(kind)
            words = next((line.strip() for line in str(message).splitlines() if line.strip()), "")[:LONGEST]
            tell(console.shown(f"{filename}:{lineno}: {category.__name__}: {words} (others of this kind are not told)"))

    warnings.showwarning = show  # type: ignore[assignment]


_told: set[tuple[str, str, int]] = set()
