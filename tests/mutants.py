"""Would the tests notice? Small changes of the code, a fixed sample, each of which a unit test must find.

Each change is one of cosmic-ray's (a comparison turned round, a number off by one, ``and`` for ``or``, a loop not entered …)
in a copy of the sources. The unit tests of its department are run on it, in a process that is forked after libraries were
imported. A change that no test finds survives and is shown. Needs the extra ``mutants``. Ends with 1 if a department's tests
find less than they must, and with 2 if they fail without a change.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[1]
SOURCE: Final = ROOT / "src" / "silofold"
OPERATORS: Final = (
    "ReplaceComparisonOperator_Eq_NotEq", "ReplaceComparisonOperator_NotEq_Eq", "ReplaceComparisonOperator_Lt_LtE",
    "ReplaceComparisonOperator_Lt_GtE", "ReplaceComparisonOperator_LtE_Lt", "ReplaceComparisonOperator_LtE_Gt",
    "ReplaceComparisonOperator_Gt_GtE", "ReplaceComparisonOperator_Gt_LtE", "ReplaceComparisonOperator_GtE_Gt",
    "ReplaceComparisonOperator_GtE_Lt", "ReplaceComparisonOperator_Is_IsNot", "ReplaceComparisonOperator_IsNot_Is",
    "ReplaceBinaryOperator_Add_Sub", "ReplaceBinaryOperator_Sub_Add", "ReplaceBinaryOperator_Mul_FloorDiv",
    "ReplaceBinaryOperator_Div_Mul", "ReplaceBinaryOperator_FloorDiv_Mul", "ReplaceBinaryOperator_Mod_FloorDiv",
    "ReplaceBinaryOperator_BitOr_BitAnd", "ReplaceBinaryOperator_BitAnd_BitOr", "ReplaceUnaryOperator_Delete_Not",
    "ReplaceUnaryOperator_Delete_USub", "AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr",
    "ReplaceOrWithAnd", "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "NumberReplacer", "ZeroIterationForLoop",
)  # fmt: skip


class Department(NamedTuple):
    """Code, the tests that must notice its changes, and how many of them."""

    code: tuple[str, ...]
    """Folders and files, from the package's folder."""
    tests: tuple[str, ...]
    """Likewise, from the folder of the tests."""
    share: float
    simulated: int = 0
    """Jobs that are simulated if no test has noticed."""


DEPARTMENTS: Final = {
    "coordination": Department(
        ("coordination",), ("unit/coordination", "simulation/test_machine.py", "simulation/test_members.py"), 0.9, 150
    ),
    "aggregation": Department(("aggregation",), ("unit/aggregation",), 0.9),
    "evaluation": Department(("evaluation",), ("unit/evaluation",), 0.9),
    "data": Department(("data",), ("unit/data",), 0.9),
    "record": Department(("record",), ("unit/record",), 0.9),
    "topology": Department(("topology.py",), ("unit/test_topology.py",), 0.9),
    "training": Department(("training",), ("unit/training",), 0.8),
}
LIBRARIES: Final = ("msgspec", "numpy", "pytest", "torch", "h5py", "PIL.Image")
SECONDS: Final = 120.0
"""For the tests of one change: what they do not end in is noticed."""


class Mutant(NamedTuple):
    """One change of one file."""

    department: str
    path: Path | None
    """From the package's folder; none: nothing is changed."""
    code: str
    difference: str


def files(department: Department) -> list[Path]:
    """Return a department's modules, from the package's folder."""
    found = [
        path for one in department.code for path in ([SOURCE / one] if one.endswith(".py") else (SOURCE / one).rglob("*.py"))
    ]
    return sorted(path.relative_to(SOURCE) for path in found if path.name != "__init__.py")


def mutants(name: str, path: Path, count: int, seed: int) -> Iterator[Mutant]:
    """Draw changes of a file, none of which leaves the program as it was."""
    from cosmic_ray import plugins
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code

    text = (SOURCE / path).read_text(encoding="utf-8")
    nodes = list(ast_nodes(get_ast(text)))
    places = []
    for operator in OPERATORS:
        found = plugins.get_operator(f"core/{operator}")()
        places += [(operator, at) for at in range(sum(len(list(found.mutation_positions(node))) for node in nodes))]
    rng = random.Random(f"{seed} {path}")  # noqa: S311  (no secret)
    rng.shuffle(places)
    before, drawn = meaning(text), 0
    for operator, at in places:
        if drawn == count:
            return
        changed = mutate_code(text, plugins.get_operator(f"core/{operator}")(), at)
        with contextlib.suppress(SyntaxError):
            if changed is not None and meaning(changed) != before:
                drawn += 1
                lines = difflib.unified_diff(text.splitlines(), changed.splitlines(), str(path), operator, lineterm="", n=0)
                yield Mutant(name, path, changed, "\n".join(lines))


