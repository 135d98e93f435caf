"""Write the pages that follow from tables of the program: settings.md, errors.md and phases.md.

``python docs/reference.py [--check]``

Key, type, range and default are those of the structs that check a recipe; the meaning is the text below each field. With
``--check`` nothing is written, and the exit code is 1 if the page is not what it would be.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import itertools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec
from msgspec import inspect as types

from silofold import config, plugins
from silofold.coordination import member, recovery
from silofold.coordination.phases import TRANSITIONS
from silofold.core.endings import ENDINGS
from silofold.core.error_table import ERRORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PAGE = Path(__file__).with_name("settings.md")
ERRORS_PAGE = Path(__file__).with_name("errors.md")
PHASES_PAGE = Path(__file__).with_name("phases.md")
HEAD = ["| key | type and range | default | meaning |", "|---|---|---|---|"]
PLAIN_KINDS: dict[type[types.Type], str] = {
    types.BoolType: "true or false",
    types.StrType: "text",
    types.DictType: "table",
    types.ListType: "list of tables",
}
TABLES = ("table", "list of tables")


class Row(NamedTuple):
    """A setting as the page shows it."""

    key: str
    kind: str
    default: str
    meaning: str

    @property
    def line(self) -> str:
        """The row in Markdown."""
        return f"| `{self.key}` | {self.kind} | {self.default} | {self.meaning} |"


def rows(struct: type[msgspec.Struct], prefix: str = "") -> Iterator[Row]:
    """Yield every setting of a struct and of the structs in it."""
    told = meanings(struct)
    for field in cast("types.StructType", types.type_info(struct)).fields:
        if isinstance(field.type, types.StructType):
            yield from rows(field.type.cls, f"{prefix}{field.name}.")
            continue
        default = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
        shown = "required" if default is msgspec.NODEFAULT else f"`{toml(default)}`"
        yield Row(prefix + field.name, kind_of(field.type), shown, told.get(field.name, ""))


def meanings(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Read the text below each field of a struct, as Markdown."""
    tree = ast.parse(Path(inspect.getfile(struct)).read_text(encoding="utf-8"))
    body = next(node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == struct.__name__)
    return {
        field.target.id: " ".join(text.value.value.split()).replace("``", "`")
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }  # fmt: skip


def kind_of(kind: types.Type) -> str:
    """Say what a value may be."""
    match kind:
        case types.UnionType():
            return " or ".join(map(kind_of, kind.types))
        case types.IntType():
            return f"integer {bounds(kind)}".strip()
        case types.FloatType():
            return f"number {bounds(kind)}".strip()
        case types.LiteralType():
            return " or ".join(f'`"{value}"`' for value in kind.values)
    return PLAIN_KINDS[type(kind)]


def bounds(kind: types.IntType | types.FloatType) -> str:
    """Say how small and how large a number may be."""
    signs = {"≥": kind.ge, ">": kind.gt, "≤": kind.le, "<": kind.lt}
    return ", ".join(f"{sign} {number(value)}" for sign, value in signs.items() if value is not None)


def number(value: float) -> str:
    """Write a bound."""
    return "2^63 − 1" if value == 2**63 - 1 else f"{value:g}".replace("e+0", "e")


