from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from silofold import seeds
from silofold.config import Local
from silofold.errors import ConfigError
from silofold.training import build, local, side_by_side
from silofold.training.flat import FlatModel
from silofold.training.side_by_side import Member, Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CPU = torch.device("cpu")
CLASSES = 3
NEVER = float("inf")
SIZES = (7, 23, 5, 16)
"""Silos of one batch and a bit, of many, of exactly one, and of full batches at batch sizes 4 and 8."""


def dense() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, CLASSES))


def frozen() -> nn.Module:
    """A layer that is not trained, one that is tied to another, and a buffer that is only read."""
    first, second = nn.Linear(16, 16), nn.Linear(16, 16)
    second.weight = first.weight
    still = nn.Linear(16, CLASSES).requires_grad_(requires_grad=False)
    norm = nn.BatchNorm1d(16).requires_grad_(requires_grad=False)
    norm.train = lambda mode=True: norm  # type: ignore[method-assign]  # noqa: ARG005
    norm.training = False
    return nn.Sequential(nn.Flatten(), first, nn.Tanh(), second, norm, still)


def make(kind: Callable[[], nn.Module]) -> FlatModel:
    if kind is lenet:
        return build.build({"name": "lenet"}, ["a", "b", "c"], (16, 16), 4, CPU)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return FlatModel(kind(), CPU)


def lenet() -> nn.Module:
    raise NotImplementedError


def silos(kind: Callable[[], nn.Module], sizes: Sequence[int] = SIZES) -> list[local.Samples]:
    rng, side = np.random.default_rng(1), 16 if kind is lenet else 4
    return [
        local.load(rng.integers(0, 256, (size, side, side)).astype(np.uint8), rng.integers(0, CLASSES, size), CPU)
        for size in sizes
    ]


def group(samples: Sequence[local.Samples], momenta: Sequence[torch.Tensor] | None = None) -> list[Member]:
    return [
        Member(one, seeds.generator(1, "shuffle", 1, silo), momenta[silo].clone() if momenta else None)
        for silo, one in enumerate(samples)
    ]


def trainer(model: FlatModel, settings: Local, size: int = 4) -> Trainer:
    shape = (16, 16) if type(model.module).__name__ == "LeNet" else (4, 4)
    beside = Local(**{key: getattr(settings, key) for key in settings.__struct_fields__} | {"side_by_side": size})
    return Trainer(model, beside, shape)


def one_by_one(
    kind: Callable[[], nn.Module], settings: Local, members: Sequence[Member]
) -> tuple[list[local.Outcome], list[np.ndarray]]:
    outcomes, vectors = [], []
    for samples, rng, kept in members:
        model = make(kind)
        momentum = torch.zeros_like(model.gradient) if kept is None else kept
        outcomes.append(local.train(model, samples, settings, momentum, rng, NEVER))
        vectors.append(model.host.copy())
    return outcomes, vectors


VARIANTS = [
    Local(batch_size=4, epochs=2, lr=0.1, weight_decay=0.1),
    Local(batch_size=4, epochs=2, lr=0.1, drop_last=True),
    Local(batch_size=8, epochs=3, momentum=0.0, lr=0.1, drop_last=True),
    Local(batch_size=8, momentum=0.0, weight_decay=0.5),
    Local(batch_size=64, epochs=2, lr=0.5),
    Local(batch_size=64, lr=0.5, drop_last=True),
]


