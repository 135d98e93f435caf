from __future__ import annotations

import random
import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from silofold.config import Local
from silofold.core import seeds
from silofold.core.digest import sha256
from silofold.core.errors import ConfigError, DivergedError, SilofoldError, UserCodeError
from silofold.core.fingerprint import difference
from silofold.training import build, local, scoring, shapes, start_check
from silofold.training.shapes import Shapes

if TYPE_CHECKING:
    from silofold.training.flat import FlatModel
    from silofold.training.start_check import Found

CLASSES = ["a", "b", "c", "d", "e"]
SHAPE = (16, 16)
CPU = torch.device("cpu")
SETTINGS = Local(batch_size=8, lr=0.05, momentum=0.9)
SIZES = shapes.of((33, 40), (20, 21), SETTINGS)
"""With a last batch of one image."""
RIGHT = (
    "Plain", "Tied", "Frozen", "ComplexConstant", "Lazy", "WeightNorm", "LegacyWeightNorm", "SpectralNorm",
    "LegacySpectralNorm", "Recurrent", "Dropping", "NumpyWeights", "NumpyProjection", "StochasticDepth", "AlwaysDropping",
    "ExtraState", "CountsCalls", "Remembers", "Copies", "HoldsParallel", "HoldsParameters", "Normed", "FrozenNorm",
    "HoldsScript", "HoldsCircle",
)  # fmt: skip
WRONG = {
    "model-tensors": (
        "AssignsData", "ReplacesParameter", "ReplacesBuffer", "ReplacesCounter", "DropsGradients", "Unfreezes", "AddsBuffer",
        "AddsLayer", "MakesLayer", "TiedByMemory", "HoldsView",
    ),
    "model-state": (
        "PlainMean", "NumberMean", "OwnStream", "ClosureCount", "FirstBatch", "MovingComplex", "UnsavedMean", "MovingExtra",
    ),
    "model-unequal": ("UnseededProjection", "UnseededWeights"),
    "model-file": ("UnreadableExtra", "UnwritableExtra", "EmptyFile"),
    "model-output": ("TwoWhileTraining", "Named", "Nothing", "Whole", "Squeezed", "NotANumber", "Detached"),
}  # fmt: skip
EXCEPTIONS = (
    "KeyError", "AttributeError", "AssertionError", "ImportError", "SystemExit", "RecursionError", "StopIteration",
    "KeyboardInterrupt", "GeneratorExit",
    "Stubborn", "Aborted", "OSError", "UnicodeError", "two lines",
)  # fmt: skip


def make(name: str, seed: int = 5, **keys: Any) -> FlatModel:
    table = {"name": name if name == "lenet" else f"odd_models:{name}", **keys}
    return build.build(table, CLASSES, SHAPE, seed, CPU)


def check(model: FlatModel, name: str, settings: Local = SETTINGS, sizes: Shapes = SIZES) -> Found:
    return start_check.check(model, settings, sizes, SHAPE, len(CLASSES), f"odd_models:{name}")


