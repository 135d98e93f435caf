"""Training one silo: uint8 images in, a moved vector out.

Nothing here draws from a global generator or reads a clock for anything but a deadline, so what comes out depends on the
data, the settings and the seeds alone.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, NamedTuple

import torch

from silofold.core import seeds
from silofold.core.reports import Cause
from silofold.core.user_code import lacks_memory, token, told
from silofold.training.unreached import Unreached

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from silofold.config import Local
    from silofold.training.flat import FlatModel


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

    @property
    def size(self) -> int:
        """Bytes of both."""
        return self.images.nbytes + self.labels.nbytes


class Outcome(NamedTuple):
    """What local training did.

    Attributes
    ----------
    steps
        Optimizer steps taken.
    seen
        Examples that they covered.
    sums
        What the task adds up, over those examples as the model saw them: ``loss`` and others.
    seconds
        Wall time.
    reason
        Why training did not finish; empty when it did.
    cause
        The same as a word.
    raised
        Class and place of an exception that the model raised.
    """

    steps: int
    seen: int
    sums: dict[str, float]
    seconds: float
    reason: str
    cause: Cause = Cause.NONE
    raised: str = ""


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


class Step:
    """A step of SGD with momentum on one batch; what it counts stays on the device, so that no step waits for it.

    Parameters
    ----------
    model
        What is trained, in place.
    settings
        The optimizer's settings.

    Attributes
    ----------
    momentum : torch.Tensor
        (T,) float32 momentum of the trainable elements, updated in place.
    stream : torch.cuda.Stream or None
        Where it must be taken if others are taken at the same time; none: it must not.
    """

    stream: torch.cuda.Stream | None = None

    def __init__(self, model: FlatModel, settings: Local) -> None:
        device = model.vector.device
        self._model, self._settings, self.momentum = model, settings, torch.empty(0, device=device)
        self._sums = model.task.zeros(device)
        self._unreached = Unreached(())

    def seed(self, seed: int) -> None:
        """Seed what models with dropout draw from."""
        seed_all(seed)

    def begin(self, momentum: torch.Tensor) -> None:
        """Take the momentum that is to be updated, and count from 0."""
        self.momentum = momentum
        for value in self._sums.values():
            value.zero_()
        self._watch()

    def _watch(self) -> None:
        """Find out anew which parameters weight decay must leave alone: each silo's training tells for itself."""
        self._unreached.leave()
        if self._settings.weight_decay:
            self._unreached = Unreached(self._model.parameters)

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Move the model by one batch of (B, C, H, W) uint8 images and (B,) int64 labels."""
        gradient, task = self._model.gradient, self._model.task
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._settings.precision == "bfloat16"):
            output = answers(self._model, images)
            loss = task.loss(output, labels)
        gradient.zero_()
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            descend(self._model.trainable, gradient, self.momentum, self._settings, self._unreached)
            for name, value in task.sums(output, labels, loss).items():
                self._sums[name].add_(value)

    def end(self) -> dict[str, float]:
        """Return what the task adds up, over the examples since `begin`."""
        self._unreached.leave()
        return {name: value.item() for name, value in self._sums.items()}


def descend(
    weights: torch.Tensor, gradient: torch.Tensor, momentum: torch.Tensor, settings: Local, unreached: Unreached
) -> None:
    """Move weights by SGD, in place; (T,) float32 each. The gradient is used up."""
    if settings.weight_decay:
        gradient.add_(weights, alpha=settings.weight_decay)
        unreached.still()
    if settings.momentum:
        momentum.mul_(settings.momentum).add_(gradient)
    weights.add_(momentum if settings.momentum else gradient, alpha=-settings.lr)


class Training:
    """The training of a model on one silo by SGD with momentum, in place: step by step, so that several can take turns.

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
    step
        A step of this model with these settings that is used again and again; none: a new one.
    """

    def __init__(
        self,
        model: FlatModel,
        samples: Samples,
        settings: Local,
        momentum: torch.Tensor,
        rng: np.random.Generator,
        deadline: float,
        step: Step | None = None,
    ) -> None:
        self._begin, self._deadline, self._model = time.perf_counter(), deadline, model
        self._step = step or Step(model, settings)
        self._step.begin(momentum)
        self._batches = _batches(samples, settings, rng)
        self._steps, self._seen, self._late = 0, 0, False
        model.module.train()

    def advance(self) -> bool:
        """Take a step; False if there is none left or no time for it. A GPU may still be at work when it returns."""
        batch = next(self._batches, None)
        if batch is None or (late := time.monotonic() > self._deadline):
            self._late = batch is not None and late
            return False
        self._step(*batch)
        self._steps += 1
        self._seen += len(batch[1])
        return True

    def end(self) -> Outcome:
        """Wait for the device, and tell how it went."""
        sums = self._step.end()
        self._model.check_places()
        reason, cause = "", Cause.NONE
        if not math.isfinite(sums["loss"]):
            reason, cause = f"the loss became {sums['loss'] / max(self._seen, 1)}", Cause.DIVERGED
        elif self._late:
            reason, cause = "out of time", Cause.LATE
        return Outcome(self._steps, self._seen, sums, time.perf_counter() - self._begin, reason, cause)

    def to_end(self) -> Outcome:
        """Take all steps, and tell how it went."""
        while self.advance():
            pass
        return self.end()


def _batches(samples: Samples, settings: Local, rng: np.random.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Go through the images and labels of every batch: one gather an epoch, of which batches are slices."""
    examples, size = len(samples.labels), settings.batch_size
    for _ in range(settings.epochs):
        order = torch.from_numpy(rng.permutation(examples)).to(samples.labels.device)
        images, labels = samples.images[order], samples.labels[order]
        for start in range(0, steps_per_epoch(examples, settings) * size, size):
            yield images[start : start + size], labels[start : start + size]


def broken_off(fault: BaseException, seconds: float) -> Outcome:
    """Tell of training that an exception ended: it is the model's, but for a full memory."""
    if lacks_memory(fault):
        return Outcome(0, 0, {}, seconds, told(fault), Cause.MEMORY)
    return Outcome(0, 0, {}, seconds, told(fault), Cause.RAISED, token(fault))


def answers(model: FlatModel, images: torch.Tensor) -> torch.Tensor:
    """Let a model answer (B, C, H, W) uint8 images; what it returns is looked at each time, for it may change its mind.

    Raises
    ------
    UserCodeError
        It is not what the model's task asks for.
    """
    task = model.task
    return task.check(model.module, model.module(task.prepare(images)), len(images))


def seed_all(seed: int) -> None:
    """Seed every global generator that a model may draw from: torch's, numpy's and Python's."""
    seeds.seed_libraries(seed)
    seed_torch(seed)


def seed_torch(seed: int) -> None:
    """Seed torch's default generators, for models with dropout: they know no other."""
    torch.default_generator.manual_seed(seed)
    # not torch.manual_seed: where CUDA is not in use it keeps the seed and a stack trace for later, which takes 2 ms
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)
