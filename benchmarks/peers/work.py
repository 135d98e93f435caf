"""What every framework is asked to do: a recipe on silos as benchmarks/bare.py does it, or to move a large model.

It needs torch, and for silos numpy, h5py and msgspec, but no framework.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Final, Protocol

import torch
from torch import nn

import bare
from silofold.core import recipes

RECIPE: Final = "PEERS_RECIPE"
"""Variable that names the recipe; where it is empty there is no training, but a model to be moved."""
SILOS: Final = "PEERS_SILOS"
"""Variable that names the folder of silos."""
ROUNDS: Final = "PEERS_ROUNDS"
"""Variable with the number of rounds."""
CLIENTS, WEIGHT, TENSORS, FLOATS, MOVE = 7, 100, 25, 1_000_000, 0.5


class Work(Protocol):
    """What a silo does."""

    @property
    def model(self) -> nn.Module: ...  # noqa: D102

    weights: list[int]
    """Examples that each silo trains on."""

    def train(self, silo: int, number: int) -> None:
        """Train the model for a round."""

    def evaluate(self, silo: int) -> bare.Scores:
        """Evaluate the model."""


class Half:
    """Adds 1/2 to each of 25 million parameters; the "loss" is their largest distance to 0, which tells the rounds."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.weights = [WEIGHT] * CLIENTS
        self.model: nn.Module = nn.ParameterList([torch.zeros(FLOATS) for _ in range(TENSORS)])

    @torch.no_grad()
    def train(self, silo: int, number: int) -> None:
        """Add."""
        del silo, number
        for parameter in self.model.parameters():
            parameter.add_(MOVE)

    def evaluate(self, silo: int) -> bare.Scores:
        """Look at one element of each tensor."""
        del silo
        return 1, 0, max(float(parameter[0].abs()) for parameter in self.model.parameters())


@functools.cache
def work() -> Work:
    """Return this process's work; a silo is read when it is first asked for."""
    if not trains():
        return Half()
    recipe = Path(os.environ[RECIPE])
    return bare.Host(recipes.parse(recipe.read_text(encoding="utf-8"), str(recipe)), Path(os.environ[SILOS]), ())


def trains() -> bool:
    """Tell whether there is something to train and so to evaluate in every round."""
    return bool(os.environ.get(RECIPE))


def rounds() -> int:
    """Return the number of rounds."""
    return int(os.environ[ROUNDS])


def tell(ends: list[float], scores: list[bare.Scores]) -> None:
    """Print when each round's model was there, and the loss of the last one on all test images."""
    examples, _, loss_sum = (sum(part) for part in zip(*scores, strict=True))
    print(json.dumps({"ends": ends, "test_loss": loss_sum / examples}), flush=True)
