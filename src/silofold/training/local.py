"""Training and evaluating one silo: uint8 images in, a moved vector out.

Nothing here draws from a global generator or reads a clock for anything but a deadline, so what comes out depends on the
data, the settings and the seeds alone.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional

from silofold import seeds

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from silofold.config import Local
    from silofold.training.flat import FlatModel

EVALUATION_BATCH = 256
"""Images a batch in evaluation: fixed, since another batch shape may round otherwise."""


class Samples(NamedTuple):
    """A split on the training device.

    Attributes
    ----------
    images
        (M, C, H, W) uint8.
    labels
        (M,) int64.
    """

    images: torch.Tensor
    labels: torch.Tensor


class Outcome(NamedTuple):
    """What local training did.

    Attributes
    ----------
    steps
        Optimizer steps taken.
    seen
        Examples that they covered.
    loss_sum
        Loss summed over those examples.
    correct
        How many of them the model had right when it saw them.
    seconds
        Wall time.
    reason
        Why training did not finish; empty when it did.
    """

    steps: int
    seen: int
    loss_sum: float
    correct: int
    seconds: float
    reason: str


class Scores(NamedTuple):
    """What evaluation found: examples, how many are right, loss summed over them."""

    examples: int
    correct: int
    loss_sum: float


def load(images: NDArray[np.uint8], labels: NDArray[np.int64], device: torch.device) -> Samples:
    """Move a split to the device.

    Parameters
    ----------
    images
        (M, H, W) or (M, H, W, C) uint8.
    labels
        (M,) int64.
    device
        Where the model lives.
    """
    pixels = torch.from_numpy(images)
    pixels = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return Samples(pixels.to(device), torch.from_numpy(labels).to(device))


def steps_per_epoch(examples: int, settings: Local) -> int:
    """Count the batches of an epoch."""
    return examples // settings.batch_size if settings.drop_last else math.ceil(examples / settings.batch_size)


def train(
    model: FlatModel,
    samples: Samples,
    settings: Local,
    momentum: torch.Tensor,
    rng: np.random.Generator,
    deadline: float,
) -> Outcome:
    """Train the model on one silo by SGD with momentum, in place.

    Parameters
    ----------
    model
        Starts from the global model, ends as the silo's own.
    samples
        The silo's training split.
    settings
        Epochs, batch size and the optimizer's settings.
    momentum
        (T,) float32 momentum of the trainable elements, updated in place.
    rng
        Draws the order of the examples, once an epoch.
    deadline
        On the clock of `time.monotonic`; looked at before every step.
    """
    begin = time.perf_counter()
    device = model.vector.device
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    examples, steps, seen = len(samples.labels), 0, 0
    per_epoch = steps_per_epoch(examples, settings)
    weights, gradient = model.trainable, model.gradient
    model.module.train()
    for _ in range(settings.epochs):
        order = torch.from_numpy(rng.permutation(examples)).to(device)
        images, labels = samples.images[order], samples.labels[order]
        for start in range(0, per_epoch * settings.batch_size, settings.batch_size):
            if time.monotonic() > deadline:
                return Outcome(steps, seen, float(loss_sum), int(correct), time.perf_counter() - begin, "out of time")
            y = labels[start : start + settings.batch_size]
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                logits = model.module(images[start : start + settings.batch_size].to(torch.float32).div_(255))
                loss = functional.cross_entropy(logits, y)
            gradient.zero_()
            loss.backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                if settings.weight_decay:
                    gradient.add_(weights, alpha=settings.weight_decay)
                if settings.momentum:
                    momentum.mul_(settings.momentum).add_(gradient)
                weights.add_(momentum if settings.momentum else gradient, alpha=-settings.lr)
                loss_sum += loss * len(y)
                correct += (logits.argmax(1) == y).sum()
            steps += 1
            seen += len(y)
    total = float(loss_sum)
    reason = "" if math.isfinite(total) else f"the loss became {total / max(seen, 1)}"
    return Outcome(steps, seen, total, int(correct), time.perf_counter() - begin, reason)


def evaluate(model: FlatModel, samples: Samples) -> Scores:
    """Evaluate the model on every example of a split, in the split's order."""
    correct, loss_sum = 0, 0.0
    model.module.eval()
    with torch.inference_mode():
        for start in range(0, len(samples.labels), EVALUATION_BATCH):
            y = samples.labels[start : start + EVALUATION_BATCH]
            logits = model.module(samples.images[start : start + EVALUATION_BATCH].to(torch.float32).div_(255))
            correct += int((logits.argmax(1) == y).sum())
            loss_sum += float(functional.cross_entropy(logits.double(), y, reduction="sum"))
    return Scores(len(samples.labels), correct, loss_sum)


def seed_torch(seed: int, number: int, silo: int) -> None:
    """Seed torch's default generators for one silo's round, for models with dropout: they know no other generator."""
    torch.manual_seed(seeds.torch_seed(seed, "dropout", number, silo))
