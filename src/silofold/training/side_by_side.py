"""Silos trained side by side: one step moves the models of several, by `torch.func`.

The same mathematics as `local.train` for each of them: the same order of its examples, the same batches, the same number
of steps. Sums over a batch are computed by other kernels, so they round otherwise.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import torch
from torch.nn import functional

from silofold.errors import ConfigError
from silofold.training import local
from silofold.training.graph import GraphStep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from silofold.config import Local
    from silofold.training.flat import FlatModel

    Differentiation: TypeAlias = Callable[..., tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]]
    """(A, T) weights, (A, B, C, H, W) images, (A, B) labels, (A,) sizes → (A, T) gradient, (A,) loss, (A, B, C) logits."""


class Member(NamedTuple):
    """A silo of a group.

    Attributes
    ----------
    samples
        Its training split.
    rng
        Draws the order of its examples, once an epoch.
    momentum
        (T,) float32, updated in place; none: it starts at zero and nobody keeps it.
    """

    samples: local.Samples
    rng: np.random.Generator
    momentum: torch.Tensor | None


class Trainer:
    """Trains groups of silos from the same model: a group of one by `local.train`, a larger one side by side.

    Parameters
    ----------
    model
        Holds the model that a group starts from, and afterwards that of one silo after the other.
    settings
        ``side_by_side`` is the size of the largest group: so many models and momenta are held, and no more.
    image_shape
        (H, W) or (H, W, C): what the model is tried on if there are to be groups.

    Raises
    ------
    ConfigError
        The model cannot be trained side by side, or a CUDA graph is asked for where there is no GPU.
    """

    def __init__(self, model: FlatModel, settings: Local, image_shape: tuple[int, ...]) -> None:
        self.model, self._settings = model, settings
        if settings.cuda_graph and model.vector.device.type != "cuda":
            raise ConfigError(
                f"local.cuda_graph = true: this worker trains on the device {model.vector.device}; expected a GPU, or "
                "local.cuda_graph = false"
            )
        self._step = GraphStep(model, settings) if settings.cuda_graph else local.Step(model, settings)
        self._blank = torch.empty_like(model.gradient)
        self._differentiate = _differentiation(model, settings)
        room = settings.side_by_side if settings.side_by_side > 1 else 0
        self._vectors = model.vector.new_empty(room, model.size)
        self._momenta = model.vector.new_empty(room, len(model.gradient))
        self._rows: list[int] = []
        """Where the models of the last group's members lie in `_vectors`; empty after a group of one."""
        if room:
            _check(model, self._differentiate, settings, image_shape)

    def train(self, group: Sequence[Member], deadline: float) -> list[local.Outcome]:
        """Train the silos of a group, at most ``side_by_side``, and say how it went with each; see `take`.

        Parameters
        ----------
        group
            The silos.
        deadline
            On the clock of `time.monotonic`; looked at before every step. Silos that have steps left are out of time.
        """
        if len(group) > 1:
            return self._train_many(group, deadline)
        self._rows = []
        samples, rng, kept = group[0]
        momentum = self._blank.zero_() if kept is None else kept
        return [local.train(self.model, samples, self._settings, momentum, rng, deadline, self._step)]

    def take(self, index: int) -> None:
        """Let the model be that of a member of the group that was trained last, whatever was done to it since."""
        if self._rows:
            self.model.vector.copy_(self._vectors[self._rows[index]])

    def _train_many(self, group: Sequence[Member], deadline: float) -> list[local.Outcome]:
        begin, settings = time.perf_counter(), self._settings
        examples = np.array([len(member.samples.labels) for member in group])
        # the longest first: those that have a step to do are then the first rows, and no other row is touched
        ranking = np.argsort(-examples, kind="stable")
        self._rows = np.argsort(ranking, kind="stable").tolist()
        members = [group[index] for index in ranking]
        for row, member in enumerate(members):
            self._vectors[row] = self.model.vector
            self._momenta[row] = 0.0 if member.momentum is None else member.momentum
        device = self.model.vector.device
        loss_sum = torch.zeros(len(group), dtype=torch.float64, device=device)
        correct = torch.zeros(len(group), dtype=torch.int64, device=device)
        steps, seen, late = np.zeros(len(group), np.int64), np.zeros(len(group), np.int64), False
        self.model.module.train()
        for images, labels, size, sizes in _batches(members, settings):
            if late := time.monotonic() > deadline:
                break
            active = len(sizes)
            momenta = self._momenta[:active]
            weights = self._vectors[:active, : momenta.shape[1]]
            gradient, (losses, logits) = self._differentiate(weights, images, labels, size)
            local.descend(weights, gradient, momenta, settings)
            there = torch.arange(labels.shape[1], device=device) < size[:, None]
            loss_sum[:active] += losses * size
            correct[:active] += ((logits.argmax(2) == labels) & there).sum(1)
            steps[:active] += 1
            seen[:active] += sizes
        for row, member in enumerate(members):
            if member.momentum is not None:
                member.momentum.copy_(self._momenta[row])
        sums, rights, seconds = loss_sum.tolist(), correct.tolist(), time.perf_counter() - begin
        outcomes = []
        for number, row in zip(examples.tolist(), self._rows, strict=True):
            behind = int(steps[row]) < settings.epochs * local.steps_per_epoch(number, settings)
            reason = local.objection(sums[row], int(seen[row]), late=late and behind)
            outcomes.append(local.Outcome(int(steps[row]), int(seen[row]), sums[row], rights[row], seconds, reason))
        return outcomes


