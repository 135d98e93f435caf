"""Checkpoints of models that are trained apart: each is a shard of one long vector, beside the momentum that it keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from silofold.core.digest import sha256
from silofold.core.errors import CheckpointError
from silofold.record import array_files, checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray


class State(NamedTuple):
    """A model between two rounds: (P,) float32 parameters, and its (T,) float32 momentum where that is kept."""

    vector: NDArray[np.float32]
    momentum: NDArray[np.float32] | None


def digest(states: Sequence[State]) -> str:
    """Digest the parameters of models, one after the other."""
    return sha256(*(state.vector.astype("<f4", copy=False).data for state in states))


def read(path: Path, count: int) -> tuple[int, list[State]]:
    """Read the round of a checkpoint and its models, every byte of which is looked at.

    Raises
    ------
    CheckpointError
        It is damaged, or does not hold so many models.
    """
    manifest = checkpoint.read_manifest(path)
    checkpoint.check_files(path, manifest, manifest.files)
    checkpoint.check_model(path, manifest)
    if len(manifest.bounds) != count:
        raise CheckpointError(
            "checkpoint-fit", f"{path}: found {len(manifest.bounds)} models, expected {count}: one a group of silos"
        )
    return manifest.round, [_state(path, manifest, model) for model in range(count)]


def _state(path: Path, manifest: checkpoint.Manifest, model: int) -> State:
    vector = checkpoint.read_shards(path, manifest, slice(*manifest.bounds[model]))["model"]
    name = checkpoint.silo_name(model)
    if name not in manifest.files:
        return State(vector, None)
    found = array_files.read_arrays(path / name)
    if set(found) != {"momentum"}:
        raise CheckpointError("checkpoint-read", f"{path / name}: found no momentum in it")
    return State(vector, found["momentum"])


def write(checkpoints: Path, number: int, states: Sequence[State], settings: dict[str, Any], data: str, keep: int) -> None:
    """Write the checkpoint of a round.

    Parameters
    ----------
    checkpoints
        Folder of all checkpoints.
    number
        The round.
    states
        The models.
    settings
        The resolved settings as plain values.
    data
        Digest of the silos.
    keep
        How many checkpoints stay.
    """
    draft = checkpoint.draft_of(checkpoints, number)
    files = [array_files.write_arrays(draft, f"shard_{i}.h5", {"model": state.vector}) for i, state in enumerate(states)]
    files += [
        array_files.write_arrays(draft, checkpoint.silo_name(i), {"momentum": state.momentum})
        for i, state in enumerate(states) if state.momentum is not None
    ]  # fmt: skip
    size = len(states[0].vector)
    manifest = checkpoint.Manifest(
        schema=checkpoint.SCHEMA,
        round=number,
        counted=number,
        voids=0,
        parameters=size * len(states),
        bounds=[(i * size, (i + 1) * size) for i in range(len(states))],
        model_sha256=digest(states),
        settings=settings,
        data_digest=data,
        files={file.file: file.sha256 for file in files},
    )
    checkpoint.publish(checkpoints, manifest, keep)
