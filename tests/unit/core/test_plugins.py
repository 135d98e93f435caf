from __future__ import annotations

import hashlib
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

import silofold
from silofold import config
from silofold.core import plugins
from silofold.core.errors import ConfigError, PluginError, UserCodeError

if TYPE_CHECKING:
    from collections.abc import Iterator

OWN = """
from silofold.config import Count, Section

class Depth(Section, frozen=True):
    name: str
    depth: Count = 2

class Mine:
    Settings = Depth
    def __init__(self, settings):
        self.depth = settings.depth
    def draw(self, silos, rng):
        return list(silos)

class Half:
    Settings = Depth
    draw = 3

class Bare:
    pass
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of the user's own."""
    (tmp_path / "own_plugins.py").write_text(OWN, encoding="utf-8")
    (tmp_path / "own_faulty.py").write_text("import os\n\nos.no_such_thing\n\nclass Mine: ...\n", encoding="utf-8")
    (tmp_path / "own_broken.py").write_text("import no_such_library", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "own_plugins"
    for name in ("own_plugins", "own_broken", "own_faulty"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("model", {"lenet"}),
        ("cohort", {"all", "sample"}),
        ("strategy", {"mean", "median"}),
        ("server_optimizer", {"sgd", "adaptive"}),
        ("sink", {"console", "csv"}),
    ],
)
def test_names(kind: plugins.Kind, expected: set[str]) -> None:
    found = plugins.names(kind)
    assert expected <= set(found)
    assert found == sorted(found)


@pytest.mark.parametrize("kind", list(plugins.FOLDERS))
def test_each_of_ours_is_found_and_named_alike(kind: plugins.Kind) -> None:
    assert plugins.names(kind)
    for name in plugins.names(kind):
        plugin = plugins.find(kind, name)
        assert plugin.__module__ == f"{plugins.FOLDERS[kind]}.{name}"
        assert issubclass(plugin.Settings, config.Section)
        default = {field.name: field.default for field in msgspec.structs.fields(plugin.Settings)}["name"]
        assert default in {name, msgspec.NODEFAULT}


def test_load_gives_the_settings_to_the_class() -> None:
    assert plugins.load("strategy", {"name": "mean", "weights": "equal"}).weight(40) == 1
    assert plugins.load("strategy", {"name": "mean"}).weight(40) == 40


def test_an_unknown_name_names_the_nearest() -> None:
    story = r"^strategy 'meen' is unknown; did you mean 'mean'\?; your own: package.module:Class$"
    with pytest.raises(PluginError, match=story):
        plugins.find("strategy", "meen")
    with pytest.raises(PluginError, match=r"^sink '' is unknown; known: console, csv"):
        plugins.find("sink", "")
    with pytest.raises(PluginError, match=r"^sink 'os.path' is unknown"):
        plugins.find("sink", "os.path")


