"""What is tried before the first round: training steps and evaluations on the batch shapes to come, leaving no trace.

A model of the user's own may fail only while it trains, only on the smallest batch, or keep state that neither travels nor
is saved. All of that shows in a few steps on made-up images, on every worker alike.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from silofold.core.digest import sha256
from silofold.core.errors import ConfigError, DivergedError, SilofoldError, UserCodeError
from silofold.core.fingerprint import TOLERANCE, Fingerprint, difference
from silofold.core.user_code import told
from silofold.training import local, model_file
from silofold.training.build import running
from silofold.training.module_state import as_bytes, attributes, kept, mark, streams, structure, tensors, told_of
from silofold.training.shapes import Shapes

if TYPE_CHECKING:
    from silofold.config import Local
    from silofold.training.flat import FlatModel

SEED = 7
TOLD = 256
"""Logits that workers compare beyond their digest."""


class Found(NamedTuple):
    """What the check found out.

    Attributes
    ----------
    fingerprint
        To compare with other workers.
    draws
        Whether the model draws random numbers in evaluation.
    """

    fingerprint: Fingerprint
    draws: bool


def check(model: FlatModel, settings: Local, sizes: Shapes, shape: tuple[int, ...], classes: int, name: str) -> Found:
    """Take steps and evaluate as a round does, on made-up images, and leave all as it was.

    Parameters
    ----------
    model
        Right after it was built.
    settings
        Of local training.
    sizes
        Batch shapes to try.
    shape
        (H, W) or (H, W, C) of the images.
    classes
        How many there are.
    name
        Of the model, as the settings have it.

    Raises
    ------
    UserCodeError
        The model raises, returns what it must not, takes tensors out of the flat vector, keeps state elsewhere, or cannot
        be written to a file.
    DivergedError
        One step makes it not finite.
    ConfigError
        It cannot be trained with these settings.
    """
    with running(name), kept(model):
        return _Check(model, settings, _images(sizes, shape, classes, model.vector.device), classes, name).run(sizes)


def check_again(
    model: FlatModel, again: FlatModel, settings: Local, sizes: Shapes, shape: tuple[int, ...], classes: int, name: str
) -> None:
    """See that a model which was built a second time is the same: nothing in it was drawn from a stream of its own.

    Parameters
    ----------
    model, again
        Both as they were built.
    settings, sizes, shape, classes, name
        As in `check`.

    Raises
    ------
    UserCodeError
        They are not the same.
    """
    with running(name):
        prints = []
        for one in (model, again):
            with kept(one):
                small = Shapes((), sizes.test[:1])
                prints.append(
                    _Check(one, settings, _images(small, shape, classes, one.vector.device), classes, name).run(small)
                )
        found = difference([one.fingerprint for one in prints], [0, 0])
    if found:
        raise UserCodeError(
            "model-unequal",
            f"model {name}: built twice from one seed, it differs in {found[2]}; expected all randomness from the "
            "generators that the run seeds: torch's, numpy.random's and random's own functions",
        )


def _images(sizes: Shapes, shape: tuple[int, ...], classes: int, device: torch.device) -> local.Samples:
    count = max((*sizes.train, *sizes.test), default=1)
    pixels = np.random.Generator(np.random.Philox(SEED)).integers(0, 256, (count, *shape), np.uint8)
    return local.load(pixels, np.arange(count, dtype=np.int64) % classes, device)


class _Check:
    """The steps of one check.

    Parameters
    ----------
    model, settings, classes, name
        See `check`.
    images
        Made-up images and labels, as many as the largest batch.
    """

    def __init__(self, model: FlatModel, settings: Local, images: local.Samples, classes: int, name: str) -> None:
        self._model, self._settings, self._images, self._classes, self._name = model, settings, images, classes, name
        self._start = model.vector.clone()
        self._exact = model.vector.device.type == "cpu" and not any(
            isinstance(one, torch.jit.ScriptModule) for one in model.module.modules()
        )
        """Whether the same work gives the same bits: a GPU may add in another order, compiled code changes after a call."""

    def run(self, sizes: Shapes) -> Found:
        """Try all, in an order in which what one step leaves behind shows in the next."""
        least, most = (sizes.train[:1], sizes.train[1:])
        before, file = tensors(self._model), self._beside()
        state = attributes(self._model.module)
        logits, draws = self._evaluate(sizes.test[0] if sizes.test else 1)
        try:
            moved = self._step(least[0]) if least else self._start
        except Exception as fault:
            if least[0] > 1 or not most or isinstance(fault, SilofoldError):
                raise
            self._step(most[0])  # if it raises here too, then the number of images is not to blame
            raise self._single(fault) from fault
        self._look(before, file)
        for size in most:
            self._step(size)
            self._look(before, file)
        again, _ = self._evaluate(len(logits))
        twice = self._step(least[0]) if least else self._start
        if not (self._same(logits, again) and self._same(moved, twice)):
            raise UserCodeError("model-state", self._story_of_state(state))
        for size in sizes.test[1:]:
            self._evaluate(size)
        self._look(before, file)
        self._look_at_views()
        self._model.file = model_file.look(self._model, self._name)
        kept = [bytes(as_bytes(value)) for value in self._model.state[1:]]
        return Found(
            Fingerprint(
                structure=structure(self._model),
                constants=sha256(*kept),
                vector=sha256(as_bytes(self._start)),
                answers=sha256(as_bytes(logits), as_bytes(moved)),
                logits=[float(value) for value in logits.flatten()[:TOLD]],
                attributes=attributes(self._model.module, holding=True),
            ),
            draws,
        )

    def _evaluate(self, size: int) -> tuple[torch.Tensor, bool]:
        """Evaluate a batch from the initial model; return its logits and whether random numbers were drawn."""
        self._reset()
        self._model.module.eval()
        before = streams(self._model)
        with torch.inference_mode():
            logits = local.answers(self._model, self._images.images[:size])
        if not self._model.task.answered(logits).all():
            raise UserCodeError(
                "model-output",
                f"model {self._name}: an untrained model gives logits that are not finite, {logits[0, :3].tolist()}",
            )
        return logits.detach().clone(), before != streams(self._model)

    def _step(self, size: int) -> torch.Tensor:
        """Take one training step from the initial model and return the vector after it."""
        self._reset()
        module, step = self._model.module, local.Step(self._model, self._settings)
        step.begin(torch.zeros_like(self._model.gradient))
        module.train()
        before = streams(self._model)[1:]

        def look(_: object, __: object, logits: object) -> None:
            found = self._model.task.check(module, logits, size)
            if not found.requires_grad:
                raise UserCodeError(
                    "model-output",
                    f"model {self._name}: its logits in training do not depend on its parameters by a gradient: are they "
                    "detached, or made under torch.no_grad()?",
                )

        handle = module.register_forward_hook(look)
        try:
            step(self._images.images[:size], self._images.labels[:size])
        finally:
            handle.remove()
        if self._settings.cuda_graph and before != streams(self._model)[1:]:
            raise ConfigError(
                "settings-contradict",
                f"local.cuda_graph = true: model {self._name} draws from numpy's or Python's random in a training step, "
                "and a recorded graph would repeat one draw for ever; expected torch's generators, or "
                "local.cuda_graph = false",
            )
        loss = step.end()["loss"]
        if not (math.isfinite(loss) and bool(torch.isfinite(self._model.vector).all())):
            raise DivergedError(
                "diverged-start",
                f"model {self._name}: one training step on {size} images with local.lr = {self._settings.lr:g} gives a loss "
                f"of {loss / size:g} and parameters that are not all finite",
            )
        return self._model.vector.clone()

    def _single(self, fault: BaseException) -> UserCodeError:
        return UserCodeError(
            "model-batch",
            f"model {self._name}: {told(fault)}: some silo's last batch has one image with local.batch_size = "
            f"{self._settings.batch_size}; expected local.drop_last = true, another local.batch_size, or a normalisation "
            "that one image suffices for",
        )

    def _reset(self) -> None:
        """Begin anew, with the same random numbers."""
        self._model.load(self._start)
        self._model.gradient.zero_()
        local.seed_all(SEED)

    def _look(self, before: dict[str, tuple[object, ...]], file: dict[str, str]) -> None:
        """See that tensors are those that were there, where they were, and that nothing else moved that is to be saved."""
        model, now = self._model, tensors(self._model)
        what = f"model {self._name}: "
        for key in now.keys() - before.keys():
            raise UserCodeError("model-tensors", f"{what}{key} was made while it ran; expected all of them from the start")
        for key, facts in before.items():
            if now.get(key) != facts:
                raise UserCodeError(
                    "model-tensors", f"{what}while it ran, {key} became {told_of(now.get(key))}; it was {told_of(facts)}"
                )
        model.check_places()
        for key, value in self._beside().items():
            if file.get(key) != value:
                raise UserCodeError(
                    "model-state",
                    f"{what}{key} moves in training, and is not both sent and saved; expected a persistent float32 buffer",
                )

    def _look_at_views(self) -> None:
        """See that no attribute still is a view of where a parameter lay before it moved into the flat vector."""
        for view in self._model.views:
            if view.held.get(view.key) is view.value:
                raise UserCodeError(
                    "model-tensors",
                    f"model {self._name}: the attribute {view.name} is a view of the memory of {view.of}, which has moved "
                    "since: it would never change; expected it to be taken from the parameter in forward",
                )

    def _same(self, one: torch.Tensor, other: torch.Tensor) -> bool:
        if self._exact:
            return bytes(as_bytes(one)) == bytes(as_bytes(other))
        return bool(((one - other).abs() <= TOLERANCE * one.abs().max().clamp(min=1)).all())

    def _story_of_state(self, before: dict[str, str]) -> str:
        after = attributes(self._model.module)
        names = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
        culprits = f"the attribute {', '.join(names[:3])}" if names else "something that is no attribute of a module"
        return (
            f"model {self._name}: the same step from the same parameters and random numbers gave something else the second "
            f"time: it keeps state in {culprits}, which would pass from silo to silo; expected a float32 buffer "
            "(register_buffer), written in place, and random numbers of torch, numpy or random"
        )

    def _beside(self) -> dict[str, str]:
        """Digest what is in the final file and not in the vector, and what is in the vector and not in that file.

        Integer buffers are left out: they start each silo's training as the model was built.
        """
        state = self._model.module.state_dict()
        others = {
            key: mark(value) for key, value in state.items() if not isinstance(value, torch.Tensor) or value.is_complex()
        }
        buffers = self._model.module.named_buffers()
        return others | {key: mark(value) for key, value in buffers if key not in state and value.is_floating_point()}
