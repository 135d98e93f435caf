"""Evaluating a model on a split, batch by batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from silofold.training.local import answers, seed_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from silofold.training.flat import FlatModel
    from silofold.training.local import Samples

BATCH = 256
"""Images a batch: fixed, since another batch shape may round otherwise."""


class Scores(NamedTuple):
    """What evaluation found.

    Attributes
    ----------
    examples
        Images of the split.
    sums
        What the task adds up over them: ``loss`` and others.
    unanswered
        Images that got no answer: no finite logit.
    """

    examples: int
    sums: dict[str, float]
    unanswered: int = 0


def evaluate(model: FlatModel, samples: Samples, seed: int | None = None) -> Scores:
    """Evaluate the model on every example of a split, in the split's order.

    An example without a finite logit is not right, whatever its label.

    Parameters
    ----------
    model
        What is evaluated.
    samples
        The split.
    seed
        For a model that draws random numbers in evaluation; none: it draws none.
    """
    task, labels = model.task, samples.labels
    with torch.inference_mode():
        # kept on the device: a number asked for would make every batch wait for a GPU
        found = task.zeros(labels.device)
        for output, y in zip(outputs(model, samples.images, seed), torch.split(labels, BATCH), strict=False):
            for name, value in task.sums(output, y).items():
                found[name] += value
        sums = {name: value.item() for name, value in found.items()}
        if math.isfinite(sums["loss"]):
            return Scores(len(labels), sums)
        # looked at only now: no other evaluation has to pay for it
        unanswered, sound = 0, task.zeros(labels.device)
        for output, y in zip(outputs(model, samples.images, seed), torch.split(labels, BATCH), strict=False):
            answered = task.answered(output)
            unanswered += len(y) - int(answered.sum())
            for name, value in task.sums(output[answered], y[answered]).items():
                sound[name] += value
    return Scores(len(labels), {name: value.item() for name, value in sound.items()} | {"loss": sums["loss"]}, unanswered)


def outputs(model: FlatModel, images: torch.Tensor, seed: int | None) -> Iterator[torch.Tensor]:
    """Go through the model's outputs for (M, C, H, W) uint8 images, `BATCH` images each."""
    if seed is not None:
        seed_all(seed)
    model.module.eval()
    for start in range(0, len(images), BATCH):
        yield answers(model, images[start : start + BATCH])
