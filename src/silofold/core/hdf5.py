"""HDF5's library, loaded when a file is to be written: no rank pays for it at its start, and who reads alone never does."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

DEAF_TO = ("HDF5_USE_FILE_LOCKING", "HDF5_VOL_CONNECTOR", "HDF5_DRIVER", "HDF5_DRIVER_CONFIG")
"""Variables that would lock files, or bring in plug-ins and other storage."""


def library() -> ModuleType:
    """Import h5py, deaf to the user's variables for it."""
    for name in DEAF_TO:
        os.environ.pop(name, None)
    import h5py  # noqa: PLC0415  (see above)

    found: ModuleType = h5py
    return found
