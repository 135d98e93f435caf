"""Plain values into structs, with errors that name key, value and expectation."""

from __future__ import annotations

import difflib
import re
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from silofold.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

S = TypeVar("S", bound=msgspec.Struct)
SHOWN = 100
"""Letters of a foreign key or value that an error shows."""


def convert(tree: Mapping[str, Any], kind: type[S], origin: str, at: str = "") -> S:
    """Turn a tree of plain values into a struct, with errors that name key, value and expectation.

    Parameters
    ----------
    tree
        Nested dicts, as from TOML.
    kind
        The struct to make.
    origin
        File or plug-in that the values come from, for errors.
    at
        Dotted key under which `tree` stands in the whole document.

    Raises
    ------
    ConfigError
        A key is unknown or missing, or a value has the wrong type or range.
    """
    try:
        return msgspec.convert(dict(tree), kind, strict=True)
    except msgspec.ValidationError as fault:
        raise ConfigError("settings-key", f"{origin}: {_explain(str(fault), tree, kind, at)}") from None


def nearest(word: str, known: Sequence[str]) -> str:
    """Say which of the known words is meant, or list them all."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"


def short(text: str) -> str:
    """Cut a text to what an error may show of it."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _ways(kind: Any) -> list[str]:
    """Name what a value may be, of a kind among which texts are chosen."""
    if get_origin(kind) is Literal:
        return [repr(value) for value in get_args(kind)]
    if get_origin(kind) in {Union, UnionType}:
        return [way for one in get_args(kind) for way in _ways(one)]
    return ["a number"] if get_args(kind)[:1] in {(int,), (float,)} else []


def _explain(message: str, tree: Mapping[str, Any], kind: type[msgspec.Struct], at: str) -> str:
    """Turn msgspec's message (``Expected ... - at `$.a.b```) into one about our keys."""
    what, _, where = message.rpartition(" - at ") if message.endswith("`") and " - at `" in message else (message, "", "")
    path = re.findall(r"[\w-]+", where.strip("`$"))
    value: Any = tree
    for name in path:
        if isinstance(value, list):
            value = value[int(name)] if name.isdecimal() and int(name) < len(value) else value
        else:
            value = value.get(name, value) if isinstance(value, dict) else value
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            kind = next((f.type for f in msgspec.structs.fields(kind) if f.name == name), kind)
    dotted = ".".join(part for part in (at, *path) if part)
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", what, re.DOTALL):
        known = [field.name for field in msgspec.structs.fields(kind)]
        key = f"{dotted}.{unknown[1]}".lstrip(".")
        return f"unknown key {short(key)}; {nearest(unknown[1][:SHOWN], known)}"
    if missing := re.fullmatch(r"Object missing required field `(.*)`", what):
        return f"{f'{dotted}.{missing[1]}'.lstrip('.')} is missing"
    expected = short(what.removeprefix("Expected ").replace("`", "").split(", got")[0])
    expected = {"object": "a table", "array": "a list"}.get(expected, expected)
    if what.startswith("Invalid enum value"):
        expected = " or ".join(_ways(kind))
    return f"{short(dotted)} = {short(repr(value))}: expected {expected}"
