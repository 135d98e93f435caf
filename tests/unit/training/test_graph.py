from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from silofold.config import Local
from silofold.core import seeds
from silofold.core.errors import ConfigError
from silofold.training import build, graph, local
from silofold.training.device import choose
from silofold.training.flat import FlatModel
from silofold.training.graph import GraphStep
from silofold.training.side_by_side import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")
CLASSES = 3
NEVER = float("inf")
SETTINGS = Local(batch_size=5, epochs=2, lr=0.1, weight_decay=0.01, cuda_graph=True)


def normalised() -> nn.Module:
    """All that a warm-up could move: parameters, running statistics, a counter of batches, torch's generator."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, CLASSES)
    )


def make(device: torch.device, kind: Callable[[], nn.Module] | None = None) -> FlatModel:
    if kind is None:
        return build.build({"name": "lenet"}, ["a", "b", "c"], (16, 16), 4, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return FlatModel(kind(), device)


def samples(device: torch.device, examples: int, side: int) -> local.Samples:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (examples, side, side)).astype(np.uint8)
    return local.load(images, rng.integers(0, CLASSES, examples), device)


def train(model: FlatModel, step: local.Step | None, settings: Local, side: int = 4) -> tuple[object, ...]:
    """Train on three silos of 23, 3 and 15 images, the second with no full batch, and tell all that comes out."""
    told: list[object] = []
    begun = model.host.copy()
    for silo, examples in enumerate((23, 3, 15)):
        model.load(begun)
        momentum = torch.full_like(model.gradient, 0.01)
        (step or local.Step(model, settings)).seed(seeds.torch_seed(1, "dropout", 1, silo))
        rng = seeds.generator(1, "shuffle", 1, silo)
        data = samples(model.vector.device, examples, side)
        outcome = local.Training(model, data, settings, momentum, rng, NEVER, step).to_end()
        model.to_host()
        told += [outcome._replace(seconds=0), model.host.tobytes(), momentum.cpu().numpy().tobytes()]
        told += [value.cpu().numpy().tobytes() for value in model.state[1:]]
    return tuple(told)


def test_on_a_cpu_it_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"^local.cuda_graph = true: this worker trains on the device cpu; expected a GPU"):
        Trainer(make(CPU), Local(cuda_graph=True))


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Steps with a graph on a CPU: what is captured is what is replayed, step by step."""
    seen: list[str] = []

    def capture(work: Callable[[], None], stream: object, pool: object) -> Callable[[], None]:
        del stream, pool
        for _ in range(graph.WARM_UP):
            work()
        seen.append("captured")

        def replay() -> None:
            seen.append("replayed")
            work()

        return replay

    monkeypatch.setattr(graph, "capture", capture)
    return seen


@pytest.mark.parametrize("kind", [None, normalised], ids=["lenet", "all kinds of state"])
def test_what_surrounds_a_graph_changes_no_bit(pretended: list[str], kind: Callable[[], nn.Module] | None) -> None:
    """Copies into its memory and out of it, the warm-up undone, one capture of each size of a batch for all silos."""
    side = 16 if kind is None else 4
    model, eager = make(CPU, kind), make(CPU, kind)
    assert train(model, GraphStep(model, SETTINGS), SETTINGS, side) == train(eager, None, SETTINGS, side)
    assert pretended.count("captured") == 2  # batches of 5 and of 3
    assert pretended.count("replayed") == 2 * (5 + 1 + 3)


def test_a_capture_that_fails_is_tried_again(pretended: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs the update of its silo; the next one finds all as it was."""
    model, working = make(CPU), graph.capture
    step = GraphStep(model, SETTINGS)

    def broken(work: Callable[[], None], stream: torch.cuda.Stream | None, pool: object) -> Callable[[], None]:
        working(work, stream, pool)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graph, "capture", broken)
    with pytest.raises(RuntimeError, match="not permitted"):
        train(make(CPU), step, SETTINGS, 16)
    monkeypatch.setattr(graph, "capture", working)
    pretended.clear()
    begun = make(CPU).host
    model.load(begun)
    assert train(model, step, SETTINGS, 16) == train(make(CPU), None, SETTINGS, 16)
    assert pretended[0] == "captured"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_graph_trains_as_the_eager_step(precision: str) -> None:
    device = choose("cuda", 0, 1)
    settings = Local(batch_size=5, epochs=2, lr=0.1, weight_decay=0.01, cuda_graph=True, precision=precision)  # type: ignore[arg-type]
    vectors, outcomes = [], []
    for graphed in (True, False):
        model = make(device)
        step = GraphStep(model, settings) if graphed else None
        momentum = torch.zeros_like(model.gradient)
        for silo in range(3):
            data = samples(device, 23 + silo, 16)
            rng = seeds.generator(1, "shuffle", 1, silo)
            outcomes.append(local.Training(model, data, settings, momentum, rng, NEVER, step).to_end())
        vectors.append(torch.cat([model.vector, momentum]).cpu())
    assert float((vectors[0] - vectors[1]).abs().max()) < (1e-5 if precision == "float32" else 1e-2)
    for one, other in zip(outcomes[:3], outcomes[3:], strict=True):
        assert (one.steps, one.seen) == (other.steps, other.seen)
        assert one.sums["loss"] == pytest.approx(other.sums["loss"], rel=1e-4 if precision == "float32" else 1e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
def test_dropout_on_a_gpu_draws_what_the_eager_step_draws() -> None:
    device = choose("cuda", 0, 1)
    model = make(device, normalised)
    graphed = train(model, GraphStep(model, SETTINGS), SETTINGS)
    assert graphed == train(make(device, normalised), None, SETTINGS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
def test_the_warm_up_leaves_no_trace_on_a_gpu() -> None:
    device = choose("cuda", 0, 1)
    model = make(device, normalised)
    step = GraphStep(model, SETTINGS)
    step.begin(torch.full_like(model.gradient, 0.01))
    data = samples(device, 5, 4)
    before, drawn = [value.clone() for value in [*model.state, step.momentum]], torch.cuda.get_rng_state(device)
    step._record(data.images.clone(), data.labels.clone())
    assert all(torch.equal(value, old) for value, old in zip([*model.state, step.momentum], before, strict=True))
    assert torch.equal(torch.cuda.get_rng_state(device), drawn)
    assert step.end() == {"loss": 0.0, "correct": 0}