@pytest.mark.parametrize("kind", [dense, lenet, frozen])
@pytest.mark.parametrize("settings", VARIANTS, ids=range(len(VARIANTS)))
def test_each_silo_becomes_what_it_becomes_alone(settings: Local, kind: Callable[[], nn.Module]) -> None:
    samples, model = silos(kind), make(kind)
    begun = model.host.copy()
    momenta = [torch.full_like(model.gradient, 0.01 * silo) for silo in range(len(SIZES))]
    alone, together = group(samples, momenta), group(samples, momenta)
    expected, vectors = one_by_one(kind, settings, alone)
    trained = trainer(model, settings)
    assert np.array_equal(model.host, begun)  # trying it has left no trace
    outcomes = trained.train(together, NEVER)
    assert np.array_equal(model.host, begun)
    for silo, (found, wanted) in enumerate(zip(outcomes, expected, strict=True)):
        assert (found.steps, found.seen, found.correct, found.reason) == (wanted.steps, wanted.seen, wanted.correct, "")
        assert found.loss_sum == pytest.approx(wanted.loss_sum, rel=2e-6)
        trained.take(silo)
        assert np.abs(model.host - vectors[silo]).max() < 2e-6
        model.host[:] = 7  # a worker computes the update in place
        if settings.momentum and wanted.steps:
            memory, other = together[silo].momentum, alone[silo].momentum
            assert memory is not None
            assert other is not None
            assert float((memory - other).abs().max()) < 2e-6
    assert max(np.abs(vector - begun).max() for vector in vectors) > 1e-3 or all(one.steps == 0 for one in expected)


def test_a_group_of_one_has_the_bits_of_one_by_one() -> None:
    settings = Local(batch_size=4, epochs=2)
    expected, vectors = one_by_one(lenet, settings, group(silos(lenet)[:1]))
    model = make(lenet)
    trained = trainer(model, settings)
    begun = model.host.copy()
    trained.train(group(silos(lenet)), NEVER)
    for _ in range(2):  # what the group before has left behind does not matter
        model.load(begun)
        (outcome,) = trained.train(group(silos(lenet)[:1]), NEVER)
        trained.take(0)
        assert outcome._replace(seconds=0) == expected[0]._replace(seconds=0)
        assert np.array_equal(model.host, vectors[0])


def test_a_group_smaller_than_the_room_and_momentum_that_nobody_keeps() -> None:
    settings = Local(batch_size=4, epochs=2)
    expected, vectors = one_by_one(dense, settings, group(silos(dense)[:2]))
    model = make(dense)
    trained, begun = trainer(model, settings), model.host.copy()
    for _ in range(2):
        model.load(begun)
        outcomes = trained.train(group(silos(dense)[:2]), NEVER)
        for silo in (1, 0):
            trained.take(silo)
            assert np.abs(model.host - vectors[silo]).max() < 2e-6
        assert [one.steps for one in outcomes] == [one.steps for one in expected]


def test_bfloat16_is_as_rough_as_alone() -> None:
    settings = Local(batch_size=4, epochs=2, lr=0.1, precision="bfloat16")
    _, vectors = one_by_one(dense, settings, group(silos(dense)))
    model, begun = make(dense), make(dense).host
    trained = trainer(model, settings)
    trained.train(group(silos(dense)), NEVER)
    for silo, vector in enumerate(vectors):
        trained.take(silo)
        assert np.linalg.norm(model.host - vector) < 0.05 * np.linalg.norm(vector - begun)


def test_a_silo_whose_loss_is_no_number_fails_alone() -> None:
    settings = Local(batch_size=4, epochs=2, momentum=0.5)
    model = make(dense)
    broken = torch.zeros_like(model.gradient)
    broken[3] = math.nan
    momenta = [torch.zeros_like(model.gradient), broken, torch.zeros_like(model.gradient), torch.zeros_like(model.gradient)]
    expected, vectors = one_by_one(dense, settings, group(silos(dense), momenta))
    trained = trainer(model, settings)
    outcomes = trained.train(group(silos(dense), momenta), NEVER)
    assert [one.reason for one in outcomes] == [one.reason for one in expected] == ["", "the loss became nan", "", ""]
    for silo in (0, 2, 3):
        trained.take(silo)
        assert np.abs(model.host - vectors[silo]).max() < 2e-6


