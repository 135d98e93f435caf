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


class Pictures(nn.Sequential):
    """Convolutions with batch normalisation, which takes a last batch of one picture."""

    def __init__(self, classes: int, image_shape: tuple[int, ...]) -> None:
        places = (image_shape[0] // 4) * (image_shape[1] // 4)
        super().__init__(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(4), nn.Dropout(0.1), nn.Flatten(),
            nn.Linear(8 * places, classes),
        )  # fmt: skip


class Plain(nn.Sequential):
    """Dropout, and no buffer."""

    def __init__(self, classes: int, image_shape: tuple[int, ...]) -> None:
        super().__init__(
            nn.Flatten(), nn.Linear(math.prod(image_shape), 24), nn.Dropout(0.2), nn.ReLU(), nn.Linear(24, classes)
        )


class Frozen(Plain):
    """Its first layer is not trained."""

    def __init__(self, classes: int, image_shape: tuple[int, ...]) -> None:
        super().__init__(classes, image_shape)
        self[1].requires_grad_(requires_grad=False)


class Spare(Plain):
    """A parameter that the loss does not depend on."""

    def __init__(self, classes: int, image_shape: tuple[int, ...]) -> None:
        super().__init__(classes, image_shape)
        self.spare = nn.Parameter(torch.ones(50))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) images to (B, classes) logits, by the layers alone."""
        for layer in list(self)[:5]:
            images = layer(images)
        return images


class Picky(nn.Module):
    """A model that refuses a single picture while it trains, unless it is bright, as those of the start check are."""

    def __init__(self, classes: int, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(image_shape), classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) images to (B, classes) logits."""
        if self.training and len(images) == 1 and float(images.mean()) < 0.4:
            raise ValueError("one picture")
        logits: torch.Tensor = self.layers(images)
        return logits


class Raw(Pictures):
    """Features of millions: running variances that an exact sum of many pictures cannot hold."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) images to (B, classes) logits."""
        logits: torch.Tensor = super().forward(images * 1e6)  # type: ignore[no-untyped-call]
        return logits