def _numpy() -> str:
    """Where numpy's global generator stands."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return repr((kind, np.asarray(keys).tobytes(), rest))


def tried(name: str, **keys: Any) -> Found:
    """Do all that a run does before its first round."""
    model = make(name, **keys)
    found = check(model, name)
    again = make(name, **keys)
    start_check.check_again(model, again, SETTINGS, SIZES, SHAPE, len(CLASSES), f"odd_models:{name}")
    return found


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning", "ignore:Lazy modules")
@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_passes_and_leaves_no_trace(name: str) -> None:
    model = make(name)
    moved = [*model.state, model.gradient]
    before = [value.clone() for value in moved]
    plain = {key: value for key, value in model.module.__dict__.items() if not key.startswith("_")}
    torch.manual_seed(3)
    seeds.seed_libraries(3)
    streams = torch.get_rng_state(), _numpy(), random.getstate()
    modes = [one.training for one in model.module.modules()]
    first = check(model, name)
    assert all(torch.equal(value, old) for value, old in zip(moved, before, strict=True))
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert _numpy() == streams[1]
    assert random.getstate() == streams[2]
    assert [one.training for one in model.module.modules()] == modes
    assert {key: value for key, value in model.module.__dict__.items() if not key.startswith("_")} == plain
    model.check_places()
    again = tried(name)
    assert (again.fingerprint, again.draws) == (first.fingerprint, name == "AlwaysDropping")


@pytest.mark.parametrize(("id_", "name"), [(key, name) for key, names in WRONG.items() for name in names])
def test_what_is_wrong_is_refused_by_name(id_: str, name: str) -> None:
    with pytest.raises(UserCodeError) as caught:
        tried(name)
    assert caught.value.id == id_, caught.value
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("when", ["build", "evaluate", "train", "backward"])
@pytest.mark.parametrize("what", EXCEPTIONS)
def test_whatever_a_model_raises_is_one_line_that_names_where(what: str, when: str) -> None:
    with pytest.raises(UserCodeError) as caught:
        tried("Raises", what=what, when=when)
    story = str(caught.value)
    assert caught.value.id == ("model-build" if when in {"build", "evaluate"} else "model-raised")
    assert caught.value.exit_code == 4
    assert story.startswith("model odd_models:Raises: ")
    assert "odd_models.py:" in story
    assert " in _raise)" in story
    assert "\n" not in story
    kind = {"two lines": "ValueError: no good", "ImportError": "ModuleNotFoundError"}.get(what, what)
    assert kind in story


def test_a_last_batch_of_one_image() -> None:
    """Batch normalisation of single values refuses it: the ways out are said."""
    name = "own_model:Net"
    model = build.build({"name": name}, CLASSES, SHAPE, 1, CPU)
    with pytest.raises(UserCodeError, match=r"local\.drop_last = true, another local\.batch_size") as caught:
        check(model, name)
    assert caught.value.id == "model-batch"
    dropping = Local(batch_size=8, drop_last=True)
    check(model, name, dropping, shapes.of((33, 40), (1,), dropping))
    check(model, name, Local(batch_size=7), shapes.of((33, 40), (1,), Local(batch_size=7)))


def test_one_step_that_makes_it_not_finite() -> None:
    with pytest.raises(DivergedError, match=r"local\.lr = 1e\+06") as caught:
        check(make("Steep"), "Steep", Local(batch_size=8, lr=1e6))
    assert caught.value.exit_code == 3


def test_random_numbers_that_a_graph_would_repeat() -> None:
    with pytest.raises(ConfigError, match=r"local\.cuda_graph = false"):
        check(make("StochasticDepth"), "StochasticDepth", Local(batch_size=8, cuda_graph=True))
    check(make("Dropping"), "Dropping", Local(batch_size=8, cuda_graph=True))


@pytest.mark.parametrize(
    ("train", "test", "keys", "expected"),
    [
        ((33, 40), (10, 300), {}, ((1, 8), (10, 256))),
        ((33, 40), (10, 300), {"drop_last": True}, ((8,), (10, 256))),
        ((40,), (0,), {}, ((8,), ())),
        ((5, 3), (512,), {}, ((3, 5), (256,))),
        ((0, 9), (0, 2), {}, ((1, 8), (2,))),
        ((), (), {}, ((), ())),
    ],
)
def test_batch_shapes(
    train: tuple[int, ...], test: tuple[int, ...], keys: dict[str, Any], expected: tuple[tuple[int, ...], ...]
) -> None:
    assert shapes.of(train, test, Local(batch_size=8, **keys)) == expected


def test_nothing_to_train_or_evaluate() -> None:
    check(make("Plain"), "Plain", sizes=Shapes((), ()))


def test_workers_compare_what_they_found() -> None:
    one = tried("NumpyProjection").fingerprint
    assert difference([one, one, one], ["x", "x", "y"]) is None
    changed = start_check.check(make("NumpyProjection", seed=6), SETTINGS, SIZES, SHAPE, 5, "x").fingerprint
    assert difference([one, changed], ["x", "x"]) == (0, 1, "the initial parameters")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda logits: torch.cat([logits, logits], 1), r"\(8, 10\), expected \(8, 5\)"),
        (lambda logits: logits[:1], r"\(1, 5\), expected \(8, 5\)"),
        (lambda logits: logits.to(torch.int64), r"torch\.int64, expected torch\.float32"),
        (lambda logits: (logits, logits), "a tuple of 2"),
    ],
)
def test_an_output_that_is_another_only_later(made: Any, says: str, *, training: bool) -> None:
    model = make("Plain")
    samples = local.load(np.zeros((8, *SHAPE), np.uint8), np.zeros(8, np.int64), CPU)
    model.module.register_forward_hook(lambda _, __, logits: made(logits))
    step = local.Step(model, SETTINGS)
    step.begin(torch.zeros_like(model.gradient))
    with pytest.raises(UserCodeError, match=says) as caught:
        step(*samples) if training else scoring.evaluate(model, samples)
    assert caught.value.id == "model-output"


def test_a_model_that_changes_only_later_is_found_at_the_end_of_a_silo() -> None:
    model = make("Plain")
    samples = local.load(np.zeros((8, *SHAPE), np.uint8), np.zeros(8, np.int64), CPU)
    momentum = torch.zeros_like(model.gradient)
    model.module[1].weight.data = model.module[1].weight.data.clone()  # type: ignore[index]
    with pytest.raises(UserCodeError, match=r"1\.weight or its gradient was replaced"):
        local.Training(model, samples, SETTINGS, momentum, np.random.default_rng(1), float("inf")).to_end()


def test_lenet_is_checked_in_60_ms() -> None:
    """Processor time of this process, since the machine may have other work."""
    settings = Local(batch_size=32)
    classes = [str(index) for index in range(62)]
    model = build.build({"name": "lenet"}, classes, (28, 28), 1, CPU)
    torch.set_num_threads(1)
    spent = []
    for _ in range(7):
        begin = time.process_time()
        start_check.check(model, settings, shapes.of((300, 41), (50, 300), settings), (28, 28), 62, "lenet")
        spent.append(time.process_time() - begin)
    assert statistics.median(spent) < 0.06


@pytest.mark.parametrize("name", ["NumpyWeights", "NumpyProjection", "StochasticDepth", "Dropping"])
def test_the_seed_alone_decides(name: str) -> None:
    """Initial parameters and a silo's training, whatever was drawn before."""
    ends = []
    for before in (1, 2):
        np.random.seed(before)  # noqa: NPY002
        random.seed(before)
        torch.manual_seed(before)
        model = make(name)
        initial = sha256(model.host.data)
        step = local.Step(model, SETTINGS)
        step.seed(seeds.torch_seed(5, "dropout", 3, 2))
        rng = np.random.default_rng(7)
        samples = local.load(rng.integers(0, 256, (40, *SHAPE), np.uint8), rng.integers(0, 5, 40), CPU)
        local.Training(model, samples, SETTINGS, torch.zeros_like(model.gradient), rng, float("inf"), step).to_end()
        ends.append((initial, sha256(model.host.data)))
    assert ends[0] == ends[1]
    assert make(name, seed=6).host.tobytes() != make(name, seed=5).host.tobytes()


def test_random_numbers_in_evaluation_follow_from_the_seed() -> None:
    model = make("AlwaysDropping")
    rng = np.random.default_rng(7)
    samples = local.load(rng.integers(0, 256, (40, *SHAPE), np.uint8), rng.integers(0, 5, 40), CPU)
    first = scoring.evaluate(model, samples, 3)
    torch.manual_seed(8)
    assert scoring.evaluate(model, samples, 3) == first
    assert scoring.evaluate(model, samples, 4) != first


def test_an_extra_state_reaches_the_file() -> None:
    import io

    state = torch.load(io.BytesIO(make("ExtraState").encode()), weights_only=True)
    assert state["_extra_state"] == {"temperature": 2.0}


def test_our_own_model_on_images_that_do_not_fit_is_no_fault_of_the_user() -> None:
    with pytest.raises(SilofoldError) as caught:
        build.build({"name": "lenet"}, CLASSES, (8, 8), 1, CPU)
    assert caught.value.exit_code == 2
