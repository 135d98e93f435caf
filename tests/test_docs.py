"""The pages tell of the program as it is: settings, metrics, options, paths and examples are compared with the code."""

from __future__ import annotations

import argparse
import re
import shlex
import textwrap
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import msgspec
import numpy as np
import pytest

import reference
from silofold import cli, config
from silofold.core import conversion, plugins, recipes
from silofold.core.summary import Phases, RankPhases, SiloSummary, Summary
from silofold.record.sinks import csv

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
NO_PAGES = {"demo", "tutorial", "runs", "build", "node_modules"}
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part in NO_PAGES for part in path.relative_to(ROOT).parts[:-1])
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OWN_PATH = re.compile(r"(?<![\w/.-])((?:src|data_tools|docs|examples|slurm|tests|benchmarks)/[\w./-]*\w)")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def headed(page: str) -> dict[str, str]:
    """The text under each heading, up to the next heading of any level."""
    parts = re.split(r"^#+ (.+)$", FENCE.sub("", text_of(page)), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str) -> list[list[str]]:
    """The cells of all tables, without their headers."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for index, row in enumerate(cells) if not is_rule(row) and not is_rule([*cells, [""]][index + 1])]


def is_rule(row: list[str]) -> bool:
    return set("".join(row)) <= set("-|: ") and bool("".join(row))


def keys(text: str) -> set[str]:
    return {row[0].strip("`") for row in rows(text)}


def anchors(path: Path) -> set[str]:
    found = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- links and paths -------------------------------------------------------------------------------------------------


def test_all_pages_are_there() -> None:
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/settings.md"} <= set(map(name_of, PAGES))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_paths_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)):
        if re.match(r"[a-z]+://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    broken += [path for path in OWN_PATH.findall(text) if not (ROOT / path).exists() and not (page.parent / path).exists()]
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_and_toml_examples_are_valid(page: Path) -> None:
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            compile(block, name_of(page), "exec")
        if language == "toml":
            recipes.parse(block, name_of(page))


@pytest.mark.parametrize("recipe", sorted((ROOT / "examples").glob("*/*.toml")), ids=name_of)
def test_recipes_are_valid(recipe: Path) -> None:
    settings = recipes.parse(recipe.read_text(encoding="utf-8"), name_of(recipe))
    for kind in ("model", "cohort", "strategy", "server_optimizer"):
        plugin = plugins.find(kind, getattr(settings, kind)["name"])
        conversion.convert(getattr(settings, kind), plugin.Settings, name_of(recipe))


def test_readme_begins_with_what_a_reader_needs() -> None:
    text = text_of("README.md")
    head = "\n".join(text.splitlines()[:32])
    assert text.startswith("# silofold\n")
    assert "make demo" in head
    assert "make test" in head
    for path in ("docs/settings.md", "docs/metrics.md", "data_tools/README.md", "CONTRIBUTING.md"):
        assert f"]({path})" in text


# --- settings --------------------------------------------------------------------------------------------------------


PLUGINS = [(kind, name) for kind in plugins.FOLDERS for name in plugins.names(kind)]


def test_the_page_of_settings_is_that_of_their_definitions() -> None:
    page = text_of("docs/settings.md")
    assert reference.renewed(page) == page, "make docs writes it"
    assert reference.renewed(page.replace("| `seed` |", "| `sede` |")) == page


def test_the_page_of_errors_is_that_of_their_table() -> None:
    assert text_of("docs/errors.md") == reference.errors_page(), "make docs writes it"
    assert text_of("docs/phases.md") == reference.phases_page(), "make docs writes it"


def test_every_setting_has_a_meaning() -> None:
    everything = [row for table in reference.tables().values() for row in table]
    assert len(everything) > 40
    assert not [row.key for row in everything if not row.meaning.endswith(".")]


def test_no_plugin_is_documented_that_is_not_there() -> None:
    headings = [heading.split(" `") for heading in headed("docs/settings.md") if heading.endswith("`")]
    assert sorted((kind, name.rstrip("`")) for kind, name in headings) == sorted(PLUGINS)
    assert {kind for kind, _ in headings} == set(get_args(plugins.Kind))


def test_settings_that_other_pages_name_exist() -> None:
    known = {row.key for row in reference.rows(config.Settings)}
    sections = {key.partition(".")[0] for key in known if "." in key}
    for page in PAGES:
        named = re.findall(r"`([a-z_]+\.[a-z_]+)(?: = [^`]*)?`", page.read_text(encoding="utf-8"))
        wrong = [key for key in named if key.partition(".")[0] in sections and key not in known]
        assert not [key for key in wrong if not key.endswith((".py", ".json"))], page


# --- metrics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "struct"), [("metrics.jsonl", Summary), ("silos", SiloSummary), ("seconds", Phases), ("ranks", RankPhases)]
)
def test_metrics_are_documented(heading: str, struct: type[msgspec.Struct]) -> None:
    found = [row[0].strip("`") for row in rows(headed("docs/metrics.md")[heading])]
    assert found == [field.name for field in msgspec.structs.fields(struct)]


def test_csv_columns_are_documented(tmp_path: Path) -> None:
    silo = SiloSummary(silo=0, name="NAME", accuracy=None, test_examples=1, train_examples=1, train_loss=None)
    phases = Phases(**dict.fromkeys(Phases.__struct_fields__, 0.0))
    summary = Summary(
        round=1, void=False, cohort=[0], accepted=[0], train_loss=None, accuracy=None, accuracy_low=None,
        accuracy_high=None, test_loss=None, test_examples=0, silos=[silo], seconds=phases, bytes_down=0, bytes_up=0,
        model_sha256="", shard_sha256=[],
    )  # fmt: skip
    sink = csv.Csv(csv.CsvSettings())
    sink.open(tmp_path, [summary])
    sink.close()
    columns = (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",")
    text = headed("docs/metrics.md")["metrics.csv"]
    told = set(re.findall(r"`(\w+)`", text))
    plain = {column for column in columns if not column.startswith("seconds_") and column != "accuracy_NAME"}
    assert plain == told - {"seconds"}
    assert {column for column in columns if column.startswith("seconds_")} == {
        f"seconds_{phase}" for phase in keys(headed("docs/metrics.md")["seconds"])
    }
    assert "`seconds_<phase>`" in text
    assert "`accuracy_<name>`" in text


# --- command line ----------------------------------------------------------------------------------------------------


def commands() -> dict[str, argparse.ArgumentParser]:
    found = next(a for a in cli.parser(*cli.COMMANDS)._actions if isinstance(a, argparse._SubParsersAction))
    return dict(found.choices)


def options(parser: argparse.ArgumentParser) -> set[str]:
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS and action.dest != "help"]
    return {max(action.option_strings, key=len, default=str(action.metavar)) for action in shown}


def test_options_are_documented() -> None:
    told: dict[str, set[str]] = {name: set() for name in commands()}
    text = headed("docs/settings.md")["Command line"]
    for names, option, *_ in [row for row in rows(text) if len(row) == 3]:
        for name in names.split(", "):
            told[name.strip("`")].add(option.strip("`"))
    assert told == {name: options(parser) for name, parser in commands().items()}


def command_lines(text: str) -> Iterator[list[str]]:
    """Every command in code, as words; continued lines are one."""
    shell = [block for language, block in FENCE.findall(text) if language in {"sh", "bash", "text"}]
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", FENCE.sub("", text))
    for line in [*"\n".join(shell).replace("\\\n", " ").splitlines(), *spans]:
        try:
            yield shlex.split(line, comments=True)
        except ValueError:
            continue  # a figure or a piece of a sentence


SCRIPTS = [*sorted((ROOT / "slurm").glob("*.sbatch")), ROOT / "Makefile"]


@pytest.mark.parametrize("page", [*PAGES, *SCRIPTS], ids=name_of)
def test_commands_use_options_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".md":
        text = f"```sh\n{text}\n```"
    for words in command_lines(text):
        at = next((i for i, word in enumerate(words[:-1]) if word.rpartition("/")[2] == "silofold"), None)
        if at is not None and words[at + 1] in commands():
            known = options(commands()[words[at + 1]])
            assert not [word for word in words[at + 2 :] if word.startswith("--") and word not in known], words
        for tool in [word for word in words if re.fullmatch(r"(data_tools|benchmarks)/\w+\.py", word)]:
            source = text_of(tool)
            if tool.startswith("data_tools"):
                name = {"verify": "verify_silos"}.get(Path(tool).stem, Path(tool).stem)
                source = "".join(text_of(f"src/silofold/commands/{one}.py") for one in (name, "data_tool", "source_options"))
            rest = words[words.index(tool) + 1 :]
            assert not [word for word in rest if word.startswith("--") and f'"{word}"' not in source], words


def test_make_targets_in_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    for page in PAGES:
        for words in command_lines(page.read_text(encoding="utf-8")):
            if words[:1] == ["make"] and len(words) > 1 and "=" not in words[1]:
                assert words[1] in targets, (page, words)


# --- the examples of CONTRIBUTING ------------------------------------------------------------------------------------


EXAMPLES = {
    head.partition(".py: ")[0].removeprefix("# mine/"): (head.partition(".py: ")[2], block)
    for block in [code for language, code in FENCE.findall(text_of("CONTRIBUTING.md")) if language == "python"]
    for head in block.splitlines()[:1]
}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The examples as a package of a user's own, and the tables that name them."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name, (_, block) in EXAMPLES.items():
        (tmp_path / "mine" / f"{name}.py").write_text(textwrap.dedent(block), encoding="utf-8")
    tables = tomllib.loads("\n".join(table for table, _ in EXAMPLES.values()))
    recipes.resolve(tables, "CONTRIBUTING.md")
    return tables


def test_there_is_an_example_of_each_kind() -> None:
    assert sorted(EXAMPLES) == ["cohort", "model", "optimizer", "sink", "strategy"]


def test_example_cohort(mine: dict[str, Any]) -> None:
    (silo,) = plugins.load("cohort", mine["cohort"]).draw([2, 5, 7], np.random.default_rng(1))
    assert silo in {2, 5, 7}


def test_example_strategy_and_optimizer(mine: dict[str, Any]) -> None:
    strategy = plugins.load("strategy", mine["strategy"])
    update = strategy.combine(np.array([[1.0], [2.0], [4.0], [90.0]]), np.array([1, 1, 1, 1]))
    assert (strategy.needs, strategy.weight(40)) == ("each", 1)
    optimizer = plugins.load("server_optimizer", mine["server_optimizer"])
    model = np.ones(1, np.float32)
    optimizer.step(model, update, optimizer.start(1))
    assert model == [2.5]


def test_example_sink(mine: dict[str, Any], tmp_path: Path) -> None:
    sink = plugins.load("sink", mine["sinks"][0])
    sink.open(tmp_path, [])
    sink.write(argparse.Namespace(round=1, accuracy=0.5))
    sink.close()
    assert (tmp_path / "accuracy.txt").read_text() == "1 0.5\n"


def test_example_model(mine: dict[str, Any]) -> None:
    import torch

    from silofold.training import build

    model = build.build(mine["model"], ["a", "b", "c"], (8, 8), 1, torch.device("cpu"))
    assert model.size == 3 * 64 + 3
