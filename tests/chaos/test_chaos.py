"""A table of role × fault × step of the round on real mpirun. All of it: make chaos; a sample of it: make test.

Whatever strikes, the job completes, or ends in time with 75 and is resumed; who took part is on record, and a replay of that
gives the same bits, those of an undisturbed run where nobody was left out; no process is left. `make chaos-plain` runs it
where the library does not survive a dead rank: there the job must end within seconds.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
from typing import TYPE_CHECKING, NamedTuple

import pytest

import run_folder
from chaos import judge
from silofold import faults, launch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from chaos.judge import Outcome

ULFM = "--with-ft" in launch.mpirun()
ENDS_WITHIN = 10.0
"""Seconds from a death to the end of the job where it does not survive."""
STEPS = ("plan", "evaluate", "train", "update", "settle", "apply", "record")
SHAPE = (2, 0, 3)


class Case(NamedTuple):
    """A job with faults."""

    faults: str
    shape: tuple[int, int, int] = SHAPE
    settings: tuple[tuple[str, str], ...] = ()
    goes_on: bool = True
    """Whether the job survives by itself, where the library lets it."""
    needed: bool = True
    """Whether the job cannot be done without the ranks that are struck, before mpirun has noticed."""


def cases() -> Iterator[tuple[str, Case]]:
    for title in ("scheduler", "server 1", "worker 1"):
        for what in ("kill", "stop"):
            for step in STEPS:
                yield f"{title}, {what} before {step}", Case(f"{title}: {what} @ round 2 before {step}")
            yield f"{title}, {what} after record", Case(f"{title}: {what} @ round 2 after record")
    for what in faults.IN_TRAINING:
        yield f"worker 1, {what} in training", Case(f"worker 1: {what} @ round 2")
    for step in ("evaluate", "train", "update", "settle"):
        yield f"worker 1, raise before {step}", Case(f"worker 1: raise @ round 2 before {step}")
    for seconds in (1, 9):
        yield f"worker 1, sleep {seconds} s before train", Case(f"worker 1: sleep {seconds} @ round 2 before train")
    yield "server 1, sleep 2 s before settle", Case("server 1: sleep 2 @ round 2 before settle")
    yield "scheduler, sleep 2 s before settle", Case("scheduler: sleep 2 @ round 2 before settle")
    yield "first round, worker 0, kill before evaluate", Case("worker 0: kill @ round 1 before evaluate")
    yield "first round, server 0, kill before settle", Case("server 0: kill @ round 1 before settle")
    yield "last round, worker 2, kill before record", Case("worker 2: kill @ round 4 before record")
    yield "closing plan, worker 0, kill before evaluate", Case("worker 0: kill @ round 5 before evaluate")
    yield "closing plan, server 0, kill before evaluate", Case("server 0: kill @ round 5 before evaluate")
    for title in ("worker 0", "server 0"):
        yield f"closing plan, {title}, stop after evaluate", Case(f"{title}: stop @ round 5 after evaluate")
    yield "two workers, kill before update", Case(
        "worker 0: kill @ round 2 before update; worker 2: kill @ round 2 before update"
    )  # fmt: skip
    yield "worker and server, kill before settle", Case(
        "worker 1: kill @ round 2 before settle; server 0: kill @ round 2 before settle"
    )  # fmt: skip
    yield (
        "scheduler and server, kill before settle",
        Case("scheduler: kill @ round 2 before settle; server 1: kill @ round 2 before settle", (2, 1, 3)),
    )
    yield "killed and stopped workers, before update", Case(
        "worker 0: kill @ round 2 before update; worker 2: stop @ round 2 before update"
    )  # fmt: skip
    yield "one worker after the other, kill", Case(
        "worker 0: kill @ round 2 before train; worker 1: kill @ round 3 before reduce"
    )  # fmt: skip
    for what in ("kill", "stop"):
        for place in (" ".join(place) for place in faults.BETWEEN):
            yield (
                f"scheduler, kill; worker 1, {what} {place}",
                Case(
                    f"scheduler: kill @ round 2 before train; worker 1: {what} @ {place}", goes_on=place == "before regroup"
                ),
            )
    yield "worker, kill, standby takes over", Case("worker 1: kill @ round 2 before train", (2, 1, 3))
    yield "server, kill, standby fills the ranks", Case("server 1: kill @ round 2 before train", (2, 1, 3))
    yield "standby, kill", Case("standby 0: kill @ round 1 before plan", (2, 1, 3), needed=False)
    yield "the only server, kill before apply", Case("server 0: kill @ round 2 before apply", (1, 0, 3))
    yield "the only worker, kill before train", Case("worker 0: kill @ round 2 before train", (1, 0, 1), goes_on=False)
    for step in STEPS:
        yield (
            f"worker with kept momentum, kill before {step}",
            Case(f"worker 1: kill @ round 2 before {step}", settings=(("local.keep_momentum", "true"),)),
        )
    yield (
        "worker with kept momentum, stop before train",
        Case("worker 1: stop @ round 2 before train", settings=(("local.keep_momentum", "true"),)),
    )
    yield (
        "median, worker, kill before reduce",
        Case("worker 1: kill @ round 2 before reduce", settings=(("strategy.name", "median"),)),
    )
    yield (
        "server momentum, server, kill before apply",
        Case(
            "server 1: kill @ round 3 before apply",
            settings=(("server_optimizer.name", "sgd"), ("server_optimizer.momentum", "0.9")),
        ),
    )
    dealt = tuple(judge.DEALT.items())
    for what in ("kill before train", "kill before update", "kill before settle", "stop before train"):
        doing, step = what.split(" before ")
        yield f"dealt cohort, worker 1, {what}", Case(f"worker 1: {doing} @ round 2 before {step}", settings=dealt)
    yield "dealt cohort, worker 1, nan in training", Case("worker 1: nan @ round 2", settings=dealt)
    yield (
        "dealt cohort, worker, kill, standby takes over",
        Case("worker 1: kill @ round 2 before train", (2, 1, 3), settings=dealt),
    )
    yield (
        "dealt cohort, median, worker, kill before reduce",
        Case("worker 1: kill @ round 2 before reduce", settings=(*dealt, ("strategy.name", "median"))),
    )
    quorum = tuple(judge.QUORUM.items())
    yield (
        "close by quorum, worker, stop before train",
        Case("worker 1: stop @ round 2 before train", settings=(*quorum, ("rounds.close", "quorum"))),
    )
    for what in ("kill", "stop"):
        for step in STEPS:
            case = Case(f"worker 1: {what} @ round 2 before {step}", settings=quorum)
            yield f"a third of the updates is enough, worker 1, {what} before {step}", case
    for what in faults.IN_TRAINING:
        yield (
            f"a third of the updates is enough, worker 1, {what} in training",
            Case(f"worker 1: {what} @ round 2", settings=quorum),
        )
    yield (
        "expelled, worker, stop before train",
        Case("worker 1: stop @ round 2 before train", settings=(("rounds.bench_after", "1"),)),
    )


CASES = dict(cases())
SAMPLE = (
    "scheduler, kill before train", "server 1, kill before settle", "worker 1, kill before settle",
    "worker 1, stop before train",
    "worker 1, nan in training", "worker with kept momentum, kill before train",
    "a third of the updates is enough, worker 1, kill before settle",
)  # fmt: skip
ALL_SET = tuple(pair.partition("=")[::2] for pair in os.environ.get("SILOFOLD_CHAOS_SET", "").split())
"""Settings of all cases: ``shared_memory=false``."""
CHOSEN = list(CASES) if os.environ.get("SILOFOLD_CHAOS") == "all" else list(SAMPLE)


def test_the_table_is_large_enough() -> None:
    assert len(CASES) >= 60
    assert set(SAMPLE) <= set(CASES)


@pytest.fixture(scope="module")
def undisturbed(tiny: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Outcome]:
    """The same run without a fault, once for each set of settings."""

    @functools.cache
    def run(settings: tuple[tuple[str, str], ...]) -> Outcome:
        return judge.judge(
            tmp_path_factory.mktemp("undisturbed") / "run", recipe, tiny, SHAPE, dict(settings) | dict(ALL_SET), {}
        )

    return lambda case: run(case.settings)


@pytest.mark.parametrize("name", CHOSEN)
def test_fault(
    name: str,
    tiny: Path,
    recipe: Path,
    tmp_path: Path,
    tell: Callable[[str, Outcome], None],
    undisturbed: Callable[[Case], Outcome],
) -> None:
    case = CASES[name]
    settings = dict(case.settings) | dict(ALL_SET)
    outcome = judge.judge(tmp_path / "run", recipe, tiny, case.shape, settings, {faults.VARIABLE: case.faults})
    tell(name, outcome)
    assert outcome.left == []
    if ULFM:
        assert outcome.resumed is not case.goes_on, outcome.story
    elif "kill" in case.faults:
        assert outcome.resumed or not case.needed, outcome.story
        assert outcome.seconds < undisturbed(case).seconds + ENDS_WITHIN
    if outcome.accepted == undisturbed(case).accepted:
        assert outcome.digests == undisturbed(case).digests


def test_a_rank_dies_while_mpi_starts(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    """Open MPI's start waits for it for ever: the launcher ends that, and the same command does the job."""
    out = tmp_path / "run"

    def strike() -> None:
        run_folder.until(lambda: len(judge.ranks(out)) == 1 + sum(SHAPE))
        os.kill(judge.ranks(out)[-1], signal.SIGKILL)

    striker = threading.Thread(target=strike, daemon=True)
    striker.start()
    outcome = judge.judge(out, recipe, tiny, SHAPE, {}, {})
    striker.join()
    assert outcome.left == []
    assert outcome.resumed
    assert outcome.seconds < launch.FAREWELL + ENDS_WITHIN
