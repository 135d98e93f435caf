"""``predictions.h5`` of a run: what its final model says of every test image, so that runs can be paired image by image."""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np

from silofold.core import files, guarded, hdf5, plain_hdf5
from silofold.core.errors import RunFolderError
from silofold.core.predictions import TOP, Predictions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SCHEMA = 1
GROUPS = ("global_model", "personalised")
FIELDS = {
    "silo": (np.dtype("<i4"), False), "label": (np.dtype("<i4"), False), "top": (np.dtype("<i4"), True),
    "confidence": (np.dtype("<f4"), False), "loss": (np.dtype("<f8"), False),
}  # fmt: skip
"""Of `Predictions`, in its order: the type, and whether there is a row of several an image."""


class _Head(msgspec.Struct):
    """The attributes of the file."""

    schema: int
    round: Annotated[int, msgspec.Meta(ge=0)]
    model_sha256: str
    tests: str
    epochs: Annotated[int, msgspec.Meta(ge=0)]


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
    with hdf5.library().File(image, "w") as file:
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
        files.write_atomically(path, image.getvalue())
    except OSError as fault:
        raise RunFolderError("out-write", f"{path}: cannot be written: {fault.strerror}") from None


def read(path: Path, sizes: Sequence[int], classes: int) -> Answers:
    """Read the file, which may be another's: what it holds must be answers about these test images.

    Parameters
    ----------
    path
        The file.
    sizes
        Test images of each silo.
    classes
        Number of classes.

    Raises
    ------
    RunFolderError
        It is missing, damaged, of another schema, or of other test images.
    """
    try:
        with plain_hdf5.File(path) as file:
            kept = _read(file, sizes, classes)
    except OSError as fault:
        raise RunFolderError("predictions-read", f"{path}: cannot be read: {fault.strerror}") from None
    except guarded.UnfitError as fault:
        raise RunFolderError("predictions-read", f"{path}: cannot be read: {fault}") from None
    return kept


def _read(file: plain_hdf5.File, sizes: Sequence[int], classes: int) -> Answers:
    told = guarded.decode(msgspec.json.encode(file.attributes), _Head)
    if told.schema != SCHEMA:
        raise guarded.UnfitError(f"found schema {told.schema}, expected {SCHEMA}")
    groups = {name: _predictions(file, name, sizes, classes) for name in GROUPS if f"{name}/silo" in file.arrays}
    if GROUPS[0] not in groups:
        raise guarded.UnfitError(f"found no {GROUPS[0]}")
    matrix = file.read("matrix") if "matrix" in file.arrays else None
    if matrix is not None and (
        matrix.shape != (len(sizes),) * 2 or matrix.dtype != np.int64 or (matrix < 0).any() or (matrix > sizes).any()
    ):
        raise guarded.UnfitError("matrix: found something else than right answers by model and silo")
    return Answers(
        round=told.round,
        model_sha256=told.model_sha256,
        tests=tuple(guarded.decode(told.tests.encode(), list[str])),
        epochs=told.epochs,
        matrix=matrix,
        global_model=groups[GROUPS[0]],
        personalised=groups.get(GROUPS[1]),
    )


def _predictions(file: plain_hdf5.File, name: str, sizes: Sequence[int], classes: int) -> Predictions:
    """Read the answers of one model, and find out whether they can be answers at all."""
    count = sum(sizes)
    for field, (dtype, wide) in FIELDS.items():
        found = file.arrays.get(f"{name}/{field}")
        if found is None or found.dtype != dtype or found.shape != ((count, min(TOP, classes)) if wide else (count,)):
            raise guarded.UnfitError(f"{name}/{field}: found {found and found.shape}, expected {count} of {dtype}")
    read = Predictions(*(file.read(f"{name}/{field}") for field in FIELDS))
    in_range = all(((array >= 0) & (array < classes)).all() for array in (read.label, read.top))
    finite = np.isfinite(read.loss).all() and ((read.confidence >= 0) & (read.confidence <= 1 + 1e-6)).all()
    if not in_range or not finite or not np.array_equal(read.silo, np.repeat(np.arange(len(sizes)), sizes)):
        raise guarded.UnfitError(
            f"{name}: found numbers that are no answers about {count} test images of {len(sizes)} silos"
        )
    return read
