from __future__ import annotations

import copy
import math
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

import serial
from silofold.config import Local, Settings
from silofold.core import seeds
from silofold.core.errors import DivergedError
from silofold.core.reports import Cause
from silofold.training import build, local, scoring
from silofold.training.flat import FlatModel
from silofold.training.predict import predict

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")
CLASSES = 3
NEVER = float("inf")


def dense() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, CLASSES))


def normalised() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))


def dropping() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Dropout(0.5), nn.Linear(8, CLASSES))


class Slow(nn.Module):
    """Takes 20 ms a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = dense()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        logits: torch.Tensor = self.inner(x)
        return logits


def make(kind: Callable[[], nn.Module]) -> FlatModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return FlatModel(kind(), CPU)


def samples(examples: int = 23, seed: int = 1) -> local.Samples:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (examples, 4, 4)).astype(np.uint8)
    return local.load(images, rng.integers(0, CLASSES, examples), CPU)


def train(
    model: FlatModel, settings: Local, data: local.Samples | None = None, deadline: float = NEVER,
    momentum: torch.Tensor | None = None, number: int = 1,
) -> local.Outcome:  # fmt: skip
    memory = torch.zeros_like(model.gradient) if momentum is None else momentum
    rng = seeds.generator(1, "shuffle", number, 0)
    return local.Training(model, data or samples(), settings, memory, rng, deadline).to_end()


VARIANTS = [
    Local(batch_size=5, momentum=0.0),
    Local(batch_size=5, momentum=0.9, epochs=3),
    Local(batch_size=5, momentum=0.9, weight_decay=0.1, epochs=2, lr=0.1),
    Local(batch_size=5, momentum=0.0, weight_decay=0.5),
    Local(batch_size=5, drop_last=True, epochs=2, lr=0.1),
    Local(batch_size=64, lr=0.5),
    Local(batch_size=23, drop_last=True, lr=0.5),
]


@pytest.mark.parametrize("settings", VARIANTS, ids=range(len(VARIANTS)))
def test_equals_torchs_own_sgd(settings: Local) -> None:
    model, data = make(dense), samples()
    module = copy.deepcopy(model.module)
    momentum = torch.zeros_like(model.gradient)
    outcome = train(model, settings, data, momentum=momentum)

    optimizer = torch.optim.SGD(
        module.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    rng, loss_sum, correct, sizes = seeds.generator(1, "shuffle", 1, 0), 0.0, 0, []
    for _ in range(settings.epochs):
        order = rng.permutation(23)
        for start in range(0, 23, settings.batch_size):
            picked = order[start : start + settings.batch_size]
            if settings.drop_last and len(picked) < settings.batch_size:
                continue
            logits = module(data.images[picked].float() / 255)
            loss = nn.functional.cross_entropy(logits, data.labels[picked])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss_sum += loss.item() * len(picked)
            correct += int((logits.argmax(1) == data.labels[picked]).sum())
            sizes.append(len(picked))

    reference = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    assert float((model.vector - reference).abs().max()) < 1e-6
    assert float((reference - make(dense).vector).abs().max()) > 1e-3  # it has moved
    assert (outcome.steps, outcome.seen, outcome.sums["correct"], outcome.reason) == (len(sizes), sum(sizes), correct, "")
    assert outcome.sums["loss"] == pytest.approx(loss_sum, rel=1e-6)
    if settings.momentum:
        memory = torch.cat([optimizer.state[parameter]["momentum_buffer"].flatten() for parameter in module.parameters()])
        assert float((momentum - memory).abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("examples", "batch", "drop_last", "steps"),
    [(23, 5, False, 5), (23, 5, True, 4), (20, 5, False, 4), (20, 5, True, 4), (3, 5, False, 1), (3, 5, True, 0)],
)
def test_steps_per_epoch(examples: int, batch: int, drop_last: bool, steps: int) -> None:  # noqa: FBT001
    settings = Local(batch_size=batch, drop_last=drop_last, epochs=2)
    assert local.steps_per_epoch(examples, settings) == steps
    outcome = train(make(dense), settings, samples(examples))
    assert (outcome.steps, outcome.seen) == (2 * steps, 2 * (steps * batch if drop_last else examples))


def test_equals_the_serial_reference_on_lenet() -> None:
    settings = Settings(seed=9, local=Local(batch_size=6, epochs=2, lr=0.05, weight_decay=0.01))
    rng = np.random.default_rng(3)
    images, labels = rng.integers(0, 256, (20, 16, 16)).astype(np.uint8), rng.integers(0, CLASSES, 20)
    model = build.build(settings.model, ["a", "b", "c"], (16, 16), settings.seed, CPU)
    outcome = train(model, settings.local, local.load(images, labels, CPU))

    reference = serial.initial(settings, CLASSES, (16, 16))
    x, y = torch.from_numpy(images[:, None]).float() / 255, torch.from_numpy(labels)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    found = serial.train(reference, optimizer, serial.Silo(x, y, x, y), settings.local, seeds.generator(1, "shuffle", 1, 0))
    assert np.abs(model.host - serial.vector(reference)).max() < 1e-6
    assert outcome.sums["loss"] == pytest.approx(found[0], rel=1e-5)
    assert outcome.seen == found[1]


def test_bfloat16_is_a_rougher_float32() -> None:
    rough, fine, start = make(dense), make(dense), make(dense).vector
    for model, precision in ((rough, "bfloat16"), (fine, "float32")):
        train(model, Local(batch_size=5, epochs=3, lr=0.1, precision=precision))  # type: ignore[arg-type]
        assert model.vector.dtype is torch.float32
    apart, moved = float((rough.vector - fine.vector).norm()), float((fine.vector - start).norm())
    assert 0 < apart < 0.05 * moved


@pytest.mark.filterwarnings("default")  # torch's compiler warns of its own parts
def test_a_compiled_model_is_the_same_function() -> None:
    shape, rng = (4, 4), np.random.default_rng(3)
    table = {"name": "own_model:Net", "width": 8}
    data = local.load(rng.integers(0, 256, (20, *shape)).astype(np.uint8), rng.integers(0, CLASSES, 20), CPU)
    vectors = []
    for compiled in (False, True):
        model = build.build(table, ["a", "b", "c"], shape, 1, CPU, compiled=compiled)
        train(model, Local(batch_size=5, lr=0.1), data)
        vectors.append(model.vector)
    assert float((vectors[0] - vectors[1]).abs().max()) < 1e-5


@pytest.mark.parametrize("kind", [dense, normalised, dropping])
def test_the_same_seed_gives_the_same_bits(kind: Callable[[], nn.Module]) -> None:
    def play(silo: int) -> bytes:
        model = make(kind)
        local.seed_torch(seeds.torch_seed(1, "dropout", 1, silo))
        train(model, Local(batch_size=5, epochs=2))
        return model.host.tobytes()

    assert play(0) == play(0)
    assert (play(0) == play(1)) is (kind is not dropping)


def test_another_round_takes_another_order() -> None:
    first, second = make(dense), make(dense)
    train(first, Local(batch_size=5))
    train(second, Local(batch_size=5), number=2)
    assert first.host.tobytes() != second.host.tobytes()


def test_momentum_goes_on_where_it_stood() -> None:
    """Two epochs at once, or one after the other with the momentum kept."""
    at_once, apart = make(dense), make(dense)
    rng = seeds.generator(1, "shuffle", 1, 0)
    local.Training(
        at_once, samples(), Local(batch_size=5, epochs=2), torch.zeros_like(at_once.gradient), rng, NEVER
    ).to_end()
    rng, momentum = seeds.generator(1, "shuffle", 1, 0), torch.zeros_like(apart.gradient)
    for _ in range(2):
        local.Training(apart, samples(), Local(batch_size=5), momentum, rng, NEVER).to_end()
    assert apart.host.tobytes() == at_once.host.tobytes()


def test_a_deadline_that_has_passed() -> None:
    model = make(dense)
    before = model.host.tobytes()
    outcome = train(model, Local(), deadline=time.monotonic() - 1)
    assert outcome._replace(seconds=0) == local.Outcome(0, 0, {"loss": 0.0, "correct": 0}, 0, "out of time", Cause.LATE)
    assert model.host.tobytes() == before


def test_a_deadline_in_the_middle() -> None:
    outcome = train(make(Slow), Local(batch_size=1), samples(200), deadline=time.monotonic() + 0.15)
    assert 0 < outcome.steps < 200
    assert outcome.seen == outcome.steps
    assert outcome.reason == "out of time"
    assert 0.1 < outcome.seconds < 2


@pytest.mark.parametrize(("value", "reason"), [(float("nan"), "the loss became nan"), (3e38, "the loss became nan")])
def test_a_loss_that_is_no_number(value: float, reason: str) -> None:
    model = make(dense)
    model.vector.fill_(value)
    assert train(model, Local()).reason == reason


def test_running_statistics_are_trained_too() -> None:
    model = make(normalised)
    assert (model.size, len(model.gradient)) == (16 * 8 + 8 + 16 + 8 * 3 + 3 + 16, 16 * 8 + 8 + 16 + 8 * 3 + 3)
    before = model.host[-16:].copy()
    train(model, Local(batch_size=23))
    module = model.module
    assert isinstance(module, nn.Sequential)
    norm = module[2]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert model.host[-16:].tolist() == [*norm.running_mean.tolist(), *norm.running_var.tolist()]
    assert np.all(model.host[-16:] != before)


@pytest.mark.parametrize("kind", [dense, normalised, dropping])
@pytest.mark.parametrize("examples", [1, 256, 300])
def test_evaluation_against_a_plain_loop(kind: Callable[[], nn.Module], examples: int) -> None:
    model, data = make(kind), samples(examples)
    train(model, Local(lr=0.1))
    before = model.host.tobytes()
    scores = scoring.evaluate(model, data)
    assert model.host.tobytes() == before
    module = copy.deepcopy(model.module).double().eval()
    correct, loss_sum = 0, 0.0
    for image, label in zip(data.images, data.labels, strict=True):
        logits = module(image[None].double() / 255)[0].detach()
        correct += int(logits.argmax()) == int(label)
        loss_sum -= float(torch.log_softmax(logits, 0)[label])
    assert (scores.examples, scores.sums["correct"]) == (examples, correct)
    assert scores.sums["loss"] == pytest.approx(loss_sum, rel=1e-5)
    assert scoring.evaluate(model, data) == scores


@pytest.mark.parametrize("kind", [dense, normalised])
def test_evaluation_adds_up_as_python_does_batch_by_batch(kind: Callable[[], nn.Module]) -> None:
    """Sums that stay on the device until the end have the bits of numbers that were asked for after every batch."""
    model, data = make(kind), samples(700)
    train(model, Local(lr=0.1))
    correct, loss_sum = 0, 0.0
    model.module.eval()
    with torch.inference_mode():
        for images, y in zip(torch.split(data.images, 256), torch.split(data.labels, 256), strict=True):
            logits = model.module(images.float().div_(255))
            correct += int((logits.argmax(1) == y).sum())
            loss_sum += float(nn.functional.cross_entropy(logits.double(), y, reduction="sum"))
    assert scoring.evaluate(model, data) == scoring.Scores(700, {"loss": loss_sum, "correct": correct})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_image_without_a_finite_logit_is_not_right(value: float) -> None:
    """NaN is the largest of all for argmax: it would be an answer, the first class."""

    class Half(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = torch.tensor([1.0, 0.0, 0.0]).repeat(len(x), 1)
            logits[::2, 0] = value
            return logits

    data = samples(700)
    data.labels.zero_()
    found = scoring.evaluate(make(lambda: Half(1, 1)), data)
    assert (found.sums["correct"], found.unanswered) == (350, 350)
    assert not math.isfinite(found.sums["loss"])
    with pytest.raises(DivergedError, match="no finite logit for 350 of 700 images"):
        predict(make(lambda: Half(1, 1)), data, 0, 3, 1)


def test_an_empty_test_split() -> None:
    empty = local.load(np.empty((0, 4, 4), np.uint8), np.empty(0, np.int64), CPU)
    assert scoring.evaluate(make(dense), empty) == scoring.Scores(0, {"loss": 0.0, "correct": 0})


def test_load_brings_channels_to_the_front() -> None:
    images = np.arange(2 * 3 * 4 * 2, dtype=np.uint8).reshape(2, 3, 4, 2)
    loaded = local.load(images, np.array([1, 0]), CPU)
    assert loaded.images.shape == (2, 2, 3, 4)
    assert loaded.images.dtype == torch.uint8
    assert int(loaded.images[1, 0, 2, 3]) == int(images[1, 2, 3, 0])
    assert loaded.labels.tolist() == [1, 0]
    assert local.load(images[..., 0], np.array([1, 0]), CPU).images.shape == (2, 1, 3, 4)
