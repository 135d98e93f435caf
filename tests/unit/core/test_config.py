from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from silofold import config
from silofold.core import conversion, recipes
from silofold.core.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def parse(text: str = "", *overrides: str) -> config.Settings:
    return recipes.parse(text, "run.toml", overrides)


def fault(text: str = "", *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults() -> None:
    settings = parse()
    assert settings == config.Settings()
    assert (settings.seed, settings.device, settings.reduction) == (1, "auto", "exact")
    assert settings.data.folder == ""
    assert (settings.roles.servers, settings.roles.standby) == (1, 0)
    assert msgspec.structs.asdict(settings.rounds) == {
        "count": 10,
        "start_quorum": 1.0,
        "start_window": 60.0,
        "update_ratio": 1.0,
        "update_window": "auto",
        "close": "all",
        "bench_after": 5,
        "evaluate_every": 1,
        "checkpoint_every": 1,
        "keep_checkpoints": 3,
        "count_void": False,
        "end_margin": 60.0,
        "max_void": 3,
        "worker_checkpoints": False,
    }
    assert msgspec.structs.asdict(settings.local) == {
        "epochs": 1,
        "batch_size": 32,
        "lr": 0.01,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "keep_momentum": False,
        "drop_last": False,
        "precision": "float32",
        "compile": False,
        "side_by_side": 1,
        "cuda_graph": False,
        "threads": 1,
        "cpu_isa": "auto",
    }
    assert (settings.model, settings.cohort) == ({"name": "lenet"}, {"name": "all"})
    assert (settings.strategy, settings.server_optimizer) == ({"name": "mean"}, {"name": "sgd"})
    assert settings.sinks == [{"name": "console"}, {"name": "csv"}]


def test_defaults_are_not_shared_between_settings() -> None:
    parse().model["name"] = "changed"
    assert parse().model == {"name": "lenet"}


def test_toml_and_overrides() -> None:
    text = """
    seed = 7
    [local]
    lr = 1
    batch_size = 64
    [model]
    name = "lenet"
    channels = 3
    """
    settings = parse(
        text, "local.batch_size=16", "device=cpu", 'data.folder="a b"', "model.channels=2", "strategy.name=median",
        "rounds.update_ratio= 0.5", "sinks=[{name='csv'}]", "data.folder=/x=y",
    )  # fmt: skip
    assert (settings.seed, settings.local.batch_size, settings.device) == (7, 16, "cpu")
    assert settings.local.lr == 1.0
    assert isinstance(settings.local.lr, float)
    assert settings.model == {"name": "lenet", "channels": 2}
    assert settings.strategy == {"name": "median"}
    assert settings.sinks == [{"name": "csv"}]
    assert settings.data.folder == "/x=y"


def test_an_override_with_spaces_as_in_toml() -> None:
    assert parse("", "local.lr = 0.5").local.lr == 0.5


def test_a_table_without_name_means_the_default_plugin() -> None:
    settings = parse("", "model.channels=3", "cohort={}", "strategy.weights=equal", "server_optimizer.lr=0.5")
    assert settings.model == {"name": "lenet", "channels": 3}
    assert settings.cohort == {"name": "all"}
    assert settings.strategy == {"name": "mean", "weights": "equal"}
    assert settings.server_optimizer == {"name": "sgd", "lr": 0.5}


def test_settings_that_contradict() -> None:
    story = (
        'run.toml: local.cpu_isa = "avx2" with local.compile = true: compiled code takes all that its CPU has; expected one'
    )
    assert fault('[local]\ncompile = true\ncpu_isa = "avx2"').startswith(story)


@pytest.mark.parametrize(
    ("settings", "story"),
    [
        (("local.side_by_side=2",), "local.side_by_side = 2 without local.cuda_graph = true"),
        (("local.cuda_graph=true", "local.compile=true"), "local.compile and local.cuda_graph are two ways to take a step"),
    ],
)
def test_ways_to_take_a_step_that_contradict(settings: tuple[str, ...], story: str) -> None:
    assert fault("", *settings).startswith(f"--set {settings[-1]}: {story}: ")
    assert parse("", "local.side_by_side=2", "local.cuda_graph=true").local.side_by_side == 2


def test_the_last_override_wins_and_the_tree_is_left_alone() -> None:
    tree: dict[str, Any] = {"local": {"lr": 0.5}}
    assert recipes.merge(tree, ["local.lr=0.1", "local.lr=0.2"]) == {"local": {"lr": 0.2}}
    assert tree == {"local": {"lr": 0.5}}


@pytest.mark.parametrize("override", ["seed", "=3", "local.=3", ".lr=3", "local..lr=3"])
def test_an_override_without_key_or_value(override: str) -> None:
    assert fault("", override) == f"--set {override}: expected section.key=value"


@pytest.mark.parametrize("override", ["seed.x=3", "sinks.0.name=csv"])
def test_an_override_through_a_value(override: str) -> None:
    name = override.partition(".")[0]
    expected = f"--set {override}: {name} is a value and has no keys"
    assert fault("seed = 1\nsinks = []", override) == expected


@pytest.mark.parametrize(
    ("text", "story"),
    [
        ("sede = 1", "run.toml: unknown key sede; did you mean 'seed'?"),
        ("[rounds]\ncuont = 1", "run.toml: unknown key rounds.cuont; did you mean 'count'?"),
        ("[local]\nlearning-rate = 1", "run.toml: unknown key local.learning-rate; known: batch_size, compile, cpu_isa"),
        ("[data]\npath = 'x'", "run.toml: unknown key data.path; known: folder"),
    ],
)
def test_an_unknown_key_names_the_nearest(text: str, story: str) -> None:
    assert fault(text).startswith(story)


@pytest.mark.parametrize("hidden", ['"' + "]" * 3000 + '"', "'" + "}" * 3000 + "'"])
def test_brackets_in_texts_hide_no_deep_nesting(hidden: str) -> None:
    nested = "not valid TOML: found brackets nested too deeply"
    assert fault(f"a = {hidden}\nb = {'[' * 3000}").endswith(nested)
    assert fault(f"# {hidden}\nb = {'{a=' * 3000}").endswith(nested)
    with pytest.raises(ConfigError, match="expected int"):
        recipes.parse("", "run.toml", [f"rounds.count=[{hidden},{'[' * 3000}"])


@pytest.mark.parametrize(
    ("override", "story"),
    [
        ("seed=-1", "seed = -1: expected int >= 0"),
        ("seed=1.5", "seed = 1.5: expected int"),
        ("seed=many", "seed = 'many': expected int"),
        (f"seed={2**63}", f"seed = {2**63}: expected int <= {2**63 - 1}"),
        ("device=tpu", "device = 'tpu': expected "),
        ("reduction=float16", "reduction = 'float16': expected "),
        ("roles.servers=0", "roles.servers = 0: expected int >= 1"),
        ("rounds.count=0", "rounds.count = 0: expected int >= 1"),
        ("rounds.count=true", "rounds.count = True: expected int"),
        ("rounds.start_quorum=0", "rounds.start_quorum = 0: expected "),
        ("rounds.start_quorum=1.5", "rounds.start_quorum = 1.5: expected float <= 1"),
        ("rounds.start_window=0", "rounds.start_window = 0: expected float > 0"),
        ("rounds.update_ratio=1.01", "rounds.update_ratio = 1.01: expected float <= 1"),
        ("rounds.update_ratio=0", "rounds.update_ratio = 0: expected float > 0"),
        ("rounds.update_window=1e8", "rounds.update_window = 100000000.0: expected float <= "),
        ("rounds.update_window=long", "rounds.update_window = 'long': expected a number or 'auto'"),
        ("rounds.checkpoint_every=-1", "rounds.checkpoint_every = -1: expected int >= 0"),
        ("rounds.count_void=1", "rounds.count_void = 1: expected bool"),
        ("local.lr=fast", "local.lr = 'fast': expected float"),
        ("local.lr=-0.1", "local.lr = -0.1: expected float >= 0"),
        ("local.momentum=1", "local.momentum = 1: expected float < 1"),
        ("local.epochs=[1]", "local.epochs = [1]: expected int"),
        ("rounds=3", "rounds = 3: expected a table"),
        ("model=lenet", "model = 'lenet': expected a table"),
        ("sinks=[3]", "sinks.0 = 3: expected a table"),
        ("cohort={name=3}", "cohort: found {'name': 3}, expected a table with a name"),
        ("sinks=[{name='csv'}, {}]", "sinks[1]: found {}, expected a table with a name"),
    ],
)
def test_a_wrong_value_names_key_value_and_expectation(override: str, story: str) -> None:
    assert fault("", override).startswith(f"--set {override}: {story}")


@pytest.mark.parametrize("text", ["nan", "-inf", "1e999"])
def test_what_is_not_finite_is_no_number(text: str) -> None:
    for key in ("local.lr", "model.width", "sinks"):
        assert re.match(
            rf"--set {key}={text}: {key} = (nan|-?inf): expected float, a finite one$", fault("", f"{key}={text}")
        )
    assert fault(f"local.lr = {text.replace('1e999', 'inf')}").startswith("run.toml: local.lr = ")


def test_a_fault_is_blamed_on_what_brings_it_in() -> None:
    assert fault("sede = 1", "seed=2").startswith("run.toml: unknown key sede; ")
    assert fault("seed = 1", "local.lr=0.5", "local.lrr=1", "seed=3").startswith(
        "--set local.lrr=1: unknown key local.lrr; did you mean 'lr'?"
    )
    assert parse("seed = -1", "seed=2").seed == 2  # an override may mend the file
    text = "[local]\nside_by_side = 2\ncuda_graph = true"
    assert fault(text, "local.epochs=2", "local.cuda_graph=false").startswith("--set local.cuda_graph=false: local.side_by")


@pytest.mark.parametrize(
    "override",
    [
        f"rounds.count={'[' * 10**5}",
        f"{'.'.join('a' * 5000)}=1",
        f"seed=1{'0' * 400}",
        f"seed=1{'0' * 5000}",
        "seed=0x" + "f" * 300,
        "model.born=1979-05-27",
        "model.at=07:32:00",
        f"model.name={'x' * 10**5}",
        "data.folder=a\0b",
        "data.folder=\udcff",
        "model.\udcff=1",
    ],
)
def test_an_override_that_no_setting_is(override: str) -> None:
    assert len(fault("", override)) < 1000


def test_no_line_break_smuggles_a_second_key_in() -> None:
    assert parse("", "model.x=1\nseed=7") == parse("", 'model.x="1\\nseed=7"')


@pytest.mark.parametrize(
    "text",
    ["x = " + "[" * 10**5, "[" + ".".join("a" * 10**5) + "]", "x = 1979-05-27", "seed = 1" + "0" * 5000, "seed = nan"],
)
def test_a_file_that_no_settings_are(text: str) -> None:
    assert fault(text).startswith("run.toml: ")


def test_settings_are_loaded_from_a_regular_file(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(b"\xef\xbb\xbfseed = 4\r\n[local]\r\nlr = 0.5\r\n")
    assert recipes.load(path, ["local.epochs=2"]) == recipes.parse("seed=4", "", ["local.lr=0.5", "local.epochs=2"])
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b"#" * 2**21)
    (tmp_path / "latin").write_bytes("# é".encode("latin-1"))
    for name in ("fifo", "large", "latin", "none", "."):
        with pytest.raises(ConfigError) as caught:
            recipes.load(tmp_path / name)
        assert caught.value.id == "settings-read"
        assert str(caught.value).startswith(f"{tmp_path / name}: ")


@pytest.mark.parametrize("text", ["/plain", 'a "b" \\ c', "tab\t\x7f\x01 é"])
def test_any_text_can_be_set(text: str) -> None:
    assert parse("", recipes.set_text("data.folder", text)).data.folder == text


@pytest.mark.parametrize(("text", "kind"), [("3", int), ("0.5", float), ("1", int), ("1.0", float)])
def test_the_start_quorum_is_a_number_or_a_share(text: str, kind: type) -> None:
    quorum = parse("", f"rounds.start_quorum={text}").rounds.start_quorum
    assert type(quorum) is kind
    assert quorum == float(text)


def test_text_that_is_no_toml() -> None:
    assert fault("seed = = 1").startswith("run.toml: not valid TOML: ")


class Inner(config.Section, frozen=True):
    depth: config.Count


class Outer(config.Section, frozen=True):
    name: str
    inner: Inner


@pytest.mark.parametrize(
    ("tree", "story"),
    [
        ({"name": "x"}, "mine.inner is missing"),
        ({"name": "x", "inner": {}}, "mine.inner.depth is missing"),
        ({"name": "x", "inner": {"depth": 0}}, "mine.inner.depth = 0: expected int >= 1"),
        ({"name": "x", "inner": {"depht": 1}}, "unknown key mine.inner.depht; did you mean 'depth'?"),
    ],
)
def test_convert_a_struct_of_a_plugins_own(tree: dict[str, Any], story: str) -> None:
    with pytest.raises(ConfigError, match=f"^plug-in: {re.escape(story)}$"):
        conversion.convert(tree, Outer, "plug-in", "mine")
    assert conversion.convert({"name": "x", "inner": {"depth": 2}}, Outer, "").inner.depth == 2


def test_settings_survive_json() -> None:
    settings = parse("seed = 3", "model.name=lenet", "model.channels=3", "rounds.start_quorum=0.5")
    tree = msgspec.json.decode(msgspec.json.encode(settings))
    assert recipes.resolve(tree, "run.json") == settings


def test_differences_leave_out_what_a_resumed_run_may_change() -> None:
    old = parse()
    free = ["data.folder=x", "roles.servers=4", "rounds.count=99", "rounds.update_window=9", "sinks=[]"]
    assert recipes.differences(old, parse("", *free)) == []
    changed = [*free, "local.lr=0.5", "model.name=lenet", "model.channels=3", "seed=2", "rounds.start_window=9"]
    assert recipes.differences(old, parse("", *changed)) == [
        "local.lr: 0.01 -> 0.5",
        "model.channels: 'unset' -> 3",
        "rounds.start_window: 60.0 -> 9.0",
        "seed: 1 -> 2",
    ]
    assert recipes.differences(parse("", *changed), old)[1] == "model.channels: 3 -> 'unset'"


def test_flatten() -> None:
    assert recipes.flatten({"a": 1, "b": {"c": 2, "d": {"e": [3]}}, "f": {}}) == {"a": 1, "b.c": 2, "b.d.e": [3]}


def test_nearest() -> None:
    assert conversion.nearest("mena", ["mean", "median"]) == "did you mean 'mean'?"
    assert conversion.nearest("zzz", ["median", "mean"]) == "known: mean, median"
