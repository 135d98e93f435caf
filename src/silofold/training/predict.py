"""What a model says of each image of a split, for measures that a count of right answers does not hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from silofold.core.errors import DivergedError
from silofold.core.predictions import TOP, Predictions
from silofold.training.scoring import outputs
from silofold.training.tasks.classification import Classification

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from silofold.training.flat import FlatModel
    from silofold.training.local import Samples


def predict(model: FlatModel, samples: Samples, silo: int, classes: int, seed: int) -> Predictions:
    """Let the model answer every image of a silo's split, in the batches of `scoring.evaluate`.

    Parameters
    ----------
    model
        What is asked.
    samples
        The split.
    silo
        Its index.
    classes
        How many classes there are.
    seed
        For a model that draws random numbers in evaluation.

    Raises
    ------
    DivergedError
        The model gives no finite logit for an image.
    """
    logs = log_probabilities(model, samples.images, classes, seed)
    labels = samples.labels.cpu().numpy()
    order = np.argsort(-logs, axis=1, kind="stable")[:, :TOP]
    rows = np.arange(len(labels))
    return Predictions(
        silo=np.full(len(labels), silo, np.int32),
        label=labels.astype(np.int32),
        top=order.astype(np.int32),
        confidence=np.exp(logs[rows, order[:, 0]]).astype(np.float32),
        loss=-logs[rows, labels],
    )


def log_probabilities(model: FlatModel, images: torch.Tensor, classes: int, seed: int) -> NDArray[np.float64]:
    """Compute the (M, classes) float64 logarithms of the probabilities for (M, C, H, W) uint8 images.

    Raises
    ------
    DivergedError
        The model gives no finite logit for an image: NaN is no answer.
    """
    task = Classification(classes)
    with torch.inference_mode():
        parts = [task.log_probabilities(output) for _, output in outputs(model, images, seed)]
    logs: NDArray[np.float64] = torch.cat(parts).cpu().numpy() if parts else np.empty((0, classes))
    unanswered = int((~np.isfinite(logs)).any(axis=1).sum())
    if unanswered:
        raise DivergedError(
            "diverged-model",
            f"the model gives no finite logit for {unanswered} of {len(images)} images: it has diverged, or its code "
            "divides by zero on them",
        )
    return logs
