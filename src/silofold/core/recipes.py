"""A run's settings out of TOML and ``--set`` overrides: into one frozen tree of structs.

Keys, types and ranges are exact: what is unknown or out of range is an error that names the key, what was found, what
was expected and, for a misspelt key, the nearest known one.
"""

from __future__ import annotations

import copy
import json
import math
import re
import tomllib
from typing import TYPE_CHECKING, Any

import msgspec

from silofold.config import DEFAULT_PLUGINS, Settings, Table
from silofold.core import guarded
from silofold.core.conversion import convert, short
from silofold.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FREE_ON_RESUME = ("data", "roles", "rounds.count", "rounds.end_margin", "rounds.update_window", "shared_memory", "sinks")
"""Settings that a resumed run may change: none of them changes a bit of a round in which the same silos count."""


LARGEST = 2**18
"""Bytes that a file of settings may have."""
MOST_DOTS = 256
LONGEST = 2**16
"""Letters that a value may have."""


def load(path: Path, overrides: Sequence[str] = ()) -> Settings:
    """Read settings from a TOML file and ``key=value`` overrides.

    Raises
    ------
    ConfigError
        It cannot be read, is no regular file or too large, or as for `parse`.
    """
    try:
        text = guarded.read(path, LARGEST).decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise ConfigError("settings-read", f"{path}: byte {fault.start}: found no UTF-8, expected TOML in UTF-8") from None
    except OSError as fault:
        raise ConfigError("settings-read", f"{path}: cannot be read: {fault.strerror}") from None
    except guarded.UnfitError as fault:
        raise ConfigError("settings-read", f"{path}: cannot be read: {fault}") from None
    return parse(text, str(path), overrides)


def parse(text: str, origin: str, overrides: Sequence[str] = ()) -> Settings:
    """Read settings from TOML text and ``key=value`` overrides.

    Parameters
    ----------
    text
        The TOML document.
    origin
        What to call it in errors, usually its path.
    overrides
        ``section.key=value`` each; the value is TOML, a bare word is a string.

    Raises
    ------
    ConfigError
        The text is no TOML, a key is unknown, a value has the wrong type or range, or two settings contradict.
    """
    try:
        tree = _toml(text.replace("\r\n", "\n"))
    except ValueError as fault:  # tomllib's own, and that of int() for a number of thousands of digits
        raise ConfigError("settings-toml", f"{origin}: not valid TOML: {fault}") from None
    return assemble(tree, origin, overrides)


def assemble(tree: Mapping[str, Any], origin: str, overrides: Sequence[str]) -> Settings:
    """Turn a settings tree and overrides into settings; a fault that an override brings in is told as the override's own.

    Raises
    ------
    ConfigError
        As for `merge` and `resolve`.
    """
    _check_values(tree, origin)
    try:
        return resolve(merge(tree, overrides), origin)
    except ConfigError as fault:
        told = fault
    # to blame is the override after which every prefix fails: one before it may be mended by one that follows
    for count in range(len(overrides), -1, -1):
        try:
            resolve(merge(tree, overrides[:count]), f"--set {short(overrides[count - 1])}" if count else origin)
        except ConfigError as fault:
            blamed = fault
        else:
            raise blamed
    raise told


def set_text(key: str, text: str) -> str:
    """Write an override that sets a key to a text, whatever letters are in it."""
    return f"{key}={json.dumps(text, ensure_ascii=False)}".replace("\x7f", "\\u007f")