def meaning(text: str) -> str:
    """Dump a module without what is not run: annotations, documentation, that structs are frozen, TYPE_CHECKING."""

    class Bare(ast.NodeTransformer):
        def visit_arg(self, node: ast.arg) -> ast.arg:
            node.annotation = None
            return node

        def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
            node.returns = None
            return self.generic_visit(node)

        def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
            node.annotation = ast.Constant(None)
            return self.generic_visit(node)

        def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
            return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

        def visit_keyword(self, node: ast.keyword) -> ast.AST | None:
            return None if node.arg == "frozen" else self.generic_visit(node)

    return ast.dump(Bare().visit(ast.parse(text)))


def notices(mutant: Mutant, folder: Path) -> bool:
    """Run a department's tests on a changed copy, in this process, and say whether they fail."""
    import pytest

    department = DEPARTMENTS[mutant.department]
    if mutant.path:
        (folder / "src" / "silofold" / mutant.path).write_text(mutant.code, encoding="utf-8")
    os.chdir(folder)
    sys.path[:0] = [str(folder / "src"), str(folder / "tests")]
    os.environ["PYTHONPATH"] = str(folder / "src")
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", "--tb=no"]
    if pytest.main([*options, *(f"tests/{test}" for test in department.tests)]):
        return True
    if not department.simulated:
        return False
    from simulation import job

    return any(
        job.run(seed, one_dead_worker=death).kind == "violation"
        for seed in range(1, department.simulated + 1)
        for death in (False, True)
    )


class Slot:
    """A copy of the checkout, and the process that works in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in ("src", "tests"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("setup.cfg", "pyproject.toml", "data_tools", "examples", "docs"):
            (folder / name).symlink_to(ROOT / name)
        self.mutant: Mutant | None = None
        self._pid, self._began = 0, 0.0

    def begin(self, mutant: Mutant) -> None:
        """Test a change."""
        self.mutant, self._began = mutant, time.monotonic()
        self._pid = os.fork()
        if self._pid:
            return
        os.setsid()
        quiet = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(quiet, number)
        code = 1
        try:
            code = int(notices(mutant, self._folder))
        finally:
            os._exit(code)

    def ended(self) -> bool | None:
        """Whether the change was noticed; none while its tests run."""
        if self.mutant is None:
            return None
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        late = not pid and time.monotonic() - self._began > SECONDS
        if not pid and not late:
            return None
        with contextlib.suppress(ProcessLookupError):  # what the tests have started, too
            os.killpg(self._pid, signal.SIGKILL)
        if late:
            os.waitpid(self._pid, 0)
        if self.mutant.path:
            shutil.copy(SOURCE / self.mutant.path, self._folder / "src" / "silofold" / self.mutant.path)
        self.mutant = None
        return late or status != 0


def say(line: str) -> None:
    """Tell at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Draw, try and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=4, metavar="N", help="changes a file (default: 4)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(DEPARTMENTS), metavar="DEPARTMENT", choices=DEPARTMENTS)
    options = parser.parse_args()
    left = [Mutant(name, None, "", "") for name in options.only]  # without a change the tests must pass
    left += [
        mutant for name in options.only for path in files(DEPARTMENTS[name])
        for mutant in mutants(name, path, options.each, options.seed)
    ]  # fmt: skip
    for library in LIBRARIES:
        __import__(library)
    noticed: defaultdict[Path, Counter[bool]] = defaultdict(Counter)
    totals: defaultdict[str, Counter[bool]] = defaultdict(Counter)
    with tempfile.TemporaryDirectory() as folder:
        slots = [Slot(Path(folder) / str(number)) for number in range(len(os.sched_getaffinity(0)))]
        while left or any(slot.mutant for slot in slots):
            for slot in slots:
                mutant = slot.mutant
                if mutant and (found := slot.ended()) is not None:
                    if mutant.path is None:
                        if found:
                            say(f"{mutant.department}: its tests fail without a change")
                            return 2
                        continue
                    noticed[mutant.path][found] += 1
                    totals[mutant.department][found] += 1
                    if not found:
                        say(f"survives:\n{mutant.difference}\n")
                if slot.mutant is None and left:
                    slot.begin(left.pop(0))
            time.sleep(0.02)
    for path, counts in sorted(noticed.items()):
        say(f"{counts[True]:3} of {counts.total():3}  {path}")
    for name, counts in totals.items():
        share, least = counts[True] / counts.total(), DEPARTMENTS[name].share
        say(f"{name}: {counts[True]} of {counts.total()} noticed, {share:.0%} (at least {least:.0%})")
    return int(any(counts[True] < DEPARTMENTS[name].share * counts.total() for name, counts in totals.items()))


if __name__ == "__main__":
    sys.exit(main())
