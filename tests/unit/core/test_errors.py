"""Every error has an id of the table, every entry of the table is used, and ids decide how a run ends."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

import pytest

from silofold.core import console, endings, errors
from silofold.core.error_table import ERRORS

ROOT = Path(__file__).parents[3]
CLASSES = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.SilofoldError)}
SOURCES = [*sorted((ROOT / "src").rglob("*.py")), *sorted((ROOT / "data_tools").glob("*.py"))]


def ids_of(tree: ast.Module) -> list[tuple[int, str | None]]:
    """The line and the id of every error that is made; none where it is neither a word nor what a fault names."""
    found: list[tuple[int, str | None]] = []
    for node in ast.walk(tree):
        name = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
        if isinstance(node, ast.Call) and name in CLASSES:
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Attribute) and first.attr in {"id", "error"}:
                continue  # a fault or an action that was made before, where its id stands
            choice = [first.body, first.orelse] if isinstance(first, ast.IfExp) else [first]
            found += [
                (node.lineno, part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else None)
                for part in choice
            ]
    return found


def test_every_error_names_its_id_and_every_id_is_used() -> None:
    used, nameless = set[str](), []
    for path in SOURCES:
        for line, key in ids_of(ast.parse(path.read_text(encoding="utf-8"))):
            if key not in ERRORS:
                nameless.append(f"{path.relative_to(ROOT)}:{line}: {key}")
        used |= {
            node.value
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and node.value in ERRORS and path.name != "error_table.py"
        }  # fmt: skip
    assert nameless == []
    assert set(ERRORS) - used == set()


@pytest.mark.parametrize("code", ["ConfigError('no id')", "errors.ConfigError(text)", "ConfigError('settings-kez', text)"])
def test_an_error_without_an_id_of_the_table_is_found(code: str) -> None:
    assert [key for _, key in ids_of(ast.parse(f"raise {code}")) if key in ERRORS] == []


def test_ids_and_remedies_can_be_read() -> None:
    for key, entry in ERRORS.items():
        assert key.replace("-", "").isalnum(), key
        assert key.islower(), key
        assert entry.ending in endings.ENDINGS
        assert entry.cause.endswith(".")
        assert entry.remedy.endswith((".", "?")), key


@pytest.mark.parametrize("kind", sorted(CLASSES))
def test_the_tree_is_drawn(kind: str) -> None:
    assert kind in (errors.__doc__ or "")


def test_exit_codes_are_frozen() -> None:
    assert {ending.name: ending.code for ending in endings.ENDINGS} == {
        "done": 0, "stopped": 0, "own rule": 0, "internal error": 1, "bad input": 2, "diverged": 3, "user code": 4,
        "replay differs": 5, "resumable": 75, "interrupted": 130,
    }  # fmt: skip
    assert [ending.code for ending in endings.ENDINGS if ending.requeue] == [75]
    assert endings.of_code(137) is endings.RESUMABLE
    assert endings.of_code(2) is endings.BAD_INPUT


def test_an_error_crosses_processes() -> None:
    fault = pickle.loads(pickle.dumps(errors.SchemaError("data-digest", "a file")))  # noqa: S301  (our own)
    assert (fault.id, str(fault), fault.exit_code, type(fault)) == ("data-digest", "a file", 2, errors.SchemaError)


def test_no_name_forges_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    code = console.error(errors.SchemaError("data-digest", "a\nsilofold: error: forged\x1b[31m \u202e \udcff é"))
    told = capsys.readouterr().err
    assert code == 2
    assert told == "silofold: error: a\\nsilofold: error: forged\\x1b[31m \\u202e \\udcff é [data-digest]\n"
