"""What a silo keeps from one of its rounds to the next: its momentum, in a file that is written once.

``state/silo_0003.r00012.h5`` is the state of silo 3 after round 12. The worker that trained it writes it when the update
counts, before it is ready for the next round; from then on any worker may read it, train the silo, and write the next one.
Checkpoints name such files by the digest of what they hold and copy none. A file goes when neither a checkpoint that is kept
nor the next round needs it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from silofold.core import files
from silofold.core.digest import sha256
from silofold.core.errors import CheckpointError
from silofold.core.reports import StateOf
from silofold.record import array_files, checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from silofold.record.checkpoint import Manifest

_FILE = re.compile(r"silo_(\d{4,9})\.r(\d{5,15})\.h5")


def path_of(folder: Path, silo: int, number: int) -> Path:
    """Return the file of a silo's state after a round."""
    return folder / f"silo_{silo:04d}.r{number:05d}.h5"


def digest(arrays: Mapping[str, NDArray[np.float32]]) -> str:
    """Digest what a state holds: names, lengths and bytes of its float32 vectors."""
    parts: list[bytes | memoryview] = []
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name], "<f4")
        parts += [f"{name} {len(array)} ".encode(), array.data.cast("B")]
    return sha256(*parts)


def write(folder: Path, silo: int, number: int, arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Write a silo's state after a round, and make it durable.

    Parameters
    ----------
    folder
        Of all states; made if it is not there.
    silo, number
        Which silo, after which round.
    arrays
        Float32 vectors by name.

    Raises
    ------
    CheckpointError
        It cannot be written.
    """
    path = path_of(folder, silo, number)
    draft = folder / f".{path.name}.tmp"  # one writer: the silo was trained by one worker
    array_files.write_arrays(folder, draft.name, arrays)
    try:
        files.rename(draft, path)
    except OSError as fault:
        raise CheckpointError("checkpoint-write", f"{path}: cannot be written: {fault.strerror}") from None


def read(folder: Path, silo: int, number: int, length: int | None = None, expected: str = "") -> dict[str, NDArray[Any]]:
    """Read a silo's state after a round.

    Parameters
    ----------
    folder
        Of all states.
    silo, number
        Which silo, after which round.
    length
        Elements of each vector, where that is known.
    expected
        Digest of what it must hold, where that is known.

    Raises
    ------
    CheckpointError
        It is missing or damaged.
    """
    path = path_of(folder, silo, number)
    found = array_files.read_arrays(path, rows=length)
    if odd := next((name for name, array in found.items() if array.dtype != np.float32), None):
        raise CheckpointError("checkpoint-read", f"{path}: {odd}: found {found[odd].dtype}, expected float32")
    if expected and digest(found) != expected:
        raise CheckpointError("checkpoint-read", f"{path}: damaged: what it holds is not what the checkpoint names")
    return found


def check(folder: Path, states: Mapping[int, StateOf], silos: Iterable[int]) -> None:
    """Read states, and compare them with their digests.

    Raises
    ------
    CheckpointError
        One is missing or damaged.
    """
    for silo in silos:
        read(folder, silo, states[silo].round, expected=states[silo].sha256)


def adopt(folder: Path, saved: Path, manifest: Manifest) -> dict[int, StateOf]:
    """Return the states that a checkpoint names; those that it holds itself, as older versions wrote it, become files.

    Parameters
    ----------
    folder
        Of all states.
    saved
        The checkpoint.
    manifest
        Its manifest.

    Raises
    ------
    CheckpointError
        One cannot be read or written.
    """
    states = dict(manifest.states)
    for name in manifest.files:
        if silo := re.fullmatch(r"silo_(\d+)\.h5", name):
            arrays = array_files.read_arrays(saved / name)
            write(folder, int(silo[1]), manifest.round, arrays)
            states[int(silo[1])] = StateOf(manifest.round, digest(arrays))
    return states


class Files:
    """The files of all states, as the scheduler keeps them few.

    Parameters
    ----------
    folder
        Where they lie.
    checkpoints
        Folder of the checkpoints.
    states
        Those that the first round begins with.
    """

    def __init__(self, folder: Path, checkpoints: Path, states: Mapping[int, StateOf]) -> None:
        self._folder, self._checkpoints = folder, checkpoints
        self._now = {silo: state.round for silo, state in states.items()}
        self._pending: set[tuple[int, int]] = set()
        self._named = self._of_checkpoints()
        wanted = self._named | set(self._now.items())
        for path in folder.glob("*") if folder.is_dir() else ():
            found = _FILE.fullmatch(path.name)
            if path.name.endswith(".tmp") or (found and (int(found[1]), int(found[2])) not in wanted):
                path.unlink(missing_ok=True)

    def moved(self, silos: Iterable[int], number: int) -> None:
        """Take note of states that were written in a round: those before go, unless a checkpoint names them."""
        for silo in silos:
            before = self._now.get(silo, number)
            self._now[silo] = number
            self._drop({(silo, before)})

    def begin(self) -> None:
        """Keep what there is now: a checkpoint that names it is being written."""
        self._pending = set(self._now.items())

    def published(self) -> None:
        """Let go of what no checkpoint names any more."""
        before, self._named, self._pending = self._named | self._pending, self._of_checkpoints(), set()
        self._drop(before)

    def _drop(self, files: Iterable[tuple[int, int]]) -> None:
        for silo, number in files:
            if (silo, number) not in self._named | self._pending and self._now.get(silo) != number:
                path_of(self._folder, silo, number).unlink(missing_ok=True)

    def _of_checkpoints(self) -> set[tuple[int, int]]:
        named = set()
        for path in checkpoint.found(self._checkpoints):
            try:
                manifest = checkpoint.read_manifest(path)
            except CheckpointError:  # it cannot be gone on with anyhow
                continue
            named |= {(silo, state.round) for silo, state in manifest.states.items()}
        return named
