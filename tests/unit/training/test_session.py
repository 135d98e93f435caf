"""Code of the user's own that raises costs the silo alone, and is warned of once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from silofold.config import Local, Settings
from silofold.core.errors import UserCodeError
from silofold.core.reports import Cause, Score, Unscored
from silofold.training import local, scoring
from silofold.training.flat import FlatModel
from silofold.training.member import Member
from silofold.training.session import Session
from silofold.training.side_by_side import Trainer
from silofold.training.tasks.classification import Classification

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")
NEVER = float("inf")
LOCAL = Local(batch_size=5, lr=0.1)


class Odd(nn.Sequential):
    """Raises where it is told to."""

    fault: BaseException | None = None

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(16, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fault:
            raise self.fault
        logits: torch.Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return logits


def session(fault: BaseException | None = None, *, draws: bool = False) -> Session:
    torch.manual_seed(1)
    module = Odd()
    module.fault = fault
    return Session(Trainer(FlatModel(module, CPU, Classification(3)), LOCAL), Settings(local=LOCAL), draws=draws)


def samples(examples: int = 12) -> local.Samples:
    rng = np.random.default_rng(1)
    return local.load(rng.integers(0, 256, (examples, 4, 4)).astype(np.uint8), rng.integers(0, 3, examples), CPU)


def member(silo: int = 4) -> Member:
    return Member(samples(), None, (1, 2, silo))


@pytest.mark.parametrize(
    ("fault", "cause", "raised"),
    [
        (KeyError("why"), Cause.RAISED, "KeyError"),
        (SystemExit(3), Cause.RAISED, "SystemExit"),
        (KeyboardInterrupt(), Cause.RAISED, "KeyboardInterrupt"),
        (MemoryError(), Cause.MEMORY, ""),
    ],
)
def test_what_training_raises_becomes_an_outcome(fault: BaseException, cause: Cause, raised: str) -> None:
    (outcome,) = session(fault).train([member()], NEVER)
    assert (outcome.cause, outcome.steps, outcome.sums) == (cause, 0, {})
    assert outcome.raised.startswith(raised)
    assert type(fault).__name__ in outcome.reason


def test_what_is_called_before_counts_as_the_models() -> None:
    def strike() -> None:
        raise MemoryError

    assert session().train([member()], NEVER, strike)[0].cause is Cause.MEMORY
    assert session().train([member()], NEVER)[0].cause is Cause.NONE


def test_a_fault_of_ours_ends_it() -> None:
    with pytest.raises(UserCodeError, match="became another"):
        session(UserCodeError("model-tensors", "became another")).train([member()], NEVER)
    with pytest.raises(UserCodeError, match="became another"):
        session(UserCodeError("model-tensors", "became another")).score(4, 1, samples())


def test_an_evaluation_that_raises_is_warned_of_once_a_silo(caplog: pytest.LogCaptureFixture) -> None:
    held = session(ValueError("odd"))
    with caplog.at_level(logging.INFO):
        found = [held.score(silo, number, samples()) for number in (1, 2) for silo in (4, 5)]
    assert all(isinstance(one, Unscored) and one.cause is Cause.RAISED and "ValueError: odd" in one.reason for one in found)
    warned = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert [line.partition(": ValueError")[0] for line in warned] == [f"silo {silo}: cannot be evaluated" for silo in (4, 5)]


@pytest.mark.parametrize("draws", [False, True])
def test_a_score_is_what_evaluation_found(*, draws: bool) -> None:
    held = session(draws=draws)
    found = scoring.evaluate(held.model, samples())
    score = held.score(4, 1, samples())
    assert score == Score(4, 12, int(found.sums["correct"]), found.sums["loss"], 0)
    assert isinstance(score, Score)
    assert isinstance(score.correct, int)


def test_momentum_that_was_kept_is_copied() -> None:
    held = session()
    kept = np.full(len(held.model.gradient), 0.5, np.float32)
    momentum = held.momentum(kept)
    held.train([member()._replace(momentum=momentum)], NEVER)
    assert not np.array_equal(momentum.numpy(), kept)
    assert np.array_equal(kept, np.full_like(kept, 0.5))
    assert not held.momentum(None).any()


def logits(kind: Callable[[torch.Tensor], torch.Tensor] = lambda x: x) -> torch.Tensor:
    return kind(torch.randn((40, 3), generator=torch.Generator().manual_seed(1)))


def test_sums_add_up_over_images() -> None:
    task, output, labels = Classification(3), logits(), torch.arange(40) % 3
    whole = task.sums(output, labels)
    parts = [task.sums(output[part], labels[part]) for part in (slice(0, 7), slice(7, 33), slice(33, 40))]
    assert whole.keys() == task.zeros(CPU).keys()
    assert int(whole["correct"]) == sum(int(part["correct"]) for part in parts) == int((output.argmax(1) == labels).sum())
    assert float(whole["loss"]) == pytest.approx(sum(float(part["loss"]) for part in parts), rel=1e-12)
    known = task.sums(output, labels, task.loss(output, labels))
    assert float(known["loss"]) == pytest.approx(float(whole["loss"]), rel=1e-5)
    assert task.measures({"loss": 5.0, "correct": 3}, 10) == {"loss": 0.5, "accuracy": 0.3}
    assert task.measures({"loss": 0.0, "correct": 0}, 0) == {}


def test_an_image_is_answered_by_a_finite_largest_logit() -> None:
    output = torch.tensor([[1.0, 2, 3], [float("nan"), 1, 2], [float("inf"), 1, 2], [float("-inf"), 1, 2]])
    assert Classification().answered(output).tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (torch.zeros(4, 2), r"Odd maps 4 images to \(4, 2\), expected \(4, 3\)"),
        (torch.zeros(4, 3, dtype=torch.int64), "Odd maps 4 images to torch.int64, expected torch.float32"),
        ((torch.zeros(4, 3),), "a tuple of 1, expected one tensor"),
        (None, "to None, expected one tensor"),
    ],
)
def test_what_is_no_logit_a_class(output: object, says: str) -> None:
    with pytest.raises(UserCodeError, match=says):
        Classification(3).check(Odd().eval(), output, 4)
    with pytest.raises(UserCodeError, match="4 images in training to "):
        Classification(3).check(Odd().train(), output, 4)
