"""A run folder names code and never brings any: what it names is looked at, and told, before it is imported."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest

import made_run
import mpirun
from budget import whole_run
from silofold import cli
from silofold.record import checkpoint

CODE = """
import math, sys
sys.stderr.write("imported\\n")
from torch import nn
class Net(nn.Sequential):
    def __init__(self, classes, image_shape):
        super().__init__(nn.Flatten(), nn.Linear(math.prod(image_shape), classes))
"""


@pytest.fixture
def named(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder of a model of somebody's own, which lies on the path."""
    (tmp_path / "somebodys_net.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    return made_run.make(tmp_path / "run", tiny, model={"name": "somebodys_net:Net"}).path


@pytest.mark.parametrize("command", ["evaluate", "compare", "verify"])
def test_the_source_is_told_before_it_is_loaded(command: str, named: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sys.modules.pop("somebodys_net", None)
    capfd.readouterr()
    assert cli.main([command, str(named)]) == 0
    line, *rest = capfd.readouterr().err.splitlines()
    digest = hashlib.sha256(CODE.encode()).hexdigest()[:16]
    path = named.parent / "somebodys_net.py"
    assert line == f"silofold: loading model somebodys_net:Net from {path}, sha256 {digest}…"
    assert rest == ["imported"]
    sys.modules.pop("somebodys_net", None)


@pytest.mark.parametrize("name", ["os:system", "antigravity:fly", "silofold.cli:main", "somebodys_net", "../net:Net"])
@pytest.mark.parametrize("command", ["evaluate", "compare", "predict"])
def test_a_module_that_a_manifest_names_is_not_imported(
    name: str, command: str, named: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for folder in checkpoint.found(named / "checkpoints"):
        tree = json.loads((folder / checkpoint.MANIFEST).read_text())
        tree["settings"]["model"]["name"] = name
        made_run.reseal(folder / checkpoint.MANIFEST, tree)
    words = [str(named.parent / "nothing.png")] if command == "predict" else []
    before = set(sys.modules) - {"silofold.commands"}
    capfd.readouterr()
    assert cli.main([command, str(named), *words]) == 2
    told = capfd.readouterr().err.splitlines()
    assert told[-1].startswith("silofold: error: model ")
    assert "antigravity" not in set(sys.modules) - before
    assert "somebodys_net" not in set(sys.modules) - before


@whole_run
def test_a_replay_tells_it_too(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    where = {"PYTHONPATH": str(Path(__file__).parents[1])}
    settings = ("model.name=own_model:Net", "rounds.count=1", "local.drop_last=true")
    assert mpirun.train(3, recipe, tiny, out, *settings, environment=where).code == 0
    ended = mpirun.silofold("replay", out, "--workers", 1, "--servers", 1, environment=where)
    assert ended.code == 0, ended
    (line,) = ended.faults()
    assert line.startswith("silofold: loading model own_model:Net from /")
