from __future__ import annotations

import numpy as np
import pytest
import torch

from silofold.core.errors import ConfigError
from silofold.training import build
from silofold.training.models.lenet import LeNet, LeNetSettings

CLASSES = [str(number) for number in range(62)]
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("channels", "shape", "parameters"),
    [
        (3, (32, 32), 450 + 2400 + (400 * 120 + 120) + (120 * 84 + 84) + (84 * 62 + 62)),
        (3, (32, 32, 3), 66_404),
        (1, (32, 32), 66_104),
        (1, (28, 28), 150 + 2400 + (256 * 120 + 120) + 10_164 + 5_270),
        (1, (16, 17), 150 + 2400 + (16 * 120 + 120) + 10_164 + 5_270),
    ],
)
def test_parameters(channels: int, shape: tuple[int, ...], parameters: int) -> None:
    model = build.build({"name": "lenet", "channels": channels}, CLASSES, shape, 1, CPU)
    assert model.size == len(model.gradient) == parameters


def test_initial_values_are_normal_and_cut_at_two_deviations() -> None:
    values = build.build({"name": "lenet", "channels": 3}, CLASSES, (32, 32), 1, CPU).host.astype(np.float64)
    assert len(values) == 66_404
    assert 0.0399 < np.abs(values).max() <= 0.04
    # a normal of 0.02 that is cut at ±2 deviations has a deviation of 0.02 · 0.87963
    assert values.std() == pytest.approx(0.017593, rel=0.01)
    assert abs(values.mean()) < 4 * 0.0176 / 66_404**0.5


def test_shapes_and_order() -> None:
    module = LeNet(LeNetSettings(channels=3), 62, (32, 32))
    assert [(name, tuple(value.shape)) for name, value in module.named_parameters()] == [
        ("conv1.weight", (6, 3, 5, 5)),
        ("conv2.weight", (16, 6, 5, 5)),
        ("fc1.weight", (120, 400)),
        ("fc1.bias", (120,)),
        ("fc2.weight", (84, 120)),
        ("fc2.bias", (84,)),
        ("fc3.weight", (62, 84)),
        ("fc3.bias", (62,)),
    ]
    assert module(torch.zeros(5, 3, 32, 32)).shape == (5, 62)


def test_gray_images_are_repeated() -> None:
    module = LeNet(LeNetSettings(channels=3), 4, (16, 16)).eval()
    gray = torch.rand(2, 1, 16, 16)
    torch.testing.assert_close(
        module(gray), module(gray.repeat(1, 3, 1, 1)), rtol=0, atol=1e-7
    )  # sums round by torch's version


@pytest.mark.parametrize("shape", [(15, 16), (16, 15), (4, 4)])
def test_images_that_are_too_small(shape: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=r"^model lenet: found images of \(\d+, \d+\), expected 16×16 pixels or more$"):
        LeNet(LeNetSettings(), 4, shape)
    assert LeNet(LeNetSettings(), 4, (16, 16))(torch.zeros(1, 1, 16, 16)).shape == (1, 4)


def test_colour_images_of_other_channels() -> None:
    with pytest.raises(ConfigError, match=r"^model.channels = 1: the silos' images have 3$"):
        LeNet(LeNetSettings(), 4, (32, 32, 3))