@pytest.mark.parametrize(
    ("tree", "story"),
    [
        ({"name": "mean", "wieghts": "equal"}, "strategy mean: unknown key strategy.wieghts; did you mean 'weights'?"),
        ({"name": "mean", "weights": "log"}, "strategy mean: strategy.weights = 'log': expected "),
    ],
)
def test_wrong_settings_name_the_plugin_and_the_key(tree: config.Table, story: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plugins.load("strategy", tree)
    assert str(caught.value).startswith(story)


def test_a_required_setting() -> None:
    with pytest.raises(ConfigError, match=r"^cohort sample: cohort.size is missing$"):
        plugins.load("cohort", {"name": "sample"})


def test_a_class_of_the_users_own(own: str) -> None:
    assert plugins.load("cohort", {"name": f"{own}:Mine", "depth": 5}).depth == 5
    assert plugins.load("cohort", {"name": f"{own}:Mine"}).depth == 2
    with pytest.raises(ConfigError, match=r"^cohort own_plugins:Mine: cohort.depth = 0: expected int >= 1$"):
        plugins.load("cohort", {"name": f"{own}:Mine", "depth": 0})


def test_a_class_that_is_not_there_or_not_one_of_ours(own: str) -> None:
    with pytest.raises(PluginError, match=r"^cohort 'own_plugins:Yours': module own_plugins .*has no Yours$"):
        plugins.find("cohort", f"{own}:Yours")
    with pytest.raises(PluginError, match=r"^cohort 'own_plugins:Bare': .* has no Settings"):
        plugins.load("cohort", {"name": f"{own}:Bare"})
    with pytest.raises(
        PluginError, match=r"No module named 'nowhere_at_all'; is its folder on PYTHONPATH, or the current one\?$"
    ):
        plugins.find("cohort", "nowhere_at_all:Mine")
    with pytest.raises(UserCodeError, match=r"^cohort own_broken:Mine: importing own_broken: .*'no_such_library' \(.*:1 in"):
        plugins.find("cohort", "own_broken:Mine")


@pytest.mark.parametrize("name", [":Mine", ".relative:Mine"])
def test_a_name_that_is_no_module(name: str) -> None:
    with pytest.raises(PluginError):
        plugins.find("cohort", name)


def test_a_module_that_fails_is_not_said_to_lack_the_class(own: str) -> None:
    del own
    with pytest.raises(UserCodeError, match=r"no_such_thing.* \(.*own_faulty.py:3 in <module>\)$"):
        plugins.find("cohort", "own_faulty:Mine")


@pytest.mark.parametrize("kind", list(plugins.FOLDERS))
@pytest.mark.parametrize(
    "name", ["os:system", "antigravity:fly", "sys:exit", "json.tool:main", "a b:c", "a:b:c", "x" * 999 + ":A"]
)
def test_a_name_that_cannot_be_a_plugin_is_not_imported(kind: plugins.Kind, name: str) -> None:
    before = set(sys.modules)
    with pytest.raises(PluginError) as caught:
        plugins.find(kind, name)
    assert (caught.value.id, len(str(caught.value)) < 400) == ("plugin-name", True)
    assert set(sys.modules) == before


def test_a_class_of_another_kind_is_not_called(own: str) -> None:
    for name in ("own_plugins:Half", "own_plugins:OWN", "silofold.aggregation.strategies.mean:Mean"):
        with pytest.raises(PluginError):
            plugins.load("cohort", {"name": name})
    assert plugins.load("cohort", {"name": f"{own}:Mine"})


@pytest.mark.parametrize(
    ("kind", "name", "story"),
    [
        ("server_optimizer", "fedadam", 'server_optimizer = { name = "adaptive", rule = "adam" }'),
        ("server_optimizer", "FedYogi", 'server_optimizer = { name = "adaptive", rule = "yogi" }'),
        ("server_optimizer", "fed_adagrad", 'server_optimizer = { name = "adaptive", rule = "adagrad" }'),
        ("server_optimizer", "fedavgm", 'server_optimizer = { name = "sgd", momentum = 0.9 }'),
        ("server_optimizer", "fedavg", 'strategy = { name = "mean" }'),
        ("strategy", "fedavg", 'strategy = { name = "mean" }'),
        ("strategy", "FedMedian", 'strategy = { name = "median" }'),
        ("strategy", "krum", 'strategy = { name = "median" }'),
        ("strategy", "fedadam", 'server_optimizer = { name = "adaptive", rule = "adam" }'),
    ],
)
def test_names_of_other_frameworks_lead_to_ours(kind: plugins.Kind, name: str, story: str) -> None:
    with pytest.raises(PluginError) as caught:
        plugins.find(kind, name)
    assert str(caught.value) == f"{kind} {name!r} is unknown; what comes nearest here is {story}"


def test_the_names_that_are_led_to_can_be_loaded() -> None:
    for kind, table in plugins.ELSEWHERE.values():
        plugins.load(kind, tomllib.loads(f"x = {{ {table} }}")["x"])


def test_whose_code_is_loaded_is_told_before(own: str) -> None:
    settings = config.Settings(model={"name": f"{own}:Mine"}, sinks=[{"name": "csv"}, {"name": "nowhere:Sink"}])
    (line,) = plugins.strangers(settings)
    assert line.startswith(f"loading model {own}:Mine from /")
    assert line.endswith(f"own_plugins.py, sha256 {hashlib.sha256(OWN.encode()).hexdigest()[:16]}…")
    assert own not in sys.modules
    assert plugins.origin("silofold.record.sinks.csv:Csv") == Path(silofold.__file__).parent / "record" / "sinks" / "csv.py"
