"""FedAvg in plain torch, in one process: what a run of silofold must come close to.

It shares with silofold the settings, the silo files and the streams of random numbers (so that initial parameters and
the order of the batches are the same) and nothing else: its own model, torch.optim.SGD, and a mean of state dicts in
floating point. Parameters are saved as one float32 vector in the order of `LeNet.named_parameters`, which is silofold's.

    python tests/serial.py RUN.toml --data DIR [--set KEY=VALUE] [--rounds N] --out FOLDER

leaves ``round_1.npy``, ``last.npy`` and ``metrics.jsonl`` in FOLDER.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from silofold.core import recipes, seeds
from silofold.core.errors import SilofoldError
from silofold.data import silo as silos

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from silofold import config

# what this script reproduces; whatever else the settings ask for is refused
PLAIN: dict[str, dict[str, object]] = {
    "cohort": {"name": "all"},
    "strategy": {"name": "mean", "weights": "examples"},
    "server_optimizer": {"name": "sgd", "lr": 1.0, "momentum": 0.0},
}


class LeNet(nn.Module):
    """LeNet-5 of the cross-silo FEMNIST tutorial: two convolutions without bias, three dense layers."""

    def __init__(self, channels: int, classes: int, height: int, width: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv1 = nn.Conv2d(channels, 6, 5, bias=False)
        self.conv2 = nn.Conv2d(6, 16, 5, bias=False)
        self.fc1 = nn.Linear(16 * (((height - 4) // 2 - 4) // 2) * (((width - 4) // 2 - 4) // 2), 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)
        for parameter in self.parameters():
            nn.init.trunc_normal_(parameter, mean=0.0, std=0.02, a=-0.04, b=0.04)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) images in [0, 1] to (B, classes) logits."""
        if x.shape[1] != self.channels:
            x = x.repeat(1, self.channels, 1, 1)
        x = torch.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = torch.max_pool2d(torch.relu(self.conv2(x)), 2)
        x = torch.relu(self.fc1(torch.flatten(x, 1)))
        logits: torch.Tensor = self.fc3(torch.relu(self.fc2(x)))
        return logits


class Silo(NamedTuple):
    """Images (M, C, H, W) float32 in [0, 1] and labels (M,) of both splits."""

    x: torch.Tensor
    y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="FedAvg in plain torch: the reference of silofold's tests.")
    parser.add_argument("recipe", type=Path, metavar="RUN.toml", help="the settings of the run")
    parser.add_argument("--data", type=Path, required=True, help="folder of silos")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--rounds", type=int, help="rounds (default: rounds.count of the settings)")
    parser.add_argument("--out", type=Path, required=True, help="folder for round_1.npy, last.npy and metrics.jsonl")
    options = parser.parse_args(arguments)
    try:
        settings = recipes.parse(options.recipe.read_text(encoding="utf-8"), str(options.recipe), options.set)
        check(settings)
        federate(settings, options.data, options.rounds or settings.rounds.count, options.out)
    except (SilofoldError, OSError) as fault:
        print(f"serial: error: {fault}", file=sys.stderr)
        return 2
    return 0


def check(settings: config.Settings) -> None:
    """Refuse settings that are more than plain FedAvg on LeNet."""
    for name, plain in PLAIN.items():
        found = plain | getattr(settings, name)
        if found != plain:
            raise SilofoldError("data-read", f"{name} = {found}: this script knows {plain} alone")
    if settings.model.get("name") != "lenet":
        raise SilofoldError("data-read", f"model = {settings.model}: this script knows lenet alone")


def federate(settings: config.Settings, folder: Path, rounds: int, out: Path) -> LeNet:
    """Train for some rounds, print a line each, and save the vectors."""
    torch.set_num_threads(settings.local.threads)
    out.mkdir(parents=True, exist_ok=True)
    manifest = silos.read_manifest(folder)
    held = [read(folder, info, manifest) for info in manifest.silos]
    model = initial(settings, len(manifest.classes), manifest.image_shape)
    memory: dict[int, dict[str, Any]] = {}
    with (out / "metrics.jsonl").open("w", encoding="utf-8") as metrics:
        for number in range(1, rounds + 1):
            begin = time.perf_counter()
            train_loss = play(model, held, settings, number, memory)
            scores = evaluate(model, held)
            line = scores | {"round": number, "train_loss": train_loss, "seconds": time.perf_counter() - begin}
            metrics.write(json.dumps(line, sort_keys=True) + "\n")
            metrics.flush()
            print(
                f"round {number:>3}  accuracy {line['accuracy']:7.3%} "
                f"[{line['accuracy_low']:.1%}, {line['accuracy_high']:.1%}] of {line['test_examples']}  "
                f"train loss {train_loss:.4f}  {line['seconds']:.2f} s",
                flush=True,
            )
            if number == 1:
                np.save(out / "round_1.npy", vector(model))
    np.save(out / "last.npy", vector(model))
    return model


