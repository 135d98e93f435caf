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
        for at, output in outputs(model, samples.images, seed):
            for name, value in task.sums(output, labels[at : at + BATCH]).items():
                found[name].add_(value)
        sums = {name: value.item() for name, value in found.items()}
        if math.isfinite(sums["loss"]):
            return Scores(len(labels), sums)
        # looked at only now: no other evaluation has to pay for it
        unanswered, sound = 0, task.zeros(labels.device)
        for at, output in outputs(model, samples.images, seed):
            answered = task.answered(output)
            unanswered += len(output) - int(answered.sum())
            for name, value in task.sums(output[answered], labels[at : at + BATCH][answered]).items():
                sound[name].add_(value)
    return Scores(len(labels), {name: value.item() for name, value in sound.items()} | {"loss": sums["loss"]}, unanswered)


def outputs(model: FlatModel, images: torch.Tensor, seed: int | None) -> Iterator[tuple[int, torch.Tensor]]:
    """Go through the model's outputs for (M, C, H, W) uint8 images, `BATCH` images each, and the number of the first one."""
    if seed is not None:
        seed_all(seed)
    model.module.eval()
    for start in range(0, len(images), BATCH):
        yield start, answers(model, images[start : start + BATCH])
