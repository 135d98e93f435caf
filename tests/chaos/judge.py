"""What must hold after any fault: an end in time, a result that a replay confirms, and no process left."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import mpirun
from run_folder import rounds

if TYPE_CHECKING:
    from collections.abc import Mapping

SETTINGS = {"rounds.count": "4", "rounds.start_window": "20.0", "rounds.update_window": "6.0", "local.epochs": "1"}
"""The defaults, but for windows that a test can wait for, and for less to train."""
QUORUM = {"rounds.start_quorum": "0.3", "rounds.update_ratio": "0.3", "rounds.max_void": "5"}
"""Of rounds that count without some of their silos."""
DEALT = {"cohort.name": "sample", "cohort.size": "4", "data.memory": "1"}
"""Of a cohort that is dealt out anew each round, whoever hosts its silos."""
SECONDS = 240


class Outcome(NamedTuple):
    """How a job with a fault went."""

    code: int
    seconds: float
    rounds: int
    void: int
    lost: int
    """Updates that did not count, of silos that were late, refused or away, in rounds that did."""
    resumed: bool
    left: list[int]
    """Processes that were still there."""
    replay: str
    story: str
    """The last line that silofold itself wrote on standard error."""
    accepted: list[list[int]]
    """Silos whose updates counted in each round."""
    digests: list[str]
    """Of the model after each round."""


def sets(settings: Mapping[str, str]) -> list[str]:
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


def launch(*words: str, shape: tuple[int, int, int], environment: Mapping[str, str] | None = None) -> mpirun.Ended:
    """Run ``silofold launch`` with (servers, standbys, workers)."""
    names = ("--servers", "--standby", "--workers")
    numbers = [part for name, number in zip(names, shape, strict=True) for part in (name, str(number))]
    command = [sys.executable, "-m", "silofold", "launch", *words, *numbers]
    return mpirun.run(command, SECONDS, environment)


def processes(out: Path) -> list[int]:
    """Find processes of the job in this run folder."""
    return sorted(_commands(out))


def ranks(out: Path) -> list[int]:
    """Find those that are ranks, not mpirun or who started it."""
    return sorted(pid for pid, words in _commands(out).items() if _is_rank(words))


def _is_rank(words: list[bytes]) -> bool:
    given = [word for word in words[1:5] if word != b"-P"]
    return given[:2] == [b"-m", b"silofold"] and given[2:3] in ([b"train"], [b"replay"])


def _commands(out: Path) -> dict[int, list[bytes]]:
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if str(out).encode() in words and b"train" in words and state != "Z":
            found[int(entry.name)] = words
    return found


def judge(
    out: Path,
    recipe: Path,
    data: Path,
    shape: tuple[int, int, int],
    settings: Mapping[str, str],
    environment: Mapping[str, str],
) -> Outcome:
    """Run a job with a fault, resume it if it says so, replay it, and look for what is left."""
    everything = SETTINGS | dict(settings)
    begin = time.monotonic()
    words = (str(recipe), "--data", str(data), "--out", str(out), *sets(everything))
    ended = launch(*words, shape=shape, environment=environment)
    seconds = time.monotonic() - begin
    time.sleep(0.2)
    left = processes(out)
    code = ended.code
    # an error in silofold itself ends a job that does not survive it with 1: it must be seen, and still the run can go on
    resumed = code == 75 or (code == 1 and "raise" in "".join(environment.values()))
    if resumed and not (out / "run.json").exists():  # lost before the first round: the same command again
        again = launch(*words, shape=shape)
        assert again.code == 0, again
    elif resumed:
        again = launch("--resume", str(out), "--data", str(data), shape=(1, 0, 1))
        assert again.code == 0, again
    else:
        assert code == 0, ended
    assert (out / "DONE").exists()
    entries = rounds(out)
    assert [entry["round"] for entry in entries] == list(range(1, len(entries) + 1))
    assert sum(not entry["void"] for entry in entries) == int(everything["rounds.count"])
    replay = mpirun.run(
        [sys.executable, "-m", "silofold", "replay", str(out), "--out", f"{out}.replay", "--servers", "1", "--workers", "1",
         "--standby", "0"], SECONDS,
    )  # fmt: skip
    assert replay.code == 0, (replay, entries)
    assert "identical" in replay.out, replay
    whole = max(len(entry["cohort"]) for entry in entries)
    lost = sum(whole - len(entry["accepted"]) for entry in entries if not entry["void"])
    voids = sum(entry["void"] for entry in entries)
    digests = [entry["model_sha256"] for entry in entries]
    story = (ended.faults() or [""])[-1]
    accepted = [entry["accepted"] for entry in entries]
    return Outcome(code, seconds, len(entries), voids, lost, resumed, left, "identical", story, accepted, digests)
