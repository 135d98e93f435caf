from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from silofold.config import Local
from silofold.training import build, device, graph, local, side_by_side
from silofold.training.flat import FlatModel
from silofold.training.member import Member
from silofold.training.side_by_side import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CPU = torch.device("cpu")
CLASSES = 3
NEVER = float("inf")
SIZES = (7, 23, 4, 16)
"""Silos of one batch and a bit, of many, of exactly one, and of full batches at batch sizes 4 and 8."""


def dense() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, CLASSES))


def tied() -> nn.Module:
    """A layer that is not trained, one that is tied to another, and a normalisation that counts its batches."""
    first, second = nn.Linear(16, 16), nn.Linear(16, 16)
    second.weight = first.weight
    still = nn.Linear(16, CLASSES).requires_grad_(requires_grad=False)
    return nn.Sequential(nn.Flatten(), first, nn.Tanh(), second, nn.BatchNorm1d(16), still)


def dropping() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Dropout(0.5), nn.Linear(8, CLASSES))


def lenet() -> nn.Module:
    raise NotImplementedError


def make(kind: Callable[[], nn.Module], place: torch.device = CPU) -> FlatModel:
    if kind is lenet:
        return build.build({"name": "lenet"}, ["a", "b", "c"], (16, 16), 4, place)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return FlatModel(kind(), place)


def silos(kind: Callable[[], nn.Module], sizes: Sequence[int] = SIZES, place: torch.device = CPU) -> list[local.Samples]:
    rng, side = np.random.default_rng(1), 16 if kind is lenet else 4
    return [
        local.load(rng.integers(0, 256, (size, side, side)).astype(np.uint8), rng.integers(0, CLASSES, size), place)
        for size in sizes
    ]


def group(samples: Sequence[local.Samples], momenta: Sequence[torch.Tensor] | None = None) -> list[Member]:
    return [Member(one, momenta[silo].clone() if momenta else None, (1, 1, silo)) for silo, one in enumerate(samples)]


def trainer(model: FlatModel, settings: Local, size: int = 4) -> Trainer:
    """Lanes as on a GPU; on a CPU they take turns on it."""
    held = Trainer(model, settings)
    models = [make_alike(model) for _ in range(size)]
    held._lanes = [side_by_side.Lane(one, settings, alone=False) for one in models]
    return held


def make_alike(model: FlatModel) -> FlatModel:
    import copy

    return FlatModel(copy.deepcopy(model.module), model.vector.device)


def one_by_one(
    kind: Callable[[], nn.Module], settings: Local, members: Sequence[Member]
) -> tuple[list[local.Outcome], list[bytes]]:
    outcomes, vectors = [], []
    for member in members:
        model = make(kind)
        outcomes += Trainer(model, settings).train([member], NEVER)
        vectors.append(model.host.tobytes())
    return outcomes, vectors


VARIANTS = [
    Local(batch_size=4, epochs=2, lr=0.1, weight_decay=0.1),
    Local(batch_size=4, epochs=2, lr=0.1, drop_last=True),
    Local(batch_size=8, epochs=3, momentum=0.0, lr=0.1, drop_last=True),
    Local(batch_size=64, lr=0.5, drop_last=True),
]


@pytest.mark.parametrize("kind", [dense, lenet, tied])
@pytest.mark.parametrize("settings", VARIANTS, ids=range(len(VARIANTS)))
def test_each_silo_becomes_what_it_becomes_alone(settings: Local, kind: Callable[[], nn.Module]) -> None:
    samples, model = silos(kind), make(kind)
    begun = model.host.copy()
    momenta = [torch.full_like(model.gradient, 0.01 * silo) for silo in range(len(SIZES))]
    alone, together = group(samples, momenta), group(samples, momenta)
    expected, vectors = one_by_one(kind, settings, alone)
    trained = trainer(model, settings)
    assert np.array_equal(model.host, begun)
    for _ in range(2):  # what the group before has left behind does not matter
        model.load(begun)
        together = group(samples, momenta)
        outcomes = trained.train(together, NEVER)
        assert np.array_equal(model.host, begun)
        assert [one._replace(seconds=0) for one in outcomes] == [one._replace(seconds=0) for one in expected]
        for silo in (1, 0, 2, 3):
            trained.take(silo)
            assert model.host.tobytes() == vectors[silo]
            model.host[:] = 7  # a worker computes the update in place
            memory, other = together[silo].momentum, alone[silo].momentum
            assert memory is not None
            assert other is not None
            assert torch.equal(memory, other)
    assert any(vector != begun.tobytes() for vector in vectors) or all(one.steps == 0 for one in expected)


