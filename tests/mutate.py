"""Damage to bytes: flips, cuts, overwritten sizes, pieces twice or elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

SIZES = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\1",
    b"\1\0\0\0",
    b"\0\xff\xff\0",
)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Damage some bytes in one of five ways, the first ones more often: there stand the headers."""
    found = bytearray(data)
    at = rng.randrange(len(found)) if rng.random() < 0.5 else rng.randrange(min(len(found), 100))
    way = rng.randrange(5)
    if way == 0:
        for _ in range(rng.randint(1, 20)):
            found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    elif way == 1:
        del found[at:]
    elif way == 2:
        size = rng.choice(SIZES)
        found[at : at + len(size)] = size
    elif way == 3:
        start = rng.randrange(len(found))
        found[at:at] = found[start : start + rng.randint(1, 400)] * rng.choice((1, 1, 50))
    else:
        found[at] ^= 1 << rng.randrange(8)
    return bytes(found)
