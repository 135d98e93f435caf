"""Names as people give them: in what order they come, which are nearly equal, and what can be written down."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_DIGITS = re.compile(r"([0-9]+)")


def natural(name: str) -> tuple[tuple[str | int, ...], str]:
    """Order names with the numbers in them as numbers: ``a_2`` before ``a_10``."""
    parts = _DIGITS.split(name)
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts)), name


def alike(names: Iterable[str]) -> list[tuple[str, str]]:
    """Find names that differ by case, leading zeros, blanks, Unicode's normal form or letters that nobody sees alone."""
    first: dict[str, str] = {}
    pairs = []
    for name in names:
        seen = "".join(letter for letter in name if unicodedata.category(letter) != "Cf")  # zero-width, soft hyphen, marks
        folded = " ".join(unicodedata.normalize("NFKC", seen).casefold().split())
        plain = _DIGITS.sub(lambda digits: digits[0].lstrip("0") or "0", folded)
        if first.setdefault(plain, name) != name:
            pairs.append((first[plain], name))
    return pairs


def readable(name: str) -> str:
    """Replace what is not UTF-8 in a name."""
    return name.encode("utf-8", "replace").decode()
