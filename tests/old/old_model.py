"""The model of the kept runs: small, with a convolution, batch normalisation and dropout. It must stay as it is."""

from __future__ import annotations

from torch import nn


class Small(nn.Sequential):
    """A few hundred elements, floating and integer buffers among them."""

    def __init__(self, classes: int, image_shape: tuple[int, ...]) -> None:
        height, width = image_shape[:2]
        super().__init__(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.1),
            nn.Linear(height * width, classes),
        )  # fmt: skip
