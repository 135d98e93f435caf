from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from silofold import cli, launch
from silofold.errors import TopologyError

if TYPE_CHECKING:
    import argparse
    from pathlib import Path


def options(recipe: Path, data: Path, *more: str) -> argparse.Namespace:
    return cli._parser().parse_args(["launch", str(recipe), "--data", str(data), "--out", "run", *more])


def test_plan_counts_ranks_and_keeps_what_the_user_set(recipe: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    command, environment, rounds = launch.plan(options(recipe, tiny, "--servers", "2", "--workers", "3"))
    first = command.index("-n")
    assert command[first : first + 6] == ["-n", "6", sys.executable, "-m", "silofold", "train"]
    assert command[-4:] == ["--set", "roles.servers=2", "--set", "roles.standby=0"]
    assert environment["OMP_NUM_THREADS"] == "3"
    assert rounds == 3
    cores = len(os.sched_getaffinity(0))
    command, _, _ = launch.plan(options(recipe, tiny))
    assert command[first + 1] == str(2 + min(cores, 6))
    command, _, _ = launch.plan(options(recipe, tiny, "--standby", "2"))
    assert command[first + 1] == str(4 + min(cores, 6))


def test_more_workers_than_silos(recipe: Path, tiny: Path) -> None:
    with pytest.raises(TopologyError, match="found 6 silos for 7 workers"):
        launch.plan(options(recipe, tiny, "--workers", "7"))


def test_bar_below_the_lines_on_a_terminal() -> None:
    program = (
        "from silofold import launch\n"
        "launch._show(['round   4  a\\n', 'round   5  VOID\\n', 'round   6  b\\n', 'done: 8 rounds\\n'], 8)"
    )
    leader, follower = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", program], stdout=follower, stderr=follower) as process:
        os.close(follower)
        seen = b""
        while True:
            try:
                part = os.read(leader, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            seen += part
    os.close(leader)
    assert process.returncode == 0
    text = seen.decode()
    for line in ("round   4  a", "round   5  VOID", "round   6  b", "done: 8 rounds"):
        assert f"{line}\r\n" in text
    assert re.findall(r"(\d+)/8 \[", text)[-1] == "5"  # three before, then two that count