def _batches(
    members: Sequence[Member], settings: Local
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, NDArray[np.int64]]]:
    """Go through the steps of silos, the largest of which comes first, as far as each has one.

    Yields
    ------
    images
        (A, B, C, H, W) uint8 of the first A silos. Where a silo's batch is shorter than another's, its first image is
        repeated: nothing comes in that could give a number which is none.
    labels
        (A, B) int64.
    size
        (A,) int64 on the device: images of each silo that count.
    sizes
        The same on the host.
    """
    width = settings.batch_size
    pictures, labels = (torch.cat(parts) for parts in zip(*(member.samples for member in members), strict=True))
    examples = [len(member.samples.labels) for member in members]
    starts = np.cumsum([0, *examples])
    batches = np.array([local.steps_per_epoch(number, settings) for number in examples])
    for _ in range(settings.epochs):
        places = np.zeros((batches[0], len(members), width), np.int64)
        sizes = np.zeros((batches[0], len(members)), np.int64)
        for row, (member, count) in enumerate(zip(members, batches.tolist(), strict=True)):
            order = starts[row] + member.rng.permutation(examples[row])
            for number in range(count):
                batch = order[number * width : (number + 1) * width]
                sizes[number, row] = len(batch)
                places[number, row] = batch[0]
                places[number, row, : len(batch)] = batch
        places_there, sizes_there = (torch.from_numpy(array).to(labels.device) for array in (places, sizes))
        for number in range(batches[0]):
            active = int(np.count_nonzero(batches > number))
            place = places_there[number, :active, : sizes[number].max()]
            yield pictures[place], labels[place], sizes_there[number, :active], sizes[number, :active]


def _differentiation(model: FlatModel, settings: Local) -> Differentiation:
    """Make the function that differentiates the losses of A silos with respect to the weights of each."""
    sizes = [shape.numel() for shape in model.shapes.values()]

    def loss(
        weights: torch.Tensor, images: torch.Tensor, labels: torch.Tensor, size: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        parts = torch.split(weights, sizes)  # not slices: the gradient of each would be as long as the whole vector
        named = {name: part.view(shape) for (name, shape), part in zip(model.shapes.items(), parts, strict=True)}
        with local.autocast(weights.device, settings):
            logits = torch.func.functional_call(model.module, named, (images.to(torch.float32).div_(255),))
            each = functional.cross_entropy(logits, labels, reduction="none")
        there = torch.arange(len(labels), device=labels.device) < size
        return torch.where(there, each, 0.0).sum() / size, logits

    return torch.func.vmap(torch.func.grad_and_value(loss, has_aux=True), randomness="error")


def _check(model: FlatModel, differentiate: Differentiation, settings: Local, image_shape: tuple[int, ...]) -> None:
    """Try two steps of the model, and leave it as it was.

    Raises
    ------
    ConfigError
        It cannot be trained side by side with the same outcome as alone.
    """
    device, shape = model.vector.device, (*image_shape, 1)[2:3] + image_shape[:2]
    images = torch.linspace(0, 255, 3 * math.prod(shape), device=device).to(torch.uint8).view(3, *shape)
    pairs = torch.stack([images[[0, 1]], images[[0, 2]]])
    before = [value.clone() for value in model.state]
    model.module.train()
    reason = ""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            with torch.no_grad():
                one, other = (model.module(pair.to(torch.float32).div_(255))[0] for pair in pairs)
            if any(not torch.equal(value, old) for value, old in zip(model.state, before, strict=True)):
                reason = "its forward pass changes its buffers, as BatchNorm does"
            elif not torch.allclose(one, other, rtol=1e-3, atol=1e-6):
                reason = "what it says of an image depends on chance, as with dropout, or on the other images of the batch"
            else:
                labels, size = torch.zeros(2, 2, dtype=torch.int64, device=device), torch.tensor([2, 1], device=device)
                differentiate(model.trainable.repeat(2, 1), pairs, labels, size)
        except (TypeError, ValueError, RuntimeError) as fault:
            reason = f"torch.func says: {(str(fault).splitlines() or [''])[0]}"
    for value, old in zip(model.state, before, strict=True):
        value.copy_(old)
    if reason:
        raise ConfigError(
            f"local.side_by_side = {settings.side_by_side}: model {type(model.module).__name__} cannot be trained side by "
            f"side: {reason}; expected another model, or local.side_by_side = 1"
        )
