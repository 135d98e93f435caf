"""A command loads what it uses, and nothing of another's."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from silofold import cli

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = "import json, sys; from silofold import cli; cli.parser(*sys.argv[1:]); print(json.dumps(sorted(sys.modules)))"
HEAVY = {"numpy", "msgspec", "mpi4py", "torch", "rich", "h5py", "PIL", "matplotlib"}


def loaded(*commands: str) -> list[str]:
    ended = subprocess.run([sys.executable, "-c", PROGRAM, *commands], capture_output=True, check=True, timeout=120)
    return list(json.loads(ended.stdout))


@pytest.mark.parametrize(
    ("command", "libraries", "modules"),
    [
        ("", set(), {"options"}),
        ("train", set(), {"options", "train"}),
        ("status", {"msgspec"}, {"options", "operate"}),
        ("launch", {"msgspec", "numpy", "rich"}, {"options", "launch", "launching", "train"}),
    ],
)
def test_a_parser_loads_its_command_alone(command: str, libraries: set[str], modules: set[str]) -> None:
    """An empty name is what `silofold --help` asks for."""
    found = loaded(*filter(None, [command]))
    assert {one for one in found if one in HEAVY} <= libraries
    names = [one.split(".") for one in found if one.startswith("silofold.commands.")]
    assert {parts[2] for parts in names} == modules


def test_a_folder_that_is_gone_is_told_before_a_library_ends_the_process(tmp_path: Path) -> None:
    """Torch's does."""
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f"rmdir {gone} && exec {sys.executable} -m silofold evaluate x"
    ended = subprocess.run(["sh", "-c", command], cwd=gone, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 2
    assert ended.stderr.endswith("[folder-gone]\n")
    assert len(ended.stderr.splitlines()) == 1


def test_the_parser_knows_every_command_and_its_work() -> None:
    options = cli.parser(*cli.COMMANDS)
    told = options.format_help()
    for name, about in cli.COMMANDS.items():
        assert name in told
        assert callable(cli.parser(name).parse_args(words_of(name)).main), name
        assert about in " ".join(cli.parser().format_help().split())


def words_of(name: str) -> list[str]:
    """The shortest command line of each command that is valid."""
    more = {
        "train": ["--out", "x"], "launch": ["--out", "x"], "scale": ["x", "--workers", "1"], "doctor": [],
        "baseline": ["local", "x", "--out", "x"], "predict": ["x", "x"], "report": ["x", "--out", "x"],
        "pack": ["x", "y"], "partition": ["x", "y", "--by", "iid", "--silos", "2"], "join": ["x", "y"], "show": ["x", "y"],
        "synthesize": ["x", "--writers", "2", "--seed", "1"], "leaf": ["x", "y"], "combine": ["x", "y", "--silos", "2"],
    }  # fmt: skip
    return [name, *more.get(name, ["x"])]
