"""One's own pictures and one's own model, by the tools and commands alone: no line of code but the model itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mpirun
from mpirun import silofold as command
from records import rounds

ROOT = Path(__file__).parents[2]
CLASSES = {
    "apple": (200, 30, 30),
    "banana": (220, 210, 40),
    "leaf & stem": (30, 160, 40),
    "plum": (90, 20, 120),
    "sky": (60, 120, 230),
}
NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self, classes, image_shape, width=8):
        super().__init__()
        self.convolution = nn.Conv2d(image_shape[2], width, 3, padding=1)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        return self.head(self.convolution(images).relu().mean((2, 3)))
"""


def tool(name: str, *words: object) -> None:
    ended = mpirun.run([sys.executable, str(ROOT / "data_tools" / name), *map(str, words)])
    assert ended.code == 0, ended


@pytest.fixture(scope="module")
def silos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colour pictures of 40×28 pixels by four people, through combine.py and pack.py."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(7)
    for person in ("ada", "ben", "cleo", "dan"):
        for split, count in (("train", 12), ("test", 4)):
            for name, color in CLASSES.items():
                home = folder / "pictures" / person / split / name
                home.mkdir(parents=True)
                for index in range(count):
                    pixels = rng.normal(color, 40, (28, 40, 3)).clip(0, 255).astype(np.uint8)
                    Image.fromarray(pixels).save(home / f"{index}.png")
    tool("combine.py", folder / "pictures", folder / "combined", "--silos", 2)
    tool("pack.py", folder / "combined", folder / "silos", "--classes", "auto", "--mode", "RGB", "--size", 20)
    tool("verify.py", folder / "silos")
    return folder / "silos"


@pytest.mark.parametrize(
    ("model", "floor"),
    # LeNet's small initial weights need more steps than a test has; five colours in noise: one in five by chance
    [(("model.channels=3", "rounds.count=1"), 0.0), (("model.name=net:Net", "model.width=12"), 0.5)],
    ids=["lenet", "own module outside the package"],
)
def test_from_pictures_to_report(model: tuple[str, ...], floor: float, silos: Path, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "run.toml").write_text("seed = 3\n[rounds]\ncount = 6\n[local]\nepochs = 6\nlr = 0.05\n")
    where, run = {"PYTHONPATH": str(tmp_path)}, tmp_path / "run"
    sets = [part for setting in model for part in ("--set", setting)]
    shape = ["--servers", "1", "--workers", "2"]
    ended = command("launch", tmp_path / "run.toml", "--data", silos, "--out", run, *shape, *sets, environment=where)
    assert ended.code == 0, ended
    last = rounds(run)[-1]
    assert last["test_examples"] == 4 * 4 * len(CLASSES)
    assert last["accuracy"] > floor
    ended = command("evaluate", run, "--out", tmp_path / "measures.json", environment=where)
    assert ended.code == 0, ended
    found = json.loads((tmp_path / "measures.json").read_text())
    assert found["classes"] == sorted(CLASSES)
    assert found["global_model"]["pooled"]["accuracy"] == last["accuracy"]
    pictures = sorted((silos.parent / "pictures" / "ada" / "test" / "sky").glob("*.png"))
    ended = command("predict", run, *pictures, "--top", 2, environment=where)
    assert ended.code == 0, ended
    assert len(ended.out.splitlines()) == 4
    assert "sky" in ended.out
    ended = command("report", run, "--out", tmp_path / "report.html", environment=where)
    assert ended.code == 0, ended
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "leaf &amp; stem" in text
    assert "leaf & stem" not in text
