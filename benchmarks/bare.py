"""Federated averaging without any framework, the floor of benchmarks/floor.py: eager torch, data in memory, pipes.

``python benchmarks/bare.py RECIPE DATA PROCESSES`` trains in this process, or in so many forked ones with one torch thread
each, and prints one JSON object. Each silo's order of the examples and the initial model are those of silofold, so the test
losses are equal but for rounding. It is written as one would write it in an afternoon: images as float32 in the model's
channels, ``torch.optim.SGD``, an evaluation of every silo in every round.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from silofold.core import recipes, seeds, topology
from silofold.data import silo as silos

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

    from silofold import config

State = list[torch.Tensor]
Scores = tuple[int, int, float]
"""Test images, how many are right, loss sum."""
Part = tuple[list[torch.Tensor], int, Scores]
"""Weighted sum of the models, sum of the weights, scores of the model that came in."""


class LeNet(nn.Module):
    """LeNet-5 as the tutorial writes it."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 5, bias=False)
        self.conv2 = nn.Conv2d(6, 16, 5, bias=False)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, classes)
        for parameter in self.parameters():
            nn.init.trunc_normal_(parameter, std=0.02, a=-0.04, b=0.04)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, 32, 32) to logits."""
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = functional.relu(self.fc1(x.flatten(1)))
        logits: torch.Tensor = self.fc3(functional.relu(self.fc2(x)))
        return logits


class Host:
    """The silos of one process."""

    def __init__(self, settings: config.Settings, folder: Path, mine: Sequence[int]) -> None:
        torch.set_num_threads(1)
        self.settings, self.folder, self.manifest = settings, folder, silos.read_manifest(folder)
        self.weights = [silo.train.examples for silo in self.manifest.silos]
        torch.manual_seed(seeds.torch_seed(settings.seed, "model"))
        self.model = LeNet(settings.model["channels"], len(self.manifest.classes))
        self.data: dict[int, list[torch.Tensor]] = {}
        for silo in mine:
            self.read(silo)

    def read(self, silo: int) -> list[torch.Tensor]:
        """Return images and labels to train on, images and labels to test with; they stay in memory."""
        if silo not in self.data:
            self.data[silo] = []
            for name in silos.SPLITS:
                split = silos.read_split(self.folder, self.manifest.silos[silo], name, self.manifest)
                gray = torch.from_numpy(split.images).float().div_(255).unsqueeze(1)
                images = gray.repeat(1, self.settings.model["channels"], 1, 1).contiguous()
                self.data[silo] += [images, torch.from_numpy(split.labels)]
        return self.data[silo]

    def play(self, state: State, number: int, *, last: bool) -> Part:
        """Evaluate the model on each silo and, but for the last time, train it there."""
        sums: State = []
        weights, examples, right, loss_sum = 0, 0, 0, 0.0
        for silo in self.data:
            with torch.no_grad():
                for parameter, value in zip(self.model.parameters(), state, strict=True):
                    parameter.copy_(value)
            if number > 1:
                scores = self.evaluate(silo)
                examples, right, loss_sum = examples + scores[0], right + scores[1], loss_sum + scores[2]
            if last:
                continue
            self.train(silo, number)
            with torch.no_grad():
                moved = [parameter * self.weights[silo] for parameter in self.model.parameters()]
                sums = [a.add_(b) for a, b in zip(sums, moved, strict=True)] if sums else moved
            weights += self.weights[silo]
        return sums, weights, (examples, right, loss_sum)

    @torch.no_grad()
    def evaluate(self, silo: int) -> Scores:
        """Count a silo's test images, those that the model has right, and its loss on all of them."""
        _, _, x, y = self.read(silo)
        self.model.eval()
        logits = self.model(x)
        return len(y), int((logits.argmax(1) == y).sum()), float(functional.cross_entropy(logits, y, reduction="sum"))

    def train(self, silo: int, number: int) -> None:
        """Train the model on a silo for a round."""
        x, y, _, _ = self.read(silo)
        local = self.settings.local
        rng = seeds.generator(self.settings.seed, "shuffle", number, silo)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=local.lr, momentum=local.momentum)
        self.model.train()
        for _ in range(local.epochs):
            order = torch.from_numpy(rng.permutation(len(y)))
            for start in range(0, len(y) - local.batch_size + 1, local.batch_size):
                batch = order[start : start + local.batch_size]
                optimizer.zero_grad()
                functional.cross_entropy(self.model(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()


def serve(pipe: Connection, settings: config.Settings, folder: Path, mine: Sequence[int]) -> None:
    """Answer the parent's rounds in a forked process."""
    host = Host(settings, folder, mine)
    while (order := pipe.recv()) is not None:
        shapes = [parameter.shape for parameter in host.model.parameters()]
        state = [torch.frombuffer(bytearray(pipe.recv_bytes()), dtype=torch.float32).view(shape) for shape in shapes]
        sums, weights, scores = host.play(state, order[0], last=order[1])
        pipe.send((len(sums), weights, scores))
        for tensor in sums:
            pipe.send_bytes(tensor.numpy().data)


def fork(settings: config.Settings, folder: Path, processes: int) -> list[Connection]:
    """Start the processes; silos are spread longest first."""
    examples = [silo.train.examples for silo in silos.read_manifest(folder).silos]
    context, pipes = multiprocessing.get_context("fork"), []
    for mine in topology.assign_silos(examples, processes):
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, settings, folder, mine), daemon=True).start()
        pipes.append(ours)
    return pipes


def ask(pipes: Sequence[Connection], state: State, number: int, *, last: bool) -> list[Part]:
    """Play a round in the processes."""
    for pipe in pipes:
        pipe.send((number, last))
        for tensor in state:
            pipe.send_bytes(tensor.numpy().data)
    parts = []
    for pipe in pipes:
        count, weights, scores = pipe.recv()
        sums = [torch.frombuffer(bytearray(pipe.recv_bytes()), dtype=torch.float32) for _ in range(count)]
        parts.append(([a.view(b.shape) for a, b in zip(sums, state, strict=False)], weights, scores))
    return parts


def main() -> None:
    """Train and print."""
    recipe, folder, processes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    settings = recipes.parse(recipe.read_text(encoding="utf-8"), str(recipe))
    everyone = range(len(silos.read_manifest(folder).silos))
    host = Host(settings, folder, everyone if processes == 1 else ())
    pipes = fork(settings, folder, processes) if processes > 1 else []
    state: State = [parameter.detach().clone() for parameter in host.model.parameters()]
    ends = [time.monotonic()]
    right, examples, loss_sum = 0, 0, 0.0
    for number in range(1, settings.rounds.count + 2):
        last = number > settings.rounds.count
        parts = ask(pipes, state, number, last=last) if pipes else [host.play(state, number, last=last)]
        examples, right, loss_sum = (sum(scores) for scores in zip(*(part[2] for part in parts), strict=True))
        if not last:
            weights = sum(part[1] for part in parts)
            state = [sum(tensors[1:], tensors[0]) / weights for tensors in zip(*(part[0] for part in parts), strict=True)]
            ends.append(time.monotonic())
    for pipe in pipes:
        pipe.send(None)
    rounds = [b - a for a, b in itertools.pairwise(ends)]
    found: dict[str, Any] = {
        "ends": ends[1:], "round_seconds": rounds, "test_loss": loss_sum / examples, "accuracy": right / examples,
    }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
