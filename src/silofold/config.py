"""The run's settings: TOML and ``--set`` overrides in, one frozen tree of structs out.

Keys, types and ranges are exact: what is unknown or out of range is an error that names the key, what was found, what
was expected and, for a misspelt key, the nearest known one. This module knows nothing of files of data, ranks or MPI.
"""

from __future__ import annotations

import copy
import difflib
import json
import math
import re
import tomllib
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from silofold.core import guarded
from silofold.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Count: TypeAlias = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Seconds: TypeAlias = Annotated[float, Meta(gt=0, le=1e7)]
Rate: TypeAlias = Annotated[float, Meta(ge=0, le=1e6)]
Share: TypeAlias = Annotated[float, Meta(gt=0, le=1)]
Table: TypeAlias = dict[str, Any]
"""A plug-in: ``name`` and that plug-in's own settings, checked by the plug-in itself."""


DEFAULT_PLUGINS = {"model": "lenet", "cohort": "all", "strategy": "mean", "server_optimizer": "sgd"}
"""The plug-in that a table without ``name`` means."""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A group of settings; unknown keys are errors."""


class Data(Section, frozen=True):
    """Where the packed silos lie."""

    folder: str = ""
    """Folder of silo files with its ``silos.json``. ``--data`` sets it; one of the two must."""
    memory: Annotated[int, Meta(ge=0)] = 0
    """Megabytes of pictures that a worker keeps in memory. ``0``: all of its silos, read and checked before round 1. With a
    limit a silo is read, and checked, when a round needs it (the next one while one trains), and those used last are kept:
    for thousands of silos of which few train in a round. Each round's cohort is then dealt out anew, the largest silos
    first, to the workers with the least to do, unless silos are tied to their hosts (``roles.near``) or the
    bits rest on who trains what (``reduction = "float32"``)."""


class Roles(Section, frozen=True):
    """How many ranks play which role; rank 0 is the scheduler, all that is left are workers."""

    servers: Count = 1
    """Ranks that own one slice of the model each. ``silofold launch --servers`` sets it."""
    standby: Annotated[int, Meta(ge=0)] = 0
    """Ranks in reserve: they take over the silos of a dead worker, fill the ranks when a server or the scheduler dies, and
    become workers when the job is scaled out. ``silofold launch --standby`` sets it."""
    placement: Literal["packed", "spread"] = "packed"
    """Which ranks are servers. ``packed``: the first ones, which launchers put on the first nodes. ``spread``: one node
    after the other gives one, the scheduler's node last, so that model bytes use every node's network and each node has
    servers and workers."""
    near: bool = False
    """Whether each silo is hosted on a node that sees its file, for silos that lie on the nodes' own disks under the same
    path. Rank 0 needs ``silos.json`` alone. Such silos do not move: those of a dead worker drop out."""


class Rounds(Section, frozen=True):
    """When a round starts, closes and counts."""

    count: Count = 10
    """Rounds that must succeed before the run is done."""
    start_quorum: Count | Share = 1.0
    """Silos that must be ready for a round to start: an integer is a number of silos, at most all; a number with a point is
    a share of all silos, rounded up."""
    start_window: Seconds = 60.0
    """Seconds to wait for workers that are not ready. Then the round starts without them if the start quorum is there; those
    that come later join the next round. Below the quorum the scheduler waits this long once more and then ends the job
    resumably (exit code 75)."""
    update_ratio: Share = 1.0
    """Share of the cohort, rounded up, whose updates must be accepted. Below it the round is void: the global model
    stands."""
    update_window: Seconds | Literal["auto"] = "auto"
    """Seconds from the plan to the close of the round. The round closes before that once every worker has reported. What
    comes later is dropped. ``"auto"``: [by the rounds before](failures.md#the-update-window)."""
    close: Literal["all", "quorum"] = "all"
    """``"all"``: the round waits for every report until its window ends. ``"quorum"``: it closes as soon as enough reports
    for ``update_ratio`` are in, and who comes later is dropped; who that is depends on speed, so the record of who took part
    is what makes the run repeatable."""
    bench_after: Count = 5
    """A silo whose own report says so many times in a row that it failed trains no more. A rank that misses so many windows
    in a row is expelled, where the job survives that."""
    evaluate_every: Count = 1
    """The model after every so-manieth round, and the last one, is evaluated on all test images of all silos."""
    checkpoint_every: Annotated[int, Meta(ge=0)] = 1
    """Rounds from one checkpoint to the next; 0 writes one at the end alone."""
    keep_checkpoints: Count = 3
    """How many of the newest checkpoints are kept."""
    count_void: bool = False
    """Whether a void round uses up one of ``rounds.count``."""
    end_margin: Annotated[float, Meta(ge=0, le=1e6)] = 60.0
    """Seconds before the end of the batch job's allocation by which the run has saved and ended itself (exit code 75): no
    round starts that would, if it takes as long as the longest of the last ten, still run then. Without
    ``SLURM_JOB_END_TIME`` it means nothing."""
    max_void: Count = 3
    """So many void rounds in a row end the job: as diverged (3) or by the user's code (4) where losses or one exception of
    the model made them void, else resumably (75)."""
    worker_checkpoints: bool = False
    """Whether each worker also writes the model it receives, to ``worker_<i>/ckpt/``."""


class Local(Section, frozen=True):
    """Training inside a silo."""

    epochs: Count = 1
    """Passes over the silo's training images in a round."""
    batch_size: Count = 32
    """Images in a step."""
    lr: Rate = 0.01
    """Learning rate."""
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    """Momentum; 0 switches it off."""
    weight_decay: Rate = 0.0
    """Times the weights, added to the gradient."""
    keep_momentum: bool = False
    """Whether a silo's momentum lives on from one of its accepted rounds to the next; otherwise it starts at zero in every
    round."""
    drop_last: bool = False
    """Whether an incomplete batch at the end of an epoch is skipped."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """``bfloat16``: the forward pass of a training step under torch's autocast; parameters, gradients and evaluation stay
    float32. Faster or slower, see [scaling](scaling.md#the-training-step); other bits."""
    compile: bool = False
    """Whether torch compiles the model when a worker starts, which needs a C++ compiler and takes a minute; see
    [scaling](scaling.md#the-training-step). Other bits."""
    cuda_graph: bool = False
    """Whether workers record a step as a CUDA graph and replay it: one call to a GPU instead of a hundred. Small models
    train four times as fast, see [scaling](scaling.md#on-a-gpu). On a CPU it is an error."""
    side_by_side: Annotated[int, Meta(ge=1, le=32)] = 1
    """So many silos of a worker, at most, train at once, each on a stream of its GPU: one with a small model leaves most of
    it idle. Needs ``local.cuda_graph``; takes the memory of so many models; the same bits."""
    threads: Annotated[int, Meta(ge=1, le=4096)] = 1
    """torch threads of a worker. Another number gives other bits."""
    cpu_isa: Literal["auto", "avx2", "avx512"] = "auto"
    """The x86 instructions that workers may use: the same on unequal CPUs gives the [same bits](same_bits.md#unequal-cpus).
    ``auto``: the widest of each CPU, which is the fastest."""


class Settings(Section, frozen=True):
    """All settings of a run; each has a default."""

    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 1
    """All randomness follows from it: initial model, cohorts, order of the examples, and whatever a model draws from the
    global generators of torch, numpy and Python."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where workers train. ``auto``: a GPU where the worker sees one, else the CPU. The workers of a node take its visible
    GPUs in turn."""
    reduction: Literal["exact", "float32"] = "exact"
    """How updates are added. ``exact``: as 64-bit fixed point, so that the sum does not depend on the order or the number of
    ranks. ``float32``: half the bytes up; the last bits may depend on the number of workers."""
    shared_memory: bool = True
    """Whether model bytes go through memory that the ranks of a node share. A node whose ``/dev/shm`` has no room for a
    model and one sum a worker takes collectives instead, as all do with ``false``; the model has the same bits. Strategies
    that need every update always take collectives."""
    data: Data = Data()
    roles: Roles = Roles()
    rounds: Rounds = Rounds()
    local: Local = Local()
    model: Table = msgspec.field(default_factory=lambda: {"name": DEFAULT_PLUGINS["model"]})
    """The classifier. A ``torch.nn.Module`` of your own without ``Settings`` gets the other keys of the table as keyword
    arguments."""
    cohort: Table = msgspec.field(default_factory=lambda: {"name": DEFAULT_PLUGINS["cohort"]})
    """Which of the ready silos train in a round."""
    strategy: Table = msgspec.field(default_factory=lambda: {"name": DEFAULT_PLUGINS["strategy"]})
    """How the updates of a cohort become one update."""
    server_optimizer: Table = msgspec.field(default_factory=lambda: {"name": DEFAULT_PLUGINS["server_optimizer"]})
    """How that update moves the global model."""
    sinks: list[Table] = msgspec.field(default_factory=lambda: [{"name": "console"}, {"name": "csv"}])
    """Where round summaries go besides ``metrics.jsonl``, which is always written."""


S = TypeVar("S", bound=msgspec.Struct)
SHOWN = 100
"""Letters of a foreign key or value that an error shows."""

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
            resolve(merge(tree, overrides[:count]), f"--set {_short(overrides[count - 1])}" if count else origin)
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


def _ways(kind: Any) -> list[str]:
    """Name what a value may be, of a kind among which texts are chosen."""
    if get_origin(kind) is Literal:
        return [repr(value) for value in get_args(kind)]
    if get_origin(kind) in {Union, UnionType}:
        return [way for one in get_args(kind) for way in _ways(one)]
    return ["a number"] if get_args(kind)[:1] in {(int,), (float,)} else []


def nearest(word: str, known: Sequence[str]) -> str:
    """Say which of the known words is meant, or list them all."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"


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
        raise ConfigError("settings-override", f"--set {_short(override)}: expected section.key=value")
    try:
        found = _toml(f"value = {text}")
    except ValueError:
        found = {}
    value = found["value"] if set(found) == {"value"} else text  # no line break smuggles in a second key
    _check_values({key: value}, f"--set {_short(override)}")
    *path, last = path
    for name in path:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise ConfigError("settings-override", f"--set {_short(override)}: {name} is a value and has no keys")
    tree[last] = value


def _check_values(tree: Mapping[str, Any], origin: str) -> None:
    """Refuse what no setting is, before anything walks through it: too deep, too long, no text, no finite number."""
    todo: list[tuple[str, int, Any]] = [("", 0, tree)]
    while todo:
        at, depth, value = todo.pop()
        if depth > guarded.DEPTH:
            raise ConfigError("settings-key", f"{origin}: {_short(at)}: found tables nested more than {guarded.DEPTH} deep")
        if isinstance(value, dict):
            for key, inner in value.items():
                if fault := _text_fault(key):
                    raise ConfigError("settings-key", f"{origin}: a key of {_short(at) or 'the settings'}: {fault}")
                todo.append((f"{at}.{key}".lstrip("."), depth + 1, inner))
        elif isinstance(value, list):
            todo += [(f"{at}[{index}]", depth + 1, inner) for index, inner in enumerate(value)]
        elif fault := _value_fault(value):
            raise ConfigError("settings-key", f"{origin}: {_short(at)} = {fault}")


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
    return f"{_short(str(value))}: expected text, a number, true or false, a list or a table"


def _text_fault(text: str) -> str:
    if len(text) > LONGEST:
        return f"{_short(text)}: found {len(text)} letters, expected at most {LONGEST}"
    if "\0" in text or (not text.isascii() and text.encode(errors="replace").decode() != text):
        return f"{_short(text)!r}: expected text in UTF-8 without NUL"
    return ""


def _short(text: str) -> str:
    """Cut a text to what an error may show of it."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _check_name(table: Table, key: str, origin: str) -> None:
    if not isinstance(table.get("name"), str):
        raise ConfigError(
            "settings-key",
            f'{origin}: {key}: found {_short(repr(table))}, expected a table with a name, like {{ name = "..." }}',
        )


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
        return f"unknown key {_short(key)}; {nearest(unknown[1][:SHOWN], known)}"
    if missing := re.fullmatch(r"Object missing required field `(.*)`", what):
        return f"{f'{dotted}.{missing[1]}'.lstrip('.')} is missing"
    expected = _short(what.removeprefix("Expected ").replace("`", "").split(", got")[0])
    expected = {"object": "a table", "array": "a list"}.get(expected, expected)
    if what.startswith("Invalid enum value"):
        expected = " or ".join(_ways(kind))
    return f"{_short(dotted)} = {_short(repr(value))}: expected {expected}"
