"""What a worker says of an update that cannot be added up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from silofold import config, plugins, topology
from silofold.messages import Members, Plan
from silofold.roles.job import Job
from silofold.roles.worker import Worker
from silofold.training import local
from silofold.training.flat import FlatModel
from silofold.training.side_by_side import Trainer

if TYPE_CHECKING:
    from silofold.messages import Report

CPU = torch.device("cpu")
MILLION = 10**6


class Raw(nn.Sequential):
    """Pixels as 0..255, scaled: running variances of millions."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = super().forward(x * 25500)  # type: ignore[no-untyped-call]
        return logits


class Broken(nn.Sequential):
    """Its update is not finite, though its loss is."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(16, 3))
        self.register_buffer("seen", torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.seen, torch.Tensor)
        self.seen[5] = float("nan")
        logits: torch.Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return logits


def report(module: nn.Module, *, reduction: str = "exact", strategy: str = "mean", total: int = MILLION) -> Report:
    """Train one silo of 20 pictures in a round whose weights sum up to `total`."""
    torch.manual_seed(1)
    model = FlatModel(module, CPU)
    settings = config.resolve(
        {"reduction": reduction, "local": {"batch_size": 10}, "strategy": {"name": strategy}}, "a test"
    )
    nothing: Any = None
    facts: Any = {"elements": model.elements} if hasattr(model, "elements") else {}
    job = Job(
        settings=settings, layout=topology.Layout(3, 1), data=nothing, folder=nothing,
        strategy=plugins.load("strategy", settings.strategy), **facts,
    )  # fmt: skip
    world: Any = SimpleNamespace(rank=2, places=[("host", 1)] * 3, survives=False)
    room = np.zeros(model.size, np.int64 if reduction == "exact" else np.float32)
    worker = Worker(world, job, Trainer(model, settings.local), model.host.copy(), room, nothing, draws=False)
    worker._start = model.vector.clone()
    rng = np.random.default_rng(1)
    samples = local.load(rng.integers(0, 256, (20, 4, 4)).astype(np.uint8), rng.integers(0, 3, 20), CPU)
    plan = Plan(
        1, Members.of((2,), 0, 0), (0,), (0,), (), (), total, 1e6, evaluate=False, checkpoint=False, last=False,
    )  # fmt: skip
    worker._planned = 1e12
    (told,) = worker._train_group([(0, samples, None)], plan)
    return told


def test_the_line_names_tensor_value_limit_and_ways_out() -> None:
    told = report(Raw())
    assert not told.finished
    assert "\n" not in told.reason
    assert "2.running_var[" in told.reason
    for part in ("out of the range of exact sums", "2,147.48", "1,000,000", 'reduction = "float32"', "group norm"):
        assert part in told.reason, told.reason


@pytest.mark.parametrize(("reduction", "strategy"), [("float32", "mean"), ("exact", "median"), ("float32", "median")])
def test_what_is_not_added_as_integers_has_no_bound(reduction: str, strategy: str) -> None:
    told = report(Raw(), reduction=reduction, strategy=strategy)
    assert (told.finished, told.reason) == (True, "")


@pytest.mark.parametrize("reduction", ["float32", "exact"])
def test_an_update_that_is_not_finite_is_never_added(reduction: str) -> None:
    told = report(Broken(), reduction=reduction)
    assert not told.finished
    assert "not finite: seen[5] moved by nan" in told.reason


def test_the_limit_is_that_of_the_check() -> None:
    from silofold.aggregation import exact

    for weights in (1, 7, 4096, 4097, MILLION, 10**9, 2**40):
        limit = exact.limit(weights)
        assert not exact.in_range(limit, weights)
        assert exact.in_range(np.nextafter(limit, 0) - 2 / exact.SCALE, weights)
    assert round(exact.limit(MILLION)) == 2147


def test_reports_are_messages() -> None:
    told = report(Raw())
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(told), type=type(told)) == told
