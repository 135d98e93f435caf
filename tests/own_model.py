"""A user's own model, outside the package: two layers with batch normalisation in between."""

from __future__ import annotations

import math
import time

import torch
from torch import nn


class Net(nn.Module):
    """A small network; `classes` and `image_shape` come from the data, `width` from the settings."""

    def __init__(self, classes: int, image_shape: tuple[int, ...], width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(image_shape), width), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, classes),
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) images to (B, classes) logits."""
        logits: torch.Tensor = self.layers(images)
        return logits


class Sleepy(Net):
    """A model that takes its time over each training step of a large silo: more than a window holds."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Sleep where a full batch of 8 is trained, then do as `Net` does."""
        if self.training and len(images) == 8:
            time.sleep(1.0)
        return super().forward(images)