def merge(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Put ``key=value`` overrides into a copy of a settings tree.

    Raises
    ------
    ConfigError
        An override has no key or runs through a plain value.
    """
    merged = copy.deepcopy(dict(tree))
    for override in overrides:
        _override(merged, override)
    return merged


def resolve(tree: Mapping[str, Any], origin: str) -> Settings:
    """Turn a settings tree into settings.

    Raises
    ------
    ConfigError
        A key is unknown, a value has the wrong type or range, or two settings contradict.
    """
    _check_values(tree, origin)
    named = dict(tree)
    for key, name in DEFAULT_PLUGINS.items():
        if isinstance(table := named.get(key), dict):
            named[key] = {"name": name} | table
    settings = convert(named, Settings, origin)
    if settings.local.compile and settings.local.cpu_isa != "auto":
        raise ConfigError(
            "settings-contradict",
            f'{origin}: local.cpu_isa = "{settings.local.cpu_isa}" with local.compile = true: compiled code takes all that '
            "its CPU has; expected one of the two",
        )
    if settings.local.compile and settings.local.cuda_graph:
        ways = "local.compile and local.cuda_graph"
        raise ConfigError("settings-contradict", f"{origin}: {ways} are two ways to take a step: expected one at most")
    if settings.local.side_by_side > 1 and not settings.local.cuda_graph:
        raise ConfigError(
            "settings-contradict",
            f"{origin}: local.side_by_side = {settings.local.side_by_side} without local.cuda_graph = true: a GPU would "
            "wait for the calls of each step; expected both, or local.side_by_side = 1",
        )
    for key in DEFAULT_PLUGINS:
        _check_name(getattr(settings, key), key, origin)
    for index, sink in enumerate(settings.sinks):
        _check_name(sink, f"sinks[{index}]", origin)
    return settings


def differences(old: Settings, new: Settings) -> list[str]:
    """List the settings that differ and may not, as ``key: old -> new`` lines (see `FREE_ON_RESUME`)."""
    before, after = flatten(msgspec.to_builtins(old)), flatten(msgspec.to_builtins(new))
    return [
        f"{key}: {before.get(key, 'unset')!r} -> {after.get(key, 'unset')!r}"
        for key in sorted(before | after)
        if before.get(key) != after.get(key) and not any(f"{key}.".startswith(f"{free}.") for free in FREE_ON_RESUME)
    ]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested dicts into one dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _toml(text: str) -> dict[str, Any]:
    """Parse TOML that nests no deeper than any settings do.

    Raises
    ------
    ValueError
        It is none.
    """
    if guarded.depth(text.encode(errors="replace")) > guarded.DEPTH:
        raise ValueError(f"found brackets nested more than {guarded.DEPTH} deep")
    if max(part.count(".") for part in re.split(r"[=,\n{}\[\]]", text)) > MOST_DOTS:  # tomllib takes their number squared
        raise ValueError(f"found more than {MOST_DOTS} dots between two marks, expected a key of few parts")
    try:
        return tomllib.loads(text)
    except RecursionError:  # brackets in texts and comments can hide from the count how deep others are nested
        raise ValueError("found brackets nested too deeply") from None


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = (part.strip() for part in override.partition("="))
    path = key.split(".")
    if not equals or not all(path) or len(path) > guarded.DEPTH:
        raise ConfigError("settings-override", f"--set {short(override)}: expected section.key=value")
    try:
        found = _toml(f"value = {text}")
    except ValueError:
        found = {}
    value = found["value"] if set(found) == {"value"} else text  # no line break smuggles in a second key
    _check_values({key: value}, f"--set {short(override)}")
    *path, last = path
    for name in path:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise ConfigError("settings-override", f"--set {short(override)}: {name} is a value and has no keys")
    tree[last] = value


def _check_values(tree: Mapping[str, Any], origin: str) -> None:
    """Refuse what no setting is, before anything walks through it: too deep, too long, no text, no finite number."""
    todo: list[tuple[str, int, Any]] = [("", 0, tree)]
    while todo:
        at, depth, value = todo.pop()
        if depth > guarded.DEPTH:
            raise ConfigError("settings-key", f"{origin}: {short(at)}: found tables nested more than {guarded.DEPTH} deep")
        if isinstance(value, dict):
            for key, inner in value.items():
                if fault := _text_fault(key):
                    raise ConfigError("settings-key", f"{origin}: a key of {short(at) or 'the settings'}: {fault}")
                todo.append((f"{at}.{key}".lstrip("."), depth + 1, inner))
        elif isinstance(value, list):
            todo += [(f"{at}[{index}]", depth + 1, inner) for index, inner in enumerate(value)]
        elif fault := _value_fault(value):
            raise ConfigError("settings-key", f"{origin}: {short(at)} = {fault}")


def _value_fault(value: object) -> str:
    match value:
        case str():
            return _text_fault(value)
        case float() if not math.isfinite(value):
            return f"{value}: expected float, a finite one"
        case int() if abs(value) >= 2**64:
            return f"a number of {len(hex(value)) * 4} bits: expected int of 64 bits at most"
        case bool() | int() | float():
            return ""
    return f"{short(str(value))}: expected text, a number, true or false, a list or a table"


def _text_fault(text: str) -> str:
    if len(text) > LONGEST:
        return f"{short(text)}: found {len(text)} letters, expected at most {LONGEST}"
    if "\0" in text or (not text.isascii() and text.encode(errors="replace").decode() != text):
        return f"{short(text)!r}: expected text in UTF-8 without NUL"
    return ""


def _check_name(table: Table, key: str, origin: str) -> None:
    if not isinstance(table.get("name"), str):
        raise ConfigError(
            "settings-key",
            f'{origin}: {key}: found {short(repr(table))}, expected a table with a name, like {{ name = "..." }}',
        )
