"""``run.json``: what was run, on what, by whom; read as what it claims to be, since it may be another's.

Keys that this version does not know are passed over: later versions may write more.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from silofold.core import guarded
from silofold.core.errors import RunFolderError

if TYPE_CHECKING:
    from pathlib import Path

MOST = 16 * guarded.MIB
"""Bytes that the file may have: several times those of ten thousand silos."""
PIXELS = 2**26
"""Numbers that one picture may have."""


class SiloEntry(msgspec.Struct, frozen=True):
    """A silo that the run was trained on: its name, and the sha256 of its splits."""

    name: str
    train: str
    test: str


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What ``run.json`` tells."""

    silofold: str = ""
    """Version of the program."""
    git_revision: str = ""
    started: str = ""
    start_round: Annotated[int, Meta(ge=1)] = 1
    """First round that the newest job of the run played."""
    settings: dict[str, Any]
    data_digest: str
    classes: Annotated[tuple[str, ...], Meta(min_length=1)]
    image_shape: Annotated[tuple[Annotated[int, Meta(ge=1, le=2**20)], ...], Meta(min_length=2, max_length=3)]
    silos: Annotated[tuple[SiloEntry, ...], Meta(min_length=1)]
    parameters: Annotated[int, Meta(ge=1, le=2**48)]
    """Of one model."""
    versions: dict[str, str] = {}
    ranks: tuple[dict[str, str | int | float | bool], ...]
    """By rank: ``role``, and what it ran on."""
    baseline: Literal["federated", "local", "central"] = "federated"
    """What kind of run it is; a federated one does not write it."""


def read(path: Path) -> Record:
    """Read a ``run.json``.

    Raises
    ------
    RunFolderError
        It is missing, no regular file, too large, no JSON, or a part is missing or of another type.
    """
    try:
        record = guarded.decode(guarded.read(path, MOST), Record)
    except OSError as fault:
        raise RunFolderError("run-read", f"{path}: {fault.strerror}: is {path.parent} the folder of a run?") from None
    except guarded.UnfitError as fault:
        raise RunFolderError("run-read", f"{path}: no record of a run: {fault}") from None
    if math.prod(record.image_shape) > PIXELS:
        raise RunFolderError("run-read", f"{path}: image_shape: found {list(record.image_shape)}, too large for a picture")
    if any(not isinstance(rank.get("role"), str) for rank in record.ranks):
        raise RunFolderError("run-read", f"{path}: ranks: found one without a role, expected a text")
    return record
