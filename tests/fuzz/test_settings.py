"""Whatever ``--set`` says, it gives settings or one line."""

from __future__ import annotations

import random
import string
import time
from typing import TYPE_CHECKING

import pytest

import mpirun
from budget import count
from silofold import config
from silofold.core import plugins, recipes
from silofold.core.errors import SilofoldError
from silofold.training import build

if TYPE_CHECKING:
    from pathlib import Path

KEYS = ["model.name", "cohort.name", "strategy.name", "server_optimizer.name"]
KEYS += [
    "seed",
    "device",
    "reduction",
    "shared_memory",
    "sinks",
    "model",
    "strategy.weights",
    "server_optimizer.lr",
    "cohort.size",
]
KEYS += [
    f"{section}.{field}"
    for section in ("data", "roles", "rounds", "local")
    for field in getattr(config.Settings(), section).__struct_fields__
]
WRONG = [
    "",
    "nan",
    "-inf",
    "1e400",
    "-1",
    "0",
    "1",
    "0.5",
    "2**9",
    "1_000",
    "0x" + "f" * 99,
    "1" + "0" * 400,
    "9" * 5000,
    "true",
    "none",
    "1979-05-27",
    "07:32:00",
    "[]",
    "[[[[",
    "[" * 5000,
    "{a={a=" * 900,
    "{}",
    "{name=3}",
    "{name='os:system'}",
    "[{name='csv'}]",
    "[{name='nowhere:A'}]",
    "'",
    '"""',
    "'''\n",
    "a\nb=1",
    "\x00",
    "\x1b[31m",
    "\udcff",
    "ü",
    "é" * 9999,
    "x" * 70_000,
    "os:system",
    "mean",
    "median",
    "fedadam",
    "a:b:c",
    ":",
    "..",
    "/dev/zero",
    "=",
    "==",
    "#",
    "1 # one",
    "inf",
    "[1, 'a', {b=2}]",
    "\\",
    "\r\n",
]
ALPHABET = string.printable + "üé\u202e\x00\x1b\udc80[]{}..==''\"\"\n"


def overrides(number: int) -> list[str]:
    """Half of them known keys with wrong values, half of them anything."""
    rng = random.Random(number)  # noqa: S311  (no secret)
    if number % 2:
        return [f"{rng.choice(KEYS)}={rng.choice(WRONG)}" for _ in range(rng.randint(1, 2))]
    text = "".join(rng.choice(ALPHABET) for _ in range(rng.randrange(40)))
    shape = rng.randrange(4)
    if shape == 0:
        return [text]
    if shape == 1:
        return [f"{rng.choice(KEYS)}={text}"]
    if shape == 2:
        return [f"{'.'.join(rng.choices(['a', 'local', 'lr', text], k=rng.choice((1, 3, 70, 3000))))}={text}"]
    return [f"{rng.choice(KEYS)}={rng.choice('[{')}{text * rng.choice((1, 9, 99))}"]


@pytest.mark.parametrize("part", range(10))
def test_any_override_gives_settings_or_one_line(part: int) -> None:
    per_part = count(200, 30)
    for number in range(part * per_part, (part + 1) * per_part):
        given, began = overrides(number), time.monotonic()
        try:
            settings = recipes.parse("seed = 1\n[model]\nname = 'lenet'", "run.toml", given)
            for kind in ("cohort", "strategy", "server_optimizer"):
                plugins.load(kind, getattr(settings, kind))
            for table in settings.sinks:
                plugins.load("sink", table)
            build.weigh(settings.model, 5, (16, 16))
        except SilofoldError as fault:
            told = fault
            assert (told.exit_code, len(str(told)) < 2000) == (2, True), given
        assert time.monotonic() - began < 5, given


@pytest.mark.timeout(600)
def test_a_sample_through_the_command_line(tmp_path: Path, recipe: Path) -> None:
    for number in range(count(20, 2)):
        given = [text for text in overrides(number) if "\0" not in text] or ["seed"]
        words = [part for text in given for part in ("--set", text)]
        ended = mpirun.silofold("launch", recipe, "--data", tmp_path / "none", "--out", tmp_path / "out", *words)
        (line,) = ended.err.splitlines()
        assert (ended.code, line[:9]) == (2, "silofold:"), (given, ended)
