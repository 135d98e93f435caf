"""Weight decay and parameters that the loss does not depend on: torch.optim leaves them alone."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from silofold.config import Local
from silofold.core import seeds
from silofold.training import graph, local
from silofold.training.device import choose
from silofold.training.flat import FlatModel
from silofold.training.graph import GraphStep

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")
CLASSES = 3
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")


class Spare(nn.Module):
    """A layer that no forward pass uses, between two that every one does; one whose gradient is zeros; one used at times."""

    def __init__(self, at_times: int = 0) -> None:
        super().__init__()
        self.first, self.spare = nn.Linear(16, 8), nn.Linear(8, 8)
        self.silent, self.last, self.other = nn.Linear(16, 8), nn.Linear(8, CLASSES), nn.Linear(8, CLASSES)
        self.at_times, self.calls = at_times, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        hidden = torch.tanh(self.first(x)) + 0 * self.silent(x)
        self.calls += 1
        logits: torch.Tensor = self.last(hidden)
        return logits + self.other(hidden) if self.at_times and self.calls >= self.at_times else logits


def make(device: torch.device = CPU, at_times: int = 0) -> FlatModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return FlatModel(Spare(at_times), device)


def samples(device: torch.device = CPU, examples: int = 23) -> local.Samples:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (examples, 4, 4)).astype(np.uint8)
    return local.load(images, rng.integers(0, CLASSES, examples), device)


def train(model: FlatModel, settings: Local, step: local.Step | None = None, silo: int = 0) -> torch.Tensor:
    """Train, and return the momentum."""
    momentum = torch.zeros_like(model.gradient)
    rng = seeds.generator(1, "shuffle", 1, silo)
    local.Training(model, samples(model.vector.device), settings, momentum, rng, float("inf"), step).to_end()
    return momentum


def by_torch(module: nn.Module, settings: Local) -> nn.Module:
    data, rng = samples(), seeds.generator(1, "shuffle", 1, 0)
    optimizer = torch.optim.SGD(
        module.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    for _ in range(settings.epochs):
        for batch in torch.split(torch.from_numpy(rng.permutation(23)), settings.batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(data.images[batch].float() / 255), data.labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return module


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("at_times", [0, 4])
def test_as_torch_does(momentum: float, at_times: int) -> None:
    settings = Local(batch_size=5, epochs=2, lr=0.1, weight_decay=0.1, momentum=momentum)
    model, begun = make(at_times=at_times), make().module
    expected = dict(by_torch(copy.deepcopy(model.module), settings).named_parameters())
    train(model, settings)
    for name, value in model.module.named_parameters():
        assert float((value - expected[name]).detach().abs().max()) < 1e-6, name
        stays = name.startswith("spare") or (name.startswith("other") and not at_times)
        assert torch.equal(value, dict(begun.named_parameters())[name]) == stays, name


def test_its_momentum_stays_zero_and_no_hook_is_left() -> None:
    settings = Local(batch_size=5, weight_decay=0.1)
    model = make()
    momentum = train(model, settings)
    start = 16 * 8 + 8
    assert momentum[:start].all()
    assert not momentum[start : start + 72].any()
    assert not any(value._post_accumulate_grad_hooks for value in model.module.parameters())


@pytest.mark.parametrize("at_times", [0, 4])
def test_each_silo_tells_for_itself(at_times: int) -> None:
    """Whichever silos a worker has trained before."""
    settings = Local(batch_size=5, lr=0.1, weight_decay=0.1)
    model, fresh = make(at_times=at_times), make(at_times=at_times)
    begun, step = model.host.copy(), local.Step(model, settings)
    train(model, settings, step, silo=1)
    model.load(begun)
    assert isinstance(model.module, Spare)
    model.module.calls = 0
    train(model, settings, step)
    train(fresh, settings)
    assert model.host.tobytes() == fresh.host.tobytes()


def test_other_parameters_keep_their_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is decayed is computed in one piece, as if all was."""
    settings = Local(batch_size=5, epochs=2, lr=0.1, weight_decay=0.1)
    model, alike = make(), make()
    train(model, settings)
    monkeypatch.setattr("silofold.training.unreached.Unreached.still", lambda _: None)
    train(alike, settings)
    for (name, value), other in zip(model.module.named_parameters(), alike.module.parameters(), strict=True):
        assert torch.equal(value, other) != name.startswith(("spare", "other")), name


def test_inside_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    def capture(work: Callable[[], None], stream: object, pool: object) -> Callable[[], None]:
        del stream, pool
        work()
        return work

    monkeypatch.setattr(graph, "capture", capture)
    settings = Local(batch_size=5, epochs=2, lr=0.1, weight_decay=0.1)
    model, eager = make(), make()
    step = GraphStep(model, settings)
    for silo in (0, 1):
        train(model, settings, step, silo)
        train(eager, settings, None, silo)
        assert model.host.tobytes() == eager.host.tobytes()


@GPU
def test_inside_a_captured_graph() -> None:
    device = choose("cuda", 0, 1)
    settings = Local(batch_size=5, epochs=2, lr=0.1, weight_decay=0.1, cuda_graph=True)
    model, begun = make(device), make().module
    step = GraphStep(model, settings)
    train(model, settings, step)
    train(model, settings, step, 1)
    for name, value in model.module.named_parameters():
        stays = name.startswith(("spare", "other"))
        assert torch.equal(value.cpu(), dict(begun.named_parameters())[name]) == stays, name


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_of_a_compiled_model() -> None:
    settings = Local(batch_size=23, epochs=3, lr=0.1, weight_decay=0.1, compile=True)
    model, begun = make(), make()
    model.module.compile(dynamic=False)
    train(model, settings)
    train(begun, settings)
    assert float((model.vector - begun.vector).abs().max()) < 1e-6
