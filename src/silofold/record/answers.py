"""``predictions.h5`` of a run: what its final model says of every test image, so that runs can be paired image by image."""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import h5py
import msgspec

from silofold.errors import RunFolderError
from silofold.predictions import Predictions
from silofold.record import rundir

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

SCHEMA = 1
_FAULTS = (OSError, KeyError, ValueError, TypeError, RuntimeError, msgspec.DecodeError)


@dataclass(frozen=True)
class Answers:
    """What a run's model says of the test images of all silos.

    Attributes
    ----------
    round
        Round after which the model was saved.
    model_sha256
        Digest of the model, or of all silos' own models one after the other.
    tests
        sha256 of each silo's test split: equal lists mean the same images in the same order.
    global_model
        Predictions of the model; of silos that trained alone, each silo's own model on its own images.
    personalised
        Predictions after `epochs` more epochs in each silo, on its own images; None where nobody asked.
    epochs
        Those epochs; 0 if there were none.
    matrix
        (K, K) int64 right answers of silo i's own model on silo j's test images; None where there is one model for all.
    """

    round: int
    model_sha256: str
    tests: tuple[str, ...]
    global_model: Predictions
    personalised: Predictions | None = None
    epochs: int = 0
    matrix: NDArray[np.int64] | None = None


def write(path: Path, answers: Answers) -> None:
    """Write the file, whole or not at all.

    Raises
    ------
    RunFolderError
        It cannot be written.
    """
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        file.attrs["schema"] = SCHEMA
        file.attrs["round"] = answers.round
        file.attrs["model_sha256"] = answers.model_sha256
        file.attrs["tests"] = msgspec.json.encode(answers.tests).decode()
        file.attrs["epochs"] = answers.epochs
        for name, found in (("global_model", answers.global_model), ("personalised", answers.personalised)):
            for field in fields(Predictions) if found is not None else ():
                file.create_dataset(f"{name}/{field.name}", data=getattr(found, field.name), track_times=False)
        if answers.matrix is not None:
            file.create_dataset("matrix", data=answers.matrix, track_times=False)
    try:
        rundir.write_atomically(path, image.getvalue())
    except OSError as fault:
        raise RunFolderError("out-write", f"{path}: cannot be written: {fault.strerror}") from None


def read(path: Path) -> Answers:
    """Read the file.

    Raises
    ------
    RunFolderError
        It is missing, damaged or of another schema.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            if file.attrs["schema"] != SCHEMA:
                raise RunFolderError("predictions-read", f"{path}: found schema {file.attrs['schema']}, expected {SCHEMA}")
            groups = {name: _predictions(file[name]) for name in ("global_model", "personalised") if name in file}
            return Answers(
                round=int(file.attrs["round"]),
                model_sha256=str(file.attrs["model_sha256"]),
                tests=tuple(msgspec.json.decode(file.attrs["tests"], type=list[str])),
                epochs=int(file.attrs["epochs"]),
                matrix=file["matrix"][...] if "matrix" in file else None,
                global_model=groups["global_model"],
                personalised=groups.get("personalised"),
            )
    except _FAULTS as fault:
        raise RunFolderError("predictions-read", f"{path}: cannot be read: {' '.join(str(fault).split())}") from None


def _predictions(group: h5py.Group) -> Predictions:
    return Predictions(*(group[field.name][...] for field in fields(Predictions)))
