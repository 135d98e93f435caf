"""Runs as ``compare`` and ``report`` see them, made by hand: no model is asked and no file is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from records import summary
from silofold.commands.results.looks import Look
from silofold.core import recipes
from silofold.core.predictions import TOP, Predictions
from silofold.core.summary import SiloSummary
from silofold.data import silo as silos
from silofold.evaluation import measures
from silofold.record.answers import Answers
from silofold.record.run_record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from silofold.core.summary import Summary


def look(
    right: Sequence[Sequence[bool]],
    *,
    name: str = "run",
    silo_names: Sequence[str] = (),
    classes: Sequence[str] = ("a", "b", "c"),
    rounds: list[Summary] | None = None,
    matrix: bool = False,
) -> Look:
    """Make a run whose model gets these test images right, by silo."""
    names = [*silo_names, *(f"silo_{index}" for index in range(len(silo_names), len(right)))]
    folder = silos.Manifest(1, tuple(classes), (8, 8), "none", "made by a test", tuple(map(_info(classes), names, right)))
    data = [predictions(index, row, len(classes)) for index, row in enumerate(right)]
    joined = Predictions(*(np.concatenate([getattr(one, key) for one in data]) for key in Predictions.__dataclass_fields__))
    sizes = [len(row) for row in right]
    answers = Answers(
        round=3, model_sha256="ab" * 32, tests=tuple(one.test.sha256 for one in folder.silos), global_model=joined,
        matrix=np.array([[size // 2 for size in sizes] for _ in sizes], np.int64) if matrix else None,
    )  # fmt: skip
    record = msgspec.convert(RECORD | {"classes": list(classes)}, Record)
    told = [_entry(index, one, row) for index, (one, row) in enumerate(zip(names, right, strict=True))]
    return Look(
        name=name, path=Path("nowhere"), kind="local" if matrix else "federated", record=record,
        rounds=rounds or [summary(number, silos=told) for number in (1, 2, 3)], answers=answers, data=folder,
        measures=measures.measure(joined, classes, len(right)), personalised=None,
    )  # fmt: skip


def predictions(silo: int, right: Sequence[bool], classes: int) -> Predictions:
    """Make predictions of one silo."""
    labels = np.arange(len(right), dtype=np.int32) % classes
    first = np.where(right, labels, (labels + 1) % classes)
    top = np.stack([(first + step) % classes for step in range(min(TOP, classes))], axis=1).astype(np.int32)
    size = len(right)
    return Predictions(
        np.full(size, silo, np.int32),
        labels,
        top.reshape(size, min(TOP, classes)),
        np.full(size, 0.8, np.float32),
        np.ones(size),
    )


def _info(classes: Sequence[str]) -> Callable[[str, Sequence[bool]], silos.SiloInfo]:
    def make(name: str, right: Sequence[bool]) -> silos.SiloInfo:
        counts = tuple(int(n) for n in np.bincount(np.arange(len(right)) % len(classes), minlength=len(classes)))
        train = silos.SplitInfo(len(classes), "0" * 64, (1,) * len(classes))
        return silos.SiloInfo(name, f"{abs(hash(name))}.h5", (name,), train, silos.SplitInfo(len(right), "0" * 64, counts))

    return make


def _entry(index: int, name: str, right: Sequence[bool]) -> SiloSummary:
    accuracy = sum(right) / len(right) if right else None
    return SiloSummary(silo=index, name=name, accuracy=accuracy, test_examples=len(right), train_examples=3, train_loss=1.0)


RECORD = {
    "silofold": "0", "git_revision": "", "started": "", "settings": msgspec.to_builtins(recipes.resolve({}, "a test")),
    "image_shape": [8, 8], "silos": [{"name": "a", "train": "0" * 64, "test": "0" * 64}],
    "data_digest": "0" * 64, "parameters": 9, "versions": {}, "ranks": [{"rank": 0, "role": "scheduler", "host": "here"}],
}  # fmt: skip
