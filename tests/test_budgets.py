"""How large a module, a function and a class may grow, and how many modules lie in the root: read off the syntax trees.

What is larger today is named, with its size: it may shrink, and its name goes when it fits.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

from test_layers import MODULES, SOURCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT_MODULES = 5
PLAIN = ("Struct", "NamedTuple", "Protocol", "Enum", "TypedDict", "Section", "Message", "Exception", "Error")
"""Ends of the names of bases whose classes are settings, messages, words or faults: no behaviour."""


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def has_behaviour(node: ast.ClassDef) -> bool:
    """Whether a class is more than a record of values."""
    bases = [ast.unparse(base).partition("[")[0] for base in node.bases]
    decorated = any("dataclass" in ast.unparse(one) for one in node.decorator_list)
    return not decorated and not any(base.endswith(PLAIN) for base in bases)


def assigned(node: ast.AST) -> Iterator[str]:
    """Every ``self.x`` and ``self.x.y`` that is assigned to."""
    for inner in ast.walk(node):
        targets: list[ast.expr] = []
        if isinstance(inner, ast.Assign):
            targets = inner.targets
        elif isinstance(inner, ast.AugAssign | ast.AnnAssign | ast.For | ast.AsyncFor):
            targets = [inner.target]
        elif isinstance(inner, ast.withitem) and inner.optional_vars:
            targets = [inner.optional_vars]
        elif isinstance(inner, ast.NamedExpr):
            targets = [inner.target]
        for target in targets:
            for part in ast.walk(target):
                if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
                    path = ast.unparse(part)
                    if path.startswith("self.") and path.replace(".", "").isidentifier():
                        yield path


# Each measure yields what is measured and how large it is, so that it can be tried on made-up code as well.


def module_lines(module: str, source: str) -> Iterator[tuple[str, int]]:
    yield module, len(source.splitlines())


def function_lines(module: str, source: str) -> Iterator[tuple[str, int]]:
    for node in functions(ast.parse(source)):
        yield f"{module}.{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1


def classes(source: str) -> Iterator[ast.ClassDef]:
    yield from (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef) and has_behaviour(node))


def attributes(module: str, source: str) -> Iterator[tuple[str, int]]:
    for node in classes(source):
        yield f"{module}.{node.name}", len({*assigned(node)})


def changed(module: str, source: str) -> Iterator[tuple[str, int]]:
    """Attributes that are assigned to outside of ``__init__``."""
    for node in classes(source):
        later = [child for child in node.body if not (isinstance(child, ast.FunctionDef) and child.name == "__init__")]
        yield f"{module}.{node.name}", len({path for child in later for path in assigned(child)})


class Budget(NamedTuple):
    """What is measured, how large it may be, and what is larger today."""

    measure: Callable[[str, str], Iterator[tuple[str, int]]]
    most: int
    larger: dict[str, int]


BUDGETS: Final = (
    Budget(
        module_lines,
        300,
        {
            "silofold.roles.scheduler": 331,
        },
    ),
    Budget(function_lines, 60, {}),
    Budget(
        attributes,
        15,
        {
            "silofold.roles.scheduler.Scheduler": 18,
        },
    ),
    Budget(
        changed,
        5,
        {
            "silofold.coordination.checkpoints.Checkpointing": 9,
            "silofold.coordination.member.Member": 7,
            "silofold.roles.scheduler.Scheduler": 7,
        },
    ),
)


def faults(budget: Budget, sources: dict[str, str]) -> list[str]:
    """What is larger than it may be, and which exception is no longer needed."""
    sizes = {what: size for module, source in sources.items() for what, size in budget.measure(module, source)}
    told = [
        f"{what}: found {size}, expected at most {budget.larger.get(what, budget.most)}"
        for what, size in sizes.items()
        if size > budget.larger.get(what, budget.most)
    ]
    return told + [
        f"{what}: fits into {budget.most}, or is gone: remove the exception"
        for what in budget.larger
        if sizes.get(what, 0) <= budget.most
    ]


SOURCES = {module: path.read_text(encoding="utf-8") for module, path in MODULES.items()}


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda budget: budget.measure.__name__)
def test_nothing_outgrows_its_budget(budget: Budget) -> None:
    assert faults(budget, SOURCES) == []


def test_the_root_is_small() -> None:
    root = {module for module, path in MODULES.items() if path.parent == SOURCE / "silofold"}
    assert len(root) <= ROOT_MODULES, root


MANY = "class A:\n    def __init__(self):\n" + "".join(f"        self.a{n} = {n}\n" for n in range(16))
LATER = "class A:\n    def f(self):\n" + "".join(f"        self.a{n} = {n}\n" for n in range(6))
DEEP = "class A:\n    def f(self):\n        self.a = self.b = 1\n" + "".join(
    f"        self.a.b{n} = {n}\n" for n in range(4)
)


@pytest.mark.parametrize(
    ("measure", "source", "size"),
    [
        (module_lines, "x = 1\n" * 301, 301),
        (function_lines, "def f():\n" + "    x = 1\n" * 60, 61),
        (function_lines, "class A:\n    async def f(self):\n" + "        x = 1\n" * 60, 61),
        (attributes, MANY, 16),
        (changed, LATER, 6),
        (changed, DEEP, 6),
        (changed, "class A:\n    def f(self):\n        for self.a in x: pass\n        with y as self.b: self.c += 1", 3),
    ],
)
def test_a_budget_can_be_broken(measure: Callable[[str, str], Iterator[tuple[str, int]]], source: str, size: int) -> None:
    assert [found for _, found in measure("m", source)] == [size]
    ((what, _),) = measure("m", source)
    assert faults(Budget(measure, size - 1, {}), {"m": source}) != []
    assert faults(Budget(measure, size - 1, {what: size}), {"m": source}) == []
    assert faults(Budget(measure, size, {what: size}), {"m": source}) != [], "an exception that is no longer needed"


@pytest.mark.parametrize("head", ["class A(msgspec.Struct):", "@dataclass(frozen=True)\nclass A:", "class A(NamedTuple):"])
def test_records_of_values_have_no_budget(head: str) -> None:
    assert list(attributes("m", MANY.replace("class A:", head))) == []
