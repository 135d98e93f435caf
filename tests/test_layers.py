"""Who may import whom, and the habits of the house, read off the syntax tree of every module.

What stands under TYPE_CHECKING counts for layers and owners like any other import: a type names a dependency. It is left
out only where the question is what is loaded: cycles, and what a scheduler's or a server's process imports.
"""

from __future__ import annotations

import ast
import graphlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
WORDS = {"core", "config", "protocols"}
PURE = ("silofold.coordination",)
"""Decisions alone: no clock, file, MPI, log, numpy or torch."""
PURE_STDLIB = {"__future__", "collections", "dataclasses", "enum", "functools", "itertools", "math", "typing"}
DEPARTMENTS = {"comm", "coordination", "training", "aggregation", "evaluation", "data", "record", "view"}
"""evaluation: what predictions are worth, numpy alone, apart from aggregation because no round needs it. view: what people
look at, text and pages, so that no other department knows a library that draws."""
JOB = {"job", "baseline"}
COMMANDS = {"commands"}
PROGRAM = {"cli", "__main__"}
PLUGIN_FOLDERS = (
    "silofold.training.models",
    "silofold.aggregation.cohorts",
    "silofold.aggregation.strategies",
    "silofold.aggregation.server_optimizers",
    "silofold.aggregation.transforms",
    "silofold.record.sinks",
)
OWNERS = {
    "mpi4py": ("silofold.comm",),
    "torch": ("silofold.training", "silofold.roles.worker", "silofold.roles.total", "silofold.roles.momenta"),
    "h5py": ("silofold.core.hdf5", "silofold.data.look", "silofold.data.writer"),
    "PIL": ("silofold.data",),
    "rich": ("silofold.commands.launching.live_view",),
    "tensorboard": ("silofold.record.sinks.tensorboard",),
    "mlflow": ("silofold.record.sinks.mlflow",),
    "matplotlib": ("silofold.view.drawing", "silofold.view.plots", "silofold.view.round_plots", "silofold.view.skew_plot"),
    "pyarrow": ("silofold.data.sources.parquet",),
    "jinja2": ("silofold.view.page",),
    "markupsafe": ("silofold.view.page",),
}
LIBRARIES = {"numpy", "msgspec", "tqdm", *OWNERS}
VAGUE = {"utils", "util", "common", "base", "helpers", "helper", "manager", "misc"}
MAY_PRINT = {"silofold.record.sinks.console"}


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(SOURCE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
TOOLS = sorted((ROOT / "data_tools").glob("*.py"))


class Import(NamedTuple):
    target: str
    typing: bool
    """Under TYPE_CHECKING."""
    lazy: bool
    """Inside a function."""


def is_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(node: ast.AST, *, typing: bool = False, lazy: bool = False) -> Iterator[Import]:
    """Find every import; ``from silofold import config`` is one of ``silofold.config``."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, typing, lazy)
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        for alias in node.names:
            inner = f"{module}.{alias.name}"
            yield Import(inner if inner in MODULES else module, typing, lazy)
    elif is_typing(node) and isinstance(node, ast.If):
        for inner_node in node.body:
            yield from imports(inner_node, typing=True, lazy=lazy)
        for inner_node in node.orelse:
            yield from imports(inner_node, typing=typing, lazy=lazy)
    else:
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            yield from imports(child, typing=typing, lazy=inside)


def within(module: str, folder: str) -> bool:
    return module == folder or module.startswith(f"{folder}.")


def place(module: str) -> tuple[int, str]:
    """Layer of a module (0 words, 1 departments, 2 roles, 3 job, 4 commands, 5 program) and its department."""
    first = module.removeprefix("silofold").lstrip(".").partition(".")[0]
    if first in WORDS or not first:
        return 0, ""
    if first in DEPARTMENTS:
        return 1, first
    if first == "roles":
        return 2, ""
    for layer, rooms in ((3, JOB), (4, COMMANDS), (5, PROGRAM)):
        if first in rooms:
            return layer, ""
    raise ValueError(f"{module} is no part of DESIGN section 3")


# Each check takes a module's name and tree and tells its faults, so that it can be tried on bad code as well.


def layer_faults(module: str, tree: ast.Module) -> Iterator[str]:
    layer, department = place(module)
    for found in imports(tree):
        if found.target.startswith("."):
            yield f"{module}: relative import {found.target}"
        if not within(found.target, "silofold"):
            continue
        other, its_department = place(found.target)
        if other > layer:
            yield f"{module} imports {found.target}, which lies above it"
        if layer == other == 1 and department != its_department:
            yield f"{module} imports {found.target}: departments never import each other"
        if layer == 2 and its_department == "training" and module != "silofold.roles.worker":
            yield f"{module} imports {found.target}: only the worker trains"


def plugin_faults(module: str, tree: ast.Module) -> Iterator[str]:
    folder = next((folder for folder in PLUGIN_FOLDERS if module.startswith(f"{folder}.")), None)
    if folder is None:
        return
    libraries = set()
    for found in imports(tree):
        if within(found.target, "silofold"):
            if place(found.target)[0] != 0:
                yield f"{module} imports {found.target}: a plug-in imports words alone"
        else:
            libraries.add(found.target.partition(".")[0])
    libraries -= {*sys.stdlib_module_names, "numpy", "msgspec"}
    if len(libraries) > 1:
        yield f"{module} needs {sorted(libraries)}: a plug-in has one library"
    if not any(ast.unparse(node.targets[0]) == "plugin" for node in tree.body if isinstance(node, ast.Assign)):
        yield f"{module} names no plugin"


def library_faults(module: str, tree: ast.Module) -> Iterator[str]:
    layer, department = place(module)
    for found in imports(tree):
        library = found.target.partition(".")[0]
        if library == "silofold" or library in sys.stdlib_module_names:
            continue
        if library not in LIBRARIES:
            yield f"{module} imports {library}: not a library of silofold"
        if not any(within(module, owner) for owner in OWNERS.get(library, ("silofold",))):
            yield f"{module} imports {library}, which belongs to {OWNERS[library]}"
        alone = (layer == 0 and module not in OWNERS.get(library, ())) or department in {"aggregation", "evaluation"}
        if alone and library not in {"numpy", "msgspec"}:
            yield f"{module} imports {library}: words, aggregation and evaluation know numpy and msgspec alone"


def dynamic_faults(module: str, tree: ast.Module) -> Iterator[str]:
    if module == "silofold.core.plugins":
        return
    for found in imports(tree):
        if within(found.target, "importlib"):
            yield f"{module} imports importlib"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"__import__", "exec", "eval"}:
            yield f"{module}:{node.lineno} calls {ast.unparse(node.func)}"


def annotation_faults(module: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        given = node.args
        every = [*given.posonlyargs, *given.args, *given.kwonlyargs, *(x for x in (given.vararg, given.kwarg) if x)]
        bare = [arg.arg for arg in every if arg.annotation is None and arg.arg not in {"self", "cls"}]
        if bare:
            yield f"{module}:{node.lineno} {node.name}: no type for {', '.join(bare)}"
        if node.returns is None:
            yield f"{module}:{node.lineno} {node.name}: no return type"


def docstring_faults(module: str, node: ast.Module | ast.ClassDef, path: str = "") -> Iterator[str]:
    if ast.get_docstring(node) is None:
        yield f"{module} {path or '(module)'}: no docstring"
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from docstring_faults(module, child, f"{path}{child.name}.")
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            # a protocol's member that is named after what the docstring of the implementations says
            stub = ast.unparse(child.body[-1]) == "..." and len(child.body) == 1 and isinstance(node, ast.ClassDef)
            if ast.get_docstring(child) is None and not stub:
                yield f"{module}:{child.lineno} {path}{child.name}: no docstring"


def print_faults(module: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and module not in MAY_PRINT:
            yield f"{module}:{node.lineno} prints"


def name_faults(module: str, tree: ast.Module) -> Iterator[str]:
    del tree
    for part in module.split("."):
        if part in VAGUE:
            yield f"{module}: {part} says nothing"


def purity_faults(module: str, tree: ast.Module) -> Iterator[str]:
    if not any(within(module, folder) for folder in PURE):
        return
    for found in imports(tree):
        library = found.target.partition(".")[0]
        if not found.typing and library not in {*PURE_STDLIB, "msgspec", "silofold"}:
            yield f"{module} imports {library}: what decides knows no clock, file, log or array"


CHECKS: list[Callable[[str, ast.Module], Iterator[str]]] = [
    layer_faults,
    plugin_faults,
    library_faults,
    dynamic_faults,
    annotation_faults,
    docstring_faults,
    print_faults,
    name_faults,
    purity_faults,
]


@pytest.mark.parametrize("check", CHECKS)
def test_every_module_keeps_the_rule(check: Callable[[str, ast.Module], Iterator[str]]) -> None:
    assert len(MODULES) > 40
    assert [fault for module, tree in TREES.items() for fault in check(module, tree)] == []


@pytest.mark.parametrize(
    ("check", "module", "code"),
    [
        (layer_faults, "silofold.config", "from silofold.roles import job"),
        (layer_faults, "silofold.roles.job", "from silofold.job import startup"),
        (layer_faults, "silofold.comm.world", "from silofold.data import silo"),
        (layer_faults, "silofold.coordination.quorum", "def f():\n    import silofold.record.log"),
        (layer_faults, "silofold.data.silo", "if TYPE_CHECKING:\n    from silofold.training.flat import FlatModel"),
        (layer_faults, "silofold.roles.server", "from silofold.training import flat"),
        (layer_faults, "silofold.core.messages", "from . import config"),
        (plugin_faults, "silofold.record.sinks.csv", "from silofold.record import rundir\nplugin = 1"),
        (plugin_faults, "silofold.record.sinks.csv", "from silofold.record.sinks.console import line\nplugin = 1"),
        (plugin_faults, "silofold.record.sinks.csv", "import tqdm, tensorboard\nplugin = 1"),
        (plugin_faults, "silofold.record.sinks.csv", "plugins = 1"),
        (library_faults, "silofold.job.startup", "from mpi4py import MPI"),
        (library_faults, "silofold.roles.server", "if TYPE_CHECKING:\n    import torch"),
        (library_faults, "silofold.comm.world", "import h5py"),
        (library_faults, "silofold.comm.world", "import pandas"),
        (library_faults, "silofold.aggregation.exact", "import tqdm"),
        (dynamic_faults, "silofold.job.startup", "import importlib.util"),
        (dynamic_faults, "silofold.job.startup", "x = __import__('torch')"),
        (annotation_faults, "silofold.job.startup", "class A:\n    def f(self, x) -> int: ..."),
        (annotation_faults, "silofold.job.startup", "def f(*given: int): ..."),
        (docstring_faults, "silofold.job.startup", "import os"),
        (docstring_faults, "silofold.job.startup", '"""M."""\ndef f() -> None:\n    return None'),
        (docstring_faults, "silofold.job.startup", '"""M."""\nclass A:\n    """A."""\n    class Settings:\n        x = 1'),
        (print_faults, "silofold.job.startup", "print(1)"),
        (name_faults, "silofold.comm.utils", ""),
        (purity_faults, "silofold.coordination.quorum", "import time"),
        (purity_faults, "silofold.coordination.quorum", "def f():\n    from pathlib import Path"),
    ],
)
def test_the_rule_can_be_broken(check: Callable[[str, ast.Module], Iterator[str]], module: str, code: str) -> None:
    assert len(list(check(module, ast.parse(code)))) == 1


def test_a_module_outside_the_house_is_found() -> None:
    with pytest.raises(ValueError, match="no part of DESIGN"):
        place("silofold.extras.things")
    assert all(place(module) for module in MODULES)


def loaded(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """For each module those of ours that importing it loads at once."""
    return {
        module: {found.target for found in imports(tree) if not found.typing and not found.lazy and found.target in trees}
        for module, tree in trees.items()
    }


def needed(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """For each module those of ours that it loads at once or later, inside a function."""
    return {
        module: {found.target for found in imports(tree) if not found.typing and found.target in trees}
        for module, tree in trees.items()
    }


def test_no_import_cycle() -> None:
    """Imports inside functions count: who imports late to break a circle has hidden it."""
    tuple(graphlib.TopologicalSorter(needed(TREES)).static_order())
    circle = {
        "silofold.cli": ast.parse("def f():\n    from silofold.commands import launch"),
        "silofold.commands.launch": ast.parse("from silofold import cli"),
    }
    with pytest.raises(graphlib.CycleError):
        tuple(graphlib.TopologicalSorter(needed(circle)).static_order())


@pytest.mark.parametrize(
    "start", ["silofold.__main__", "silofold.job.startup", "silofold.roles.scheduler", "silofold.roles.server"]
)
def test_a_lean_rank_never_loads_torch(start: str) -> None:
    graph, seen, todo = loaded(TREES), set[str](), [start]
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += graph[module]
    assert start in seen
    assert [module for module in seen if any(within(module, owner) for owner in OWNERS["torch"])] == []


def test_packages_do_nothing_on_import() -> None:
    for module, path in MODULES.items():
        if path.name == "__init__.py":
            allowed = (ast.Expr, ast.Assign) if module == "silofold" else (ast.Expr,)
            assert all(isinstance(node, allowed) for node in TREES[module].body), module


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.name)
def test_data_tools_are_commands_as_scripts(path: Path) -> None:
    for found in imports(ast.parse(path.read_text(encoding="utf-8"))):
        assert within(found.target, "silofold.commands") or found.target in {"__future__", "sys"}, found


def test_data_tools_are_found() -> None:
    assert "pack.py" in [path.name for path in TOOLS]
