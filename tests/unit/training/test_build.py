from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import serial
from silofold.config import Settings
from silofold.core.errors import ConfigError, PluginError, UserCodeError
from silofold.training import build

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from silofold.training.flat import FlatModel

OWN = """
import torch
from torch import nn
from silofold.config import Count, Section

class Plain(nn.Module):
    def __init__(self, classes, hidden=4, shift=0.0):
        super().__init__()
        self.classes, self.shift = classes, shift
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(16, hidden), nn.Linear(hidden, classes))
    def forward(self, x):
        return self.net(x)

class Shaped(Plain):
    def __init__(self, image_shape, classes=7):
        super().__init__(classes)
        self.image_shape = image_shape

class Anything(Plain):
    def __init__(self, **given):
        super().__init__(3)
        self.given = given

class Alone(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(16, 3)
    def forward(self, x):
        return self.net(x.flatten(1))

class Depth(Section, frozen=True):
    name: str
    depth: Count = 2

class Set(Plain):
    Settings = Depth
    def __init__(self, settings, classes, image_shape):
        super().__init__(classes)
        self.depth, self.image_shape = settings.depth, image_shape

class Wide(Plain):
    def forward(self, x):
        return torch.cat([self.net(x)] * 2, 1)

class Double(Plain):
    def __init__(self, classes):
        super().__init__(classes)
        self.double()
    def forward(self, x):
        return self.net(x.double())

class Strict(Double):
    def forward(self, x):
        return self.net(x)

class Failing(Plain):
    def __init__(self, text=""):
        raise ValueError(text)

class Needy(Alone):
    def __init__(self, size):
        super().__init__()

def function(classes):
    return Plain(classes)
"""
NAMES = ["a", "b", "c"]


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules of the user's own in ``own_models``."""
    (tmp_path / "own_models.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_models", None)


def make(name: str, seed: int = 1, **keys: Any) -> FlatModel:
    table = {"name": name if name == "lenet" else f"own_models:{name}", **keys}
    shape = (16, 16) if name == "lenet" else (4, 4)
    return build.build(table, NAMES, shape, seed, torch.device("cpu"))


def module(name: str, **keys: Any) -> Any:
    return make(name, **keys).module


def test_a_module_of_the_users_own_gets_its_keys_and_what_the_data_say() -> None:
    assert (module("Plain").classes, module("Plain").shift) == (3, 0.0)
    assert make("Plain", hidden=5, shift=0.5).size == 16 * 5 + 5 + 5 * 3 + 3
    assert module("Plain", hidden=5, shift=0.5).shift == 0.5
    assert module("Shaped").image_shape == (4, 4)
    assert module("Shaped").classes == 3
    assert module("Anything", free=1).given == {"free": 1}
    assert make("Alone").size == 16 * 3 + 3


def test_a_module_with_settings() -> None:
    built = module("Set", depth=4)
    assert (built.depth, built.classes, built.image_shape) == (4, 3, (4, 4))
    with pytest.raises(ConfigError, match=r"^model own_models:Set: unknown key model.deep; did you mean 'depth'\?$"):
        make("Set", deep=1)


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"^unknown key model.hiden; did you mean 'hidden'\?$"):
        make("Plain", hiden=3)
    with pytest.raises(ConfigError, match=r"^model lenet: unknown key model.chanels; did you mean 'channels'\?$"):
        make("lenet", chanels=3)


@pytest.mark.parametrize(
    ("name", "keys", "story"),
    [
        ("Wide", {}, "Wide maps 2 images to (2, 6), expected (2, 3): one logit a class"),
        ("Plain", {"classes": 5}, "Plain maps 2 images to (2, 5), expected (2, 3): one logit a class"),
        ("Double", {}, "model Double: net.1.weight is torch.float64, expected torch.float32"),
        ("Strict", {}, "model own_models:Strict: RuntimeError: "),
        ("Failing", {"text": "no good\nat all"}, "model own_models:Failing: ValueError: no good"),
        ("Plain", {"hidden": "four"}, "model own_models:Plain: TypeError: "),
        ("function", {}, "model own_models:function: found <function function at "),
    ],
)
def test_a_model_that_does_not_fit(name: str, keys: dict[str, Any], story: str) -> None:
    with pytest.raises((UserCodeError, PluginError), match=f"^{re.escape(story)}"):
        make(name, **keys)


def test_a_model_that_fails_without_a_word() -> None:
    with pytest.raises(UserCodeError, match=r"^model own_models:Failing: ValueError \(.*own_models.py:\d+ in __init__\)$"):
        make("Failing")


def test_a_key_that_the_model_needs_and_nobody_gives() -> None:
    with pytest.raises(ConfigError, match=r"^model.size is missing: own_models:Needy takes it"):
        build.build({"name": "own_models:Needy"}, NAMES, (4, 4), 1, torch.device("cpu"))
    assert make("Needy", size=3).size == 16 * 3 + 3


def test_the_seed_alone_decides_the_initial_parameters() -> None:
    torch.manual_seed(1)
    first = make("lenet").host.tobytes()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert make("lenet").host.tobytes() == first
    assert torch.equal(torch.get_rng_state(), before)
    assert make("lenet", seed=2).host.tobytes() != first


@pytest.mark.parametrize("channels", [1, 3])
def test_the_serial_reference_begins_with_the_same_bits(channels: int) -> None:
    settings = Settings(seed=11, model={"name": "lenet", "channels": channels})
    reference = serial.vector(serial.initial(settings, 3, (16, 16)))
    assert np.array_equal(make("lenet", seed=11, channels=channels).host, reference)
