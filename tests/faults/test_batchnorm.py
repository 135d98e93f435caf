"""BatchNorm's running statistics are no parameters: a whole federation in one process against FedAvg in plain torch."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

import mpirun
from budget import whole_run
from silofold import config
from silofold.aggregation import exact
from silofold.config import Rounds
from silofold.core import plugins, seeds, topology
from silofold.roles.server import Server
from silofold.training import local
from silofold.training.flat import FlatModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

CPU = torch.device("cpu")
SIZES, CLASSES, ROUNDS, SEED = (40, 26, 18), 4, 30, 5
LOCAL = config.Local(epochs=1, batch_size=8, lr=0.05)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Net(nn.Sequential):
    """Running statistics, an integer counter, a channel that is always dead, and a frozen layer."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(8), nn.MaxPool2d(4), nn.Flatten(),
            nn.Linear(128, 16), nn.BatchNorm1d(16, momentum=0.9), nn.Linear(16, CLASSES),
        )  # fmt: skip
        with torch.no_grad():
            assert isinstance(self[0].bias, nn.Parameter)
            self[0].bias[3] = -50.0
        for parameter in self[5].parameters():
            parameter.requires_grad = False


def silos() -> list[local.Samples]:
    """Pictures whose bright bar tells the class."""
    rng, made = np.random.default_rng(3), []
    for size in SIZES:
        labels = rng.integers(CLASSES, size=size)
        images = rng.integers(0, 60, size=(size, 16, 16)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[3 * label : 3 * label + 3, 2:14] += 180
        made.append(local.load(images, labels, CPU))
    return made


def initial() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return Net()


class Federation:
    """Servers and one worker of silofold, without MPI between them."""

    def __init__(self, strategy: dict[str, Any], optimizer: dict[str, Any], reduction: str, servers: int) -> None:
        self.model, self.silos = FlatModel(initial(), CPU), silos()
        self.vector = self.model.host.copy()
        self.exact = reduction == "exact"
        self.strategy = plugins.load("strategy", strategy)
        job: Any = SimpleNamespace(
            settings=SimpleNamespace(server_optimizer=optimizer, reduction=reduction, rounds=Rounds()),
            strategy=self.strategy,
            uplink=SimpleNamespace(sums=self.strategy.needs == "sum"),
            layout=topology.Layout(1 + servers + 1, servers),
            elements=getattr(self.model, "elements", None),
        )
        node: Any = SimpleNamespace(model=self.vector)
        self.servers: list[tuple[slice, Server]] = []
        for index, span in enumerate(topology.shard_slices(self.model.size, servers)):
            world: Any = SimpleNamespace(rank=1 + index, send=lambda *_: None, places=[("host", 1)] * 9, survives=False)
            self.servers.append((span, Server(world, job, node, span, None)))

    def play(self, number: int) -> None:
        start, weights = self.vector.copy(), [self.strategy.weight(size) for size in SIZES]
        updates = []
        for index, samples in enumerate(self.silos):
            self.model.load(start)
            rng = seeds.generator(SEED, "shuffle", number, index)
            local.Training(self.model, samples, LOCAL, torch.zeros_like(self.model.gradient), rng, float("inf")).to_end()
            updates.append(self.model.host - start)
        received: NDArray[Any] = np.stack(updates)
        if self.strategy.needs == "sum":
            received = np.zeros(len(start), np.int64 if self.exact else np.float32)
            for update, weight in zip(updates, weights, strict=True):
                if self.exact:
                    exact.add(received, update, weight)
                else:
                    received += np.float32(weight) * update
        tally: Any = SimpleNamespace(round=number, silos=(0, 1, 2), weights=tuple(weights))
        for span, server in self.servers:
            server.apply(np.ascontiguousarray(received[..., span]), tally)

    def state(self) -> dict[str, torch.Tensor]:
        self.model.load(self.vector)
        return {name: value.clone() for name, value in self.model.module.state_dict().items()}


class Plain:
    """FedAvg by torch.optim and numpy: a rule moves parameters, buffers are the mean or the median of the silos' values."""

    def __init__(self, strategy: dict[str, Any], optimizer: dict[str, Any]) -> None:
        self.net, self.silos, self.optimizer = initial(), silos(), optimizer
        self.median, self.equal = strategy["name"] == "median", strategy.get("weights") == "equal"
        self.memory: dict[str, list[NDArray[np.float64]]] = {}
        self.kinds = {name: value.requires_grad for name, value in self.net.named_parameters()}

    def play(self, number: int) -> None:
        start = copy.deepcopy(self.net.state_dict())
        ended = [self.trained(start, number, index) for index in range(len(self.silos))]
        for name, before in start.items():
            if before.is_floating_point() and self.kinds.get(name) is not False:
                old = before.numpy().astype(np.float64)
                middle = self.middle([state[name].numpy().astype(np.float64) for state in ended])
                new = self.moved(name, old, middle - old) if name in self.kinds else middle
                before.copy_(torch.from_numpy(new))
        self.net.load_state_dict(start)

    def trained(self, start: dict[str, torch.Tensor], number: int, index: int) -> dict[str, torch.Tensor]:
        self.net.load_state_dict(start)
        self.net.train()
        x, y = self.silos[index].images.float() / 255, self.silos[index].labels
        optimizer = torch.optim.SGD(
            [p for p in self.net.parameters() if p.requires_grad], lr=LOCAL.lr, momentum=LOCAL.momentum
        )
        for batch in torch.split(torch.from_numpy(seeds.generator(SEED, "shuffle", number, index).permutation(len(y))), 8):
            optimizer.zero_grad()
            nn.functional.cross_entropy(self.net(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return copy.deepcopy(self.net.state_dict())

    def middle(self, values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        if self.median:
            return np.asarray(np.sort(np.stack(values), axis=0)[1])
        weights = [1] * len(SIZES) if self.equal else SIZES
        return np.asarray(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))

    def moved(self, name: str, old: NDArray[np.float64], delta: NDArray[np.float64]) -> NDArray[np.float64]:
        given = self.optimizer
        if given["name"] == "sgd":
            (kept,) = self.memory.setdefault(name, [np.zeros_like(old)])
            kept[...] = given.get("momentum", 0.0) * kept + delta
            return np.asarray(old + given.get("lr", 1.0) * kept)
        tau = 1e-3
        m, v = self.memory.setdefault(name, [np.zeros_like(old), np.full_like(old, tau**2)])
        m[...] = 0.9 * m + 0.1 * delta
        square = delta**2
        rules = {
            "adam": 0.99 * v + 0.01 * square,
            "yogi": v - 0.01 * square * np.sign(v - square),
            "adagrad": v + square,
        }
        v[...] = rules[given["rule"]]
        return np.asarray(old + given.get("lr", 0.01) * m / (np.sqrt(v) + tau))


MEAN, MEDIAN = {"name": "mean"}, {"name": "median"}
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("exact", MEAN, {"name": "sgd"}),
    ("exact", MEAN, {"name": "sgd", "momentum": 0.9}),
    ("exact", MEAN, {"name": "sgd", "lr": 0.3}),
    ("exact", MEAN, {"name": "adaptive", "rule": "adam", "lr": 0.1}),
    ("exact", MEAN, {"name": "adaptive", "rule": "yogi", "lr": 0.1}),
    ("exact", MEAN, {"name": "adaptive", "rule": "adagrad", "lr": 0.1}),
    ("exact", {"name": "mean", "weights": "equal"}, {"name": "sgd", "momentum": 0.9}),
    ("float32", MEAN, {"name": "sgd", "momentum": 0.9}),
    ("float32", MEAN, {"name": "adaptive", "rule": "adam", "lr": 0.1}),
    ("exact", MEDIAN, {"name": "sgd"}),
    ("exact", MEDIAN, {"name": "adaptive", "rule": "adam", "lr": 0.1}),
]


@pytest.mark.parametrize(("reduction", "strategy", "optimizer"), CASES, ids=str)
def test_thirty_rounds_equal_a_plain_fedavg(reduction: str, strategy: dict[str, Any], optimizer: dict[str, Any]) -> None:
    """Round by round from the same model: two trainings that are a rounding apart drift apart, whatever the servers do."""
    ours, plain = Federation(strategy, optimizer, reduction, 2), Plain(strategy, optimizer)
    for number in range(1, ROUNDS + 1):
        ours.play(number)
        plain.play(number)
        state, expected = ours.state(), plain.net.state_dict()
        for name, value in state.items():
            if name.endswith("running_var"):
                assert float(value.min()) >= 0, (number, name, value)
            gap = float((value.double() - expected[name].double()).abs().max())
            assert gap <= 1e-8 + 1e-5 * float(expected[name].abs().max()), (number, name)
        plain.net.load_state_dict(state)
    begun = initial().state_dict()
    assert torch.equal(state["5.weight"], begun["5.weight"])  # frozen
    assert not torch.equal(state["2.running_var"], begun["2.running_var"])


@pytest.mark.parametrize("reduction", ["exact", "float32"])
def test_the_variance_of_a_dead_channel_ends_at_zero(reduction: str) -> None:
    """It shrinks below what a sum of updates can tell from zero, and must not come out on the other side."""
    federation = Federation(MEAN, {"name": "sgd"}, reduction, 1)
    for number in range(1, 91):
        federation.play(number)
        variance = federation.state()["2.running_var"]
        assert float(variance.min()) >= 0, (number, variance)
    assert float(variance[3]) < 1e-9


# --- whole runs ------------------------------------------------------------------------------------------------------


def launched(out: Path, tiny: Path, recipe: Path, shape: tuple[int, int], *settings: str) -> list[dict[str, Any]]:
    """Run to the end, and return the lines of its rounds."""
    servers, workers = shape
    tests = {"PYTHONPATH": str(Path(__file__).parents[1])}
    given = (f"roles.servers={servers}", *settings)
    ended = mpirun.train(1 + servers + workers, recipe, tiny, out, *given, environment=tests)
    assert ended.code == 0, ended
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@whole_run
@pytest.mark.parametrize(
    "settings",
    [
        ("server_optimizer.momentum=0.9",),
        ("server_optimizer.name=adaptive", "server_optimizer.rule=adam", "server_optimizer.lr=0.1"),
        ("server_optimizer.name=adaptive", "server_optimizer.rule=yogi", "server_optimizer.lr=0.1"),
        ("strategy.name=median",),
    ],
)
def test_a_run_with_batchnorm(settings: tuple[str, ...], tiny: Path, recipe: Path, tmp_path: Path) -> None:
    run = ("model.name=own_model:Pictures", "rounds.count=12", *settings)
    rounds = launched(tmp_path / "a", tiny, recipe, (1, 2), *run)
    again = launched(tmp_path / "b", tiny, recipe, (3, 3), *run)
    assert [one["model_sha256"] for one in rounds] == [one["model_sha256"] for one in again]
    assert all(one["test_loss"] is not None for one in rounds)
    state = torch.load(tmp_path / "a" / "model.pt", weights_only=True)
    assert float(state["1.running_var"].min()) >= 0
    told = json.loads((tmp_path / "a" / "run.json").read_text())["elements"]
    assert list(told) == [name for name in state if name != "1.num_batches_tracked" and "running" not in name] + [
        "1.running_mean", "1.running_var",
    ]  # fmt: skip


@whole_run
def test_float32_sums_have_no_bound(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    rounds = launched(
        tmp_path / "a", tiny, recipe, (1, 2), "model.name=own_model:Raw", "reduction=float32", "rounds.count=2"
    )
    assert [one["accepted"] for one in rounds] == [[0, 1, 2, 3, 4, 5]] * 2