def read(folder: Path, info: silos.SiloInfo, manifest: silos.Manifest) -> Silo:
    """Read both splits of a silo as float images."""
    parts: list[torch.Tensor] = []
    for name in silos.SPLITS:
        split = silos.read_split(folder, info, name, manifest)
        images = split.images[:, None] if split.images.ndim == 3 else np.moveaxis(split.images, 3, 1)
        parts += [torch.from_numpy(np.ascontiguousarray(images)).float() / 255, torch.from_numpy(split.labels)]
    return Silo(*parts)


def initial(settings: config.Settings, classes: int, image_shape: Sequence[int]) -> LeNet:
    """Make the model that the seed says."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.torch_seed(settings.seed, "model"))
        return LeNet(settings.model.get("channels", 1), classes, image_shape[0], image_shape[1])


def play(
    model: LeNet, held: Sequence[Silo], settings: config.Settings, number: int, memory: dict[int, dict[str, Any]]
) -> float:
    """Play one round: train a copy in every silo, load the mean of the copies, return the mean training loss."""
    start = {name: value.clone() for name, value in model.state_dict().items()}
    mean = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in start.items()}
    everything = sum(len(silo.y) for silo in held)
    loss_sum, seen = 0.0, 0
    for index, silo in enumerate(held):
        model.load_state_dict(start)
        optimizer = torch.optim.SGD(
            model.parameters(),
            lr=settings.local.lr,
            momentum=settings.local.momentum,
            weight_decay=settings.local.weight_decay,
        )
        if settings.local.keep_momentum and index in memory:
            optimizer.load_state_dict(memory[index])
        rng = seeds.generator(settings.seed, "shuffle", number, index)
        found = train(model, optimizer, silo, settings.local, rng)
        loss_sum, seen = loss_sum + found[0], seen + found[1]
        memory[index] = optimizer.state_dict()
        for name, value in model.state_dict().items():
            mean[name] += value.double() * (len(silo.y) / everything)
    model.load_state_dict({name: value.float() for name, value in mean.items()})
    return loss_sum / max(seen, 1)


def train(
    model: nn.Module, optimizer: torch.optim.SGD, silo: Silo, local: config.Local, rng: np.random.Generator
) -> tuple[float, int]:
    """Train on one silo; return the loss summed over the examples that were seen, and their number."""
    model.train()
    loss_sum, seen = 0.0, 0
    for _ in range(local.epochs):
        for batch in torch.split(torch.from_numpy(rng.permutation(len(silo.y))), local.batch_size):
            if local.drop_last and len(batch) < local.batch_size:
                continue
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(silo.x[batch]), silo.y[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss_sum, seen = loss_sum + loss.item() * len(batch), seen + len(batch)
    return loss_sum, seen


def evaluate(model: nn.Module, held: Sequence[Silo]) -> dict[str, Any]:
    """Evaluate on all test images of all silos."""
    model.eval()
    correct, loss_sum, examples = 0, 0.0, 0
    with torch.no_grad():
        for silo in held:
            if len(silo.test_y):
                logits = model(silo.test_x)
                correct += int((logits.argmax(1) == silo.test_y).sum())
                loss_sum += float(nn.functional.cross_entropy(logits.double(), silo.test_y, reduction="sum"))
                examples += len(silo.test_y)
    low, high = interval(correct, examples)
    return {
        "correct": correct,
        "test_examples": examples,
        "accuracy": correct / max(examples, 1),
        "accuracy_low": low,
        "accuracy_high": high,
        "test_loss": loss_sum / max(examples, 1),
    }


def interval(correct: int, examples: int) -> tuple[float, float]:
    """Wilson's interval of 95 %, as the roots of (p - share)² = z² p (1 - p) / n."""
    z, n = 1.959963984540054, max(examples, 1)
    a, b, c = 1 + z * z / n, -(2 * correct / n + z * z / n), (correct / n) ** 2
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def vector(model: nn.Module) -> NDArray[np.float32]:
    """Lay all parameters out as one (P,) float32 vector."""
    parts = [value.detach().numpy().ravel() for _, value in model.named_parameters()]
    return np.concatenate(parts).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