def toml(value: Any) -> str:
    """Write a default as it would stand in a recipe."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(entry)}" for key, entry in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def tables() -> dict[str, list[Row]]:
    """Return the rows that belong under each heading of the page."""
    found: dict[str, list[Row]] = {}
    for row in rows(config.Settings):
        section = row.key.partition(".")[0] if "." in row.key else "Plug-ins" if row.kind in TABLES else "General"
        found.setdefault(section, []).append(row)
    for kind in plugins.FOLDERS:
        for name in plugins.names(kind):
            found[f"{kind} `{name}`"] = [row for row in rows(plugins.find(kind, name).Settings) if row.key != "name"]
    return found


def renewed(page: str) -> str:
    """Return the page with its tables as the definitions have them now; all other text stands."""
    lines, heading, expected = list[str](), "", tables()
    skipping = False
    for line in page.splitlines():
        heading = line.lstrip("#").strip() if line.startswith("#") else heading
        skipping = line.startswith("|") and (skipping or (line == HEAD[0] and heading in expected))
        if not skipping:
            lines.append(line)
        elif line == HEAD[0]:
            lines += [*HEAD, *(row.line for row in expected.pop(heading))]
    lacking = [heading for heading, left in expected.items() if left]
    if lacking:
        raise SystemExit(f"{PAGE}: no table under a heading for {lacking}")
    return "\n".join(lines) + "\n"


def errors_page() -> str:
    """Return the page of the ways to end and of all errors."""
    lines = [
        "# Ways to end, and errors", "",
        "`make docs` writes this page out of the tables that the program itself uses.", "", "## Ways to end", "",
        "The exit code tells how a run, or any other command, has ended.",
        "A batch script starts a job again only where a repetition can help.", "",
        "| ending | exit code | started again | what it says | what to do |", "|---|---|---|---|---|",
    ]  # fmt: skip
    lines += [
        f"| {one.name} | `{one.code}` | {'yes' if one.requeue else 'no'} | {one.meaning} | {one.remedy} |" for one in ENDINGS
    ]
    lines += ["", "## Errors", "", "The id stands in brackets at the end of the line.", ""]
    lines += ["| id | exit code | cause | what to do |", "|---|---|---|---|"]
    lines += [f"| `{key}` | `{one.ending.code}` | {one.cause} | {one.remedy} |" for key, one in sorted(ERRORS.items())]
    return "\n".join(lines) + "\n"


def phases_page() -> str:
    """Return the page of the protocol's machines."""
    scheduler = [(one.source.__name__, one.event.__name__, one.target.__name__, one.meaning) for one in TRANSITIONS]
    members = [(one.source, one.event.__name__, one.target, one.meaning) for one in member.WAYS]
    survivors = [(one.source, one.event.__name__, one.target, one.meaning) for one in recovery.WAYS]
    lines = [
        "# The protocol's machines", "",
        "`make docs` writes this page out of the tables that the simulation checks: what is not in them is a fault.",
        "An event is a rank's message, its death (`Died`), a wish of the user (`Asked`) or time alone (`Tick`).", "",
        "## The scheduler's phases", "",
        *_machine(scheduler, "[*] --> Gathering", "Closed --> [*]"), "",
        "## What a server or a worker waits for", "",
        "Between two waits it is at work. Which wait follows is decided by the message that ended the last one.", "",
        *_machine(members, "[*] --> PLAN"), "",
        "## How the survivors of a loss find each other", "",
        "The lowest living rank leads.", "",
        *_machine(survivors, "[*] --> leads", "[*] --> follows"),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _machine(ways: list[tuple[str, str, str, str]], *ends: str) -> list[str]:
    """Draw a machine and list its ways."""
    edges: dict[tuple[str, str], list[str]] = {}
    for source, event, target, _ in ways:
        edges.setdefault((source, target), []).append(event)
    names = {one: one.replace(" ", "_") for source, _, target, _ in ways for one in (source, target)}
    lines = ["```mermaid", "stateDiagram-v2", *(f"    {end}" for end in ends)]
    lines += [f"    {names[source]} --> {names[target]}: {', '.join(events)}" for (source, target), events in edges.items()]
    lines += ["```", "", "| in | event | to | because |", "|---|---|---|---|"]
    return lines + [f"| {source} | `{event}` | {target} | {meaning} |" for source, event, target, meaning in ways]


def main(arguments: Iterable[str] | None = None) -> int:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 if the page would change")
    check = parser.parse_args(None if arguments is None else list(arguments)).check
    pages = {PAGE: renewed(PAGE.read_text(encoding="utf-8")), ERRORS_PAGE: errors_page(), PHASES_PAGE: phases_page()}
    if check:
        return int(any(not page.exists() or page.read_text(encoding="utf-8") != new for page, new in pages.items()))
    for page, new in pages.items():
        page.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