class Slow(nn.Module):
    """Takes 20 ms a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = dense()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        logits: torch.Tensor = self.inner(x)
        return logits


def test_a_deadline_in_the_middle_costs_those_that_have_steps_left() -> None:
    model, settings = make(Slow), Local(batch_size=1)
    samples = silos(dense, (200, 2, 150))
    trained = trainer(model, settings)
    outcomes = trained.train(group(samples), time.monotonic() + 0.3)
    assert [one.reason for one in outcomes] == ["out of time", "", "out of time"]
    assert 2 < outcomes[0].steps == outcomes[2].steps == outcomes[0].seen < 150
    assert outcomes[1].steps == outcomes[1].seen == 2
    alone = make(Slow)
    rng = seeds.generator(1, "shuffle", 1, 1)
    local.train(alone, samples[1], settings, torch.zeros_like(alone.gradient), rng, NEVER)
    trained.take(1)
    assert np.abs(model.host - alone.host).max() < 2e-6


def test_a_deadline_that_has_passed() -> None:
    model, settings = make(dense), Local(batch_size=8, drop_last=True)
    begun = model.host.copy()
    trained = trainer(model, settings)
    outcomes = trained.train(group(silos(dense)), time.monotonic() - 1)
    assert [(one.steps, one.seen, one.reason) for one in outcomes] == [
        (0, 0, ""), (0, 0, "out of time"), (0, 0, ""), (0, 0, "out of time")
    ]  # fmt: skip
    for silo in range(4):
        trained.take(silo)
        assert np.array_equal(model.host, begun)


class Counting(nn.Module):
    """Counts its forward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = dense()
        self.count: torch.Tensor
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        logits: torch.Tensor = self.inner(x)
        return logits


class Centred(nn.Module):
    """Takes the mean of the batch away, without a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = dense()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(x - x.mean(0))
        return logits


class Deciding(nn.Module):
    """Goes one way or the other by the values of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = dense()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(x if float(x.sum()) > -1 else -x)
        return logits


def normalised() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))


def dropping() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Dropout(0.5), nn.Linear(8, CLASSES))


class RarelyDropping(nn.Sequential):
    """Draws numbers that change nothing here."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self[1](self[0](x + 0 * torch.rand_like(x)))
        return logits


def rare() -> nn.Module:
    return RarelyDropping(nn.Flatten(), nn.Linear(16, CLASSES))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (normalised, "model Sequential cannot be trained side by side: its forward pass changes its buffers, as BatchNorm"),
        (Counting, "model Counting cannot be trained side by side: its forward pass changes its buffers"),
        (dropping, "model Sequential cannot be trained side by side: what it says of an image depends on chance, as with"),
        (Centred, "model Centred cannot be trained side by side: what it says of an image depends on chance, as with drop"),
        (rare, "model RarelyDropping cannot be trained side by side: torch.func says: vmap: called random operation"),
        (Deciding, "model Deciding cannot be trained side by side: torch.func says: vmap: It looks like you're"),
    ],
)
def test_a_model_that_would_become_another_is_refused(kind: Callable[[], nn.Module], reason: str) -> None:
    model = make(kind)
    before, drawn = [value.clone() for value in model.state], torch.get_rng_state()
    with pytest.raises(ConfigError) as caught:
        trainer(model, Local(), 3)
    story = str(caught.value)
    assert story.startswith(f"local.side_by_side = 3: {reason}")
    assert story.endswith("; expected another model, or local.side_by_side = 1")
    assert "\n" not in story
    assert all(torch.equal(value, old) for value, old in zip(model.state, before, strict=True))
    assert torch.equal(torch.get_rng_state(), drawn)
    Trainer(model, Local(), (4, 4))  # one by one it is welcome


def test_memory_is_that_of_the_largest_group() -> None:
    model = make(dense)
    held = trainer(model, Local(), 3)
    assert (held._vectors.shape, held._momenta.shape) == ((3, model.size), (3, len(model.gradient)))
    assert not Trainer(model, Local(), (4, 4))._vectors.numel()
    with pytest.raises(IndexError):
        held.train(group(silos(dense)), NEVER)


def test_colour_images() -> None:
    model = build.build({"name": "lenet", "channels": 3}, ["a", "b", "c"], (16, 17, 3), 4, CPU)
    side_by_side.Trainer(model, Local(side_by_side=2), (16, 17, 3))
