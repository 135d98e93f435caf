"""Memory for vectors that MPI and vector instructions read and write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

ALIGNMENT = 64
"""Bytes of a cache line."""


def aligned(size: int, kind: DTypeLike = np.float32) -> NDArray[Any]:
    """Make a zeroed (size,) array whose first byte is 64-byte aligned."""
    kind = np.dtype(kind)
    raw = np.zeros(size * kind.itemsize + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size * kind.itemsize].view(kind)