def test_a_group_smaller_than_the_lanes_and_momentum_that_nobody_keeps() -> None:
    settings = Local(batch_size=4, epochs=2)
    expected, vectors = one_by_one(dense, settings, group(silos(dense)[:2]))
    model = make(dense)
    trained, begun = trainer(model, settings), model.host.copy()
    for size in (2, 1, 2):
        model.load(begun)
        outcomes = trained.train(group(silos(dense)[:size]), NEVER)
        for silo in range(size):
            trained.take(silo)
            assert model.host.tobytes() == vectors[silo]
        assert [one.steps for one in outcomes] == [one.steps for one in expected[:size]]
    with pytest.raises(ValueError, match="longer"):
        trained.train(group(silos(dense, (5,) * 5)), NEVER)


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
        assert model.host.tobytes() == vectors[silo]


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
    outcomes = trained.train(group(samples), time.monotonic() + 1)
    assert [one.reason for one in outcomes] == ["out of time", "", "out of time"]
    assert 2 < outcomes[0].steps == outcomes[0].seen < 200
    assert 0 <= outcomes[0].steps - outcomes[2].steps <= side_by_side.TURN  # they take turns
    assert outcomes[1].steps == outcomes[1].seen == 2
    alone = make(Slow)
    Trainer(alone, settings).train(group(samples)[1:2], NEVER)
    trained.take(1)
    assert np.array_equal(model.host, alone.host)


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


def test_an_exception_ends_the_group() -> None:
    """BatchNorm takes no batch of one image; the next group trains as if nothing had been."""
    settings, model = Local(batch_size=4), make(tied)
    begun, trained = model.host.copy(), trainer(model, settings)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        trained.train(group(silos(tied, (4, 5, 8))), NEVER)
    model.load(begun)
    samples = silos(tied, (4, 6, 8))
    outcomes = trained.train(group(samples), NEVER)
    expected, vectors = one_by_one(tied, settings, group(samples))
    assert [one._replace(seconds=0) for one in outcomes] == [one._replace(seconds=0) for one in expected]
    trained.take(2)
    assert model.host.tobytes() == vectors[2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
@pytest.mark.parametrize("kind", [dense, lenet, tied, dropping])
@pytest.mark.parametrize("settings", VARIANTS, ids=range(len(VARIANTS)))
def test_side_by_side_on_a_gpu_has_the_bits_of_one_by_one(settings: Local, kind: Callable[[], nn.Module]) -> None:
    place = device.choose("cuda", 0, 1)
    names = settings.__struct_fields__
    graphed = Local(**{name: getattr(settings, name) for name in names} | {"cuda_graph": True})
    beside = Local(**{name: getattr(graphed, name) for name in names} | {"side_by_side": 4})
    samples, told = silos(kind, (7, 230, 50, 162), place), []
    for trainer, size in ((Trainer(make(kind, place), graphed), 1), (Trainer(make(kind, place), beside), 4)):
        begun = trainer.model.vector.clone()
        for _ in range(2):
            momenta = [torch.full_like(trainer.model.gradient, 0.01 * silo) for silo in range(4)]
            members = group(samples, momenta)
            story: list[object] = []
            for first in range(0, 4, size):
                trainer.model.load(begun)
                outcomes = trainer.train(members[first : first + size], NEVER)
                for index, outcome in enumerate(outcomes):
                    trainer.take(index)
                    trainer.model.to_host()
                    story += [outcome._replace(seconds=0), trainer.model.host.tobytes()]
            told.append(
                (story, [member.momentum.cpu().numpy().tobytes() for member in members if member.momentum is not None])
            )
    assert told[0] == told[1]
    assert told[2] == told[3] == told[0]


def test_lanes_hold_as_many_models_as_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoGraph(graph.GraphStep):
        pass

    monkeypatch.setattr(side_by_side, "GraphStep", NoGraph)
    model = make(dense)
    assert [lane.model for lane in Trainer(model, Local())._lanes] == [model]
    lanes = Trainer(model, Local(side_by_side=3))._lanes
    assert len({lane.model.host.ctypes.data for lane in lanes} | {model.host.ctypes.data}) == 4
    assert all(torch.equal(lane.model.vector, model.vector) for lane in lanes)
