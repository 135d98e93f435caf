"""LeNet-5 as the cross-silo FEMNIST tutorial of MindSpore r1.6 defines it.

Two 5×5 convolutions without bias (6 and 16 channels), each with ReLU and 2×2 max-pooling, then 120, 84 and one unit a
class. Every weight and bias starts from a normal of standard deviation 0.02, cut at two standard deviations.

References
----------
Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition", Proc. IEEE 86 (1998).
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import nn
from torch.nn import functional

from silofold.config import Section
from silofold.core.errors import ConfigError

PADDED = 8
"""Channels after the first convolution, those that are always 0 included."""


class LeNetSettings(Section, frozen=True):
    """Settings of the model ``lenet``."""

    name: str = "lenet"
    channels: Annotated[int, Meta(ge=1, le=4)] = 1
    """Input channels. Gray images are repeated in each."""


class LeNet(nn.Module):
    """LeNet-5.

    Parameters
    ----------
    settings
        The model's own settings.
    classes
        Number of classes.
    image_shape
        (H, W) or (H, W, C) of the images; H and W at least 16.

    Raises
    ------
    ConfigError
        The images are too small or of other channels.
    """

    Settings = LeNetSettings

    def __init__(self, settings: LeNetSettings, classes: int, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        height, width = ((side - 4) // 2 - 4 for side in image_shape[:2])
        if min(height, width) < 2:
            raise ConfigError("model-fit", f"model lenet: found images of {image_shape}, expected 16×16 pixels or more")
        if len(image_shape) == 3 and image_shape[2] != settings.channels:
            raise ConfigError("model-fit", f"model.channels = {settings.channels}: the silos' images have {image_shape[2]}")
        self.channels = settings.channels
        self.conv1 = nn.Conv2d(settings.channels, 6, 5, bias=False)
        self.conv2 = nn.Conv2d(6, 16, 5, bias=False)
        self.fc1 = nn.Linear(16 * (height // 2) * (width // 2), 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)
        for parameter in self.parameters():
            nn.init.trunc_normal_(parameter, std=0.02, a=-0.04, b=0.04)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) float32 images in [0, 1] to (B, classes) logits."""
        kernels = self.conv1.weight
        if images.shape[1] == 1:
            # equal channels are one channel with summed kernels: the same function for a third of the work
            kernels = kernels.sum(1, keepdim=True)
        # what follows never leaves the channels-last format, with channels in eights: pooling is vectorised over them, and
        # 6 of them took longer than 8. Those that are added are 0, in and out. ReLU after pooling sees a quarter as much.
        kernels = functional.pad(kernels, (0, 0, 0, 0, 0, 0, 0, PADDED - kernels.shape[0]))
        x = functional.max_pool2d(functional.conv2d(channels_last(images), channels_last(kernels)), 2)
        kernels = functional.pad(self.conv2.weight, (0, 0, 0, 0, 0, PADDED - self.conv2.weight.shape[1]))
        x = functional.max_pool2d(functional.conv2d(functional.relu(x), channels_last(kernels)), 2)
        x = functional.relu(self.fc1(functional.relu(x).flatten(1)))
        logits: torch.Tensor = self.fc3(functional.relu(self.fc2(x)))
        return logits


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """Lay (B, C, H, W) out with its channels side by side.

    ``Tensor.contiguous`` leaves a single channel as it is, and a convolution then takes it for the other format.
    """
    if x.shape[1] == 1:
        return x.contiguous().view(x.shape[0], *x.shape[2:], 1).permute(0, 3, 1, 2)
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


plugin = LeNet
