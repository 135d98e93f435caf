"""How a silo's training begins: from which model, with which draws, and in which pieces where silos are pooled."""

from __future__ import annotations

import time

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from silofold.config import Local
from silofold.core import seeds
from silofold.core.reports import Cause
from silofold.training import local
from silofold.training.flat import FlatModel
from silofold.training.member import Member
from silofold.training.side_by_side import Lane, Trainer

CPU = torch.device("cpu")
CLASSES = 3
NEVER = float("inf")
SIZES = (7, 11, 4)
SETTINGS = Local(batch_size=4, epochs=2, lr=0.1, weight_decay=0.1)


class Seen(nn.Sequential):
    """Notes the first pixel of each image that it is trained on."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(16, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, CLASSES))
        self.pixels: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.pixels += (x[:, 0, 0, 0] * 255).round().int().tolist()
        logits: torch.Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return logits


def make() -> FlatModel:
    torch.manual_seed(5)
    return FlatModel(Seen(), CPU)


def samples(examples: int = sum(SIZES), seed: int = 1) -> local.Samples:
    """Images that their first pixel tells apart."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (examples, 4, 4)).astype(np.uint8)
    images[:, 0, 0] = np.arange(examples)
    return local.load(images, rng.integers(0, CLASSES, examples), CPU)


def seen(model: FlatModel) -> list[int]:
    assert isinstance(model.module, Seen)
    return model.module.pixels


def pooled(model: FlatModel, settings: Local = SETTINGS, deadline: float = NEVER) -> local.Outcome:
    member = Member(samples(), None, (1, 2, 3), pieces=SIZES)
    (outcome,) = Trainer(model, settings).train([member], deadline)
    return outcome


def test_pooled_silos_are_trained_in_pieces_of_their_sizes() -> None:
    """Against a plain loop over epochs and pieces, each an epoch of training on its own."""
    model, reference, data = make(), make(), samples()
    outcome = pooled(model)
    rng, momentum = seeds.generator(1, "shuffle", 2, 3), torch.zeros_like(reference.gradient)
    local.seed_all(seeds.torch_seed(1, "dropout", 2, 3))
    once, steps, losses, correct = msgspec.structs.replace(SETTINGS, epochs=1), 0, [], 0.0
    for _ in range(2):
        order = rng.permutation(sum(SIZES))
        for piece in (order[:7], order[7:18], order[18:]):
            part = local.Samples(data.images[piece], data.labels[piece])
            done = local.Training(reference, part, once, momentum, rng, NEVER).to_end()
            steps, correct = steps + done.steps, correct + done.sums["correct"]
            losses.append(done.sums["loss"])
    assert model.host.tobytes() == reference.host.tobytes()
    assert seen(model) == seen(reference)
    assert (outcome.steps, outcome.seen, outcome.reason) == (steps, 2 * sum(SIZES), "")
    assert outcome.sums == {"loss": pytest.approx(sum(losses), rel=1e-12), "correct": correct}


def test_every_epoch_covers_every_image_once_in_an_order_of_its_own() -> None:
    model = make()
    outcome = pooled(model)
    first, second = seen(model)[: sum(SIZES)], seen(model)[sum(SIZES) :]
    assert sorted(first) == sorted(second) == list(range(sum(SIZES)))
    assert first != second
    assert outcome.steps == 2 * sum(-(-size // 4) for size in SIZES)


def test_incomplete_batches_are_dropped_silo_by_silo() -> None:
    outcome = pooled(make(), msgspec.structs.replace(SETTINGS, drop_last=True))
    assert (outcome.steps, outcome.seen) == (2 * (1 + 2 + 1), 2 * (4 + 8 + 4))


def test_one_piece_is_no_pool() -> None:
    one, other = make(), make()
    for model, pieces in ((one, ()), (other, (20,))):
        Trainer(model, SETTINGS).train([Member(samples(20), None, (1, 2, 3), pieces=pieces)], NEVER)
    assert one.host.tobytes() == other.host.tobytes()


def test_a_piece_that_fails_ends_the_training() -> None:
    model = make()
    outcome = pooled(model, msgspec.structs.replace(SETTINGS, lr=1e30, epochs=50))
    assert outcome.cause is Cause.DIVERGED
    assert outcome.reason.startswith("the loss became ")
    assert 0 < outcome.steps <= 2 * sum(-(-size // 4) for size in SIZES)


def test_a_deadline_in_a_pool() -> None:
    outcome = pooled(make(), deadline=time.monotonic() - 1)
    assert (outcome.steps, outcome.cause) == (0, Cause.LATE)


@pytest.mark.parametrize("lanes", [1, 3])
def test_models_of_one_group_each_start_where_they_stand(lanes: int) -> None:
    """As those of silos that train alone do, one by one and side by side, with the momentum that each has kept."""

    def plain() -> FlatModel:
        torch.manual_seed(5)
        return FlatModel(nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES)), CPU)

    starts = [plain().host + np.float32(0.1 * index) for index in range(3)]
    before = [start.tobytes() for start in starts]

    def member(index: int) -> Member:
        momentum = torch.full_like(plain().gradient, 0.1 * index)
        return Member(samples(9 + index, index), momentum, (1, 1, index), starts[index], (4, 5 + index) if index else ())

    alone, kept, model, together = [], [], plain(), []
    for index in range(3):
        model, one = plain(), member(index)
        Trainer(model, SETTINGS).train([one], NEVER)
        alone.append(model.host.tobytes())
        kept.append(one.momentum)
    trainer, group = Trainer(model, SETTINGS), [member(index) for index in range(3)]
    if lanes > 1:
        trainer._lanes = [Lane(plain(), SETTINGS, alone=False) for _ in range(lanes)]
    for first in range(0, 3, lanes):
        trainer.train(group[first : first + lanes], NEVER)
        for index in range(lanes):
            trainer.take(index)
            together.append(model.host.tobytes())
    assert together == alone
    assert len({*alone}) == 3
    for one, momentum in zip(group, kept, strict=True):
        assert one.momentum is not None
        assert momentum is not None
        assert torch.equal(one.momentum, momentum)
    assert [start.tobytes() for start in starts] == before
