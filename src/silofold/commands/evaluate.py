"""``silofold evaluate``: what a trained model is worth on the test images of silos."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from silofold.commands import options as shared
from silofold.commands.results import trained
from silofold.core import console, files, predictions, seeds
from silofold.core.errors import CheckpointError, ConfigError, DivergedError, RunFolderError
from silofold.data import silo as silos
from silofold.evaluation import measures
from silofold.record import answers
from silofold.training import build, local
from silofold.training import predict as predicting
from silofold.training.member import Member
from silofold.training.side_by_side import Trainer
from silofold.view import text

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from silofold.commands.results.trained import Trained
    from silofold.core.predictions import Predictions
    from silofold.evaluation.measures import Measures, Share
    from silofold.record.answers import Answers
    from silofold.training.flat import FlatModel


class Evaluated(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What ``--out`` writes."""

    model: str
    round: int
    model_sha256: str
    data_digest: str
    classes: list[str]
    silos: list[str]
    global_model: Measures
    personalised: Measures | None = None
    epochs: int = 0
    matrix: list[list[Share]] | None = None


def add(subparsers: shared.Subparsers) -> None:
    """Add the command's options."""
    parser = subparsers.add_parser("evaluate")
    shared.add_model(parser)
    parser.add_argument("data", nargs="?", type=Path, metavar="DIR", help="folder of silos (default: the run's)")
    parser.add_argument(
        "--personalise", type=int, default=0, metavar="EPOCHS", help="also train so many epochs more in each silo"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write every measure as JSON")
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Evaluate a model on a folder of silos."""
    if options.personalise < 0:
        raise ConfigError("option-value", f"--personalise: found {options.personalise}, expected at least 0 epochs")
    found = trained.find(options.model)
    folder, data = trained.manifest_of(found, options.data)
    seen = answers_of(found, folder, data, options.personalise)
    result = summarise(found, data, seen)
    console.write(f"{_story(result)}\n")
    if options.out:
        try:
            files.write_atomically(options.out, msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
        except OSError as fault:
            raise RunFolderError("out-write", f"{options.out}: cannot be written: {fault.strerror}") from None
    return 0


def recorded(run: Path, data: Path | None) -> tuple[Answers, silos.Manifest]:
    """Return what a run's newest model says of every test image: from its ``predictions.h5``, or by asking it now.

    Raises
    ------
    SilofoldError
        The run has no sound checkpoint, or its silos cannot be read.
    """
    found = trained.find(run)
    folder, manifest = trained.manifest_of(found, data)
    tests = tuple(silo.test.sha256 for silo in manifest.silos)
    if found.run.predictions.exists():
        try:
            kept = answers.read(
                found.run.predictions, [silo.test.examples for silo in manifest.silos], len(manifest.classes)
            )
        except RunFolderError as fault:
            console.say(f"{fault}; it is made anew")
        else:
            if (kept.model_sha256, kept.tests) == (found.manifest.model_sha256, tests):
                return kept, manifest
    return answers_of(found, folder, manifest, 0), manifest


def answers_of(found: Trained, folder: Path, data: silos.Manifest, epochs: int) -> Answers:
    """Ask a model about every test image, and keep the answers in its run folder where it was trained on these silos.

    Parameters
    ----------
    found
        The model, or one model a silo.
    folder, data
        The silos.
    epochs
        Epochs of further training in each silo for the personalised models; 0 leaves them out.
    """
    model, vectors = found.build(data.classes, data.image_shape)
    if len(vectors) not in {1, len(data.silos)}:
        raise CheckpointError(
            "model-count", f"{found.run.path}: holds {len(vectors)} models, one a silo; {folder} has {len(data.silos)} silos"
        )
    tests = [_samples(folder, data, index, "test", model) for index in range(len(data.silos))]
    rows = []
    for vector in vectors:
        model.load(vector)
        rows.append([_asked(found, model, samples, index, len(data.classes)) for index, samples in enumerate(tests)])
    own = [rows[index if len(rows) > 1 else 0][index] for index in range(len(tests))]
    seen = answers.Answers(
        round=found.manifest.round,
        model_sha256=found.manifest.model_sha256,
        tests=tuple(silo.test.sha256 for silo in data.silos),
        global_model=predictions.join(own),
        personalised=_personalised(found, folder, data, epochs, model, vectors, tests) if epochs else None,
        epochs=epochs,
        matrix=np.array([[one.right.sum() for one in row] for row in rows], np.int64) if len(rows) > 1 else None,
    )
    if found.run.record.exists() and found.manifest.data_digest == data.digest:
        _keep(found.run.predictions, seen, data)
    return seen


def summarise(found: Trained, data: silos.Manifest, seen: Answers) -> Evaluated:
    """Compute the measures of a model's answers."""
    count = len(data.silos)
    sizes = [silo.test.examples for silo in data.silos]
    return Evaluated(
        model=console.shown(str(found.run.path)),
        round=seen.round,
        model_sha256=seen.model_sha256,
        data_digest=data.digest,
        classes=list(data.classes),
        silos=[silo.name for silo in data.silos],
        global_model=measures.measure(seen.global_model, data.classes, count),
        personalised=measures.measure(seen.personalised, data.classes, count) if seen.personalised else None,
        epochs=seen.epochs,
        matrix=None if seen.matrix is None else measures.shares(seen.matrix, sizes),
    )


def _samples(folder: Path, data: silos.Manifest, index: int, split: silos.SplitName, model: FlatModel) -> local.Samples:
    part = silos.read_split(folder, data.silos[index], split, data)
    return local.load(part.images, part.labels, model.vector.device)


def _asked(found: Trained, model: FlatModel, samples: local.Samples, silo: int, classes: int) -> Predictions:
    """Ask a model about a silo's test images, with the random numbers of the run's own evaluation."""
    name = found.settings.model["name"]
    try:
        with build.running(name):
            seed = seeds.torch_seed(found.settings.seed, "evaluate", found.manifest.round, silo)
            return predicting.predict(model, samples, silo, classes, seed)
    except DivergedError as fault:
        raise DivergedError("diverged-model", f"{found.run.path}, silo {silo}: {fault}") from None


def _personalised(
    found: Trained,
    folder: Path,
    data: silos.Manifest,
    epochs: int,
    model: FlatModel,
    vectors: NDArray[np.float32],
    tests: Sequence[local.Samples],
) -> Predictions:
    """Train the model some more in each silo, as in a round that follows the last one, and ask it about that silo."""
    # without graphs, so that a machine without a GPU can do it
    further = msgspec.structs.replace(found.settings.local, epochs=epochs, cuda_graph=False, side_by_side=1)
    trainer, parts = Trainer(model, further), []
    for index, samples in enumerate(tests):
        key = found.settings.seed, found.manifest.round + 1, index
        train = _samples(folder, data, index, "train", model)
        with build.running(found.settings.model["name"]):
            (done,) = trainer.train([Member(train, None, key, vectors[index if len(vectors) > 1 else 0])], math.inf)
        if done.reason:
            raise DivergedError(
                "silo-training",
                f"silo {data.silos[index].name}: cannot be personalised: {done.reason}, with local.lr = {further.lr:g}",
            )
        parts.append(_asked(found, model, samples, index, len(data.classes)))
    return predictions.join(parts)


def _keep(path: Path, seen: Answers, data: silos.Manifest) -> None:
    """Keep answers; personalised ones of the same model stay when none were asked for now."""
    try:
        if path.exists() and not seen.epochs:
            kept = answers.read(path, [silo.test.examples for silo in data.silos], len(data.classes))
            if (kept.model_sha256, kept.tests) == (seen.model_sha256, seen.tests):
                seen = dataclasses.replace(seen, personalised=kept.personalised, epochs=kept.epochs)
        answers.write(path, seen)
    except RunFolderError as fault:  # a folder that may only be read: the answers are on the screen all the same
        console.say(str(fault))


def _story(result: Evaluated) -> str:
    """Put the measures into words."""
    columns: list[tuple[str, Measures]] = [("accuracy", result.global_model)]
    if result.personalised:
        columns.append((f"after {result.epochs} own epoch{'s' * (result.epochs > 1)}", result.personalised))
    alone = result.matrix is not None
    what = "own models of the silos" if alone else "model"
    lines = [console.shown(f"{result.model}, {what} after round {result.round}"), ""]
    header = ["silo", "images", *[cell for name, _ in columns for cell in (name, "95 % interval")]]
    rows = [
        [name, str(result.global_model.silos[index].examples), *[c for _, m in columns for c in _cells(m.silos[index])]]
        for index, name in enumerate(result.silos)
    ]
    rows.append(["all", str(result.global_model.pooled.examples), *[c for _, m in columns for c in _cells(m.pooled)]])
    lines += [text.table(header, rows), ""]
    lines += [console.shown(f"{name}: {_sentence(found, result)}") for name, found in columns if found.pooled.examples]
    if none := untested(result.silos, result.global_model):
        lines.append(console.shown(none))
    if result.matrix:
        lines += ["", "accuracy of each silo's own model (row) on each silo's test images (column)"]
        lines.append(
            text.table(
                ["", *result.silos],
                [
                    [name, *(text.percent(one.accuracy, 1) for one in row)]
                    for name, row in zip(result.silos, result.matrix, strict=True)
                ],
            )
        )
    return "\n".join(lines)


def untested(names: Sequence[str], found: Measures) -> str:
    """Say why some accuracies are n/a; empty where every silo has test images."""
    empty = [console.shown(name) for name, one in zip(names, found.silos, strict=True) if not one.examples]
    if empty and len(empty) == len(names):
        return "n/a: no silo has a test image, so nothing can be said of the model's accuracy"
    return f"n/a: no test image in {text.names(empty)}" if empty else ""


def _cells(share: Share) -> tuple[str, str]:
    return text.percent(share.accuracy), text.interval(share.low, share.high)


def _sentence(found: Measures, result: Evaluated) -> str:
    parts = [f"pooled {text.percent(found.pooled.accuracy)} of {found.pooled.examples}"]
    if found.worst is not None and sum(bool(one.examples) for one in found.silos) > 1:
        name = console.shown(result.silos[found.worst])
        parts += [
            f"worst silo {name} {text.percent(found.silos[found.worst].accuracy)}",
            f"mean of silos {text.percent(found.mean)}",
        ]
    if found.top5:
        parts.append(f"top-5 {text.percent(found.top5.accuracy)}")
    if found.merged:
        parts.append(f"{found.merged_classes} merged classes {text.percent(found.merged.accuracy)}")
    if found.loss is not None and found.calibration_error is not None:
        parts.append(f"loss {found.loss:.4f}, calibration error {text.percent(found.calibration_error)}")
    return "; ".join(parts)
