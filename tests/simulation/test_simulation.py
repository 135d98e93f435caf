"""A sample of simulated jobs in every test run; ``make simulate`` runs a hundred thousand."""

from __future__ import annotations

import collections
import functools
import multiprocessing
import os
from typing import TYPE_CHECKING

import pytest

from silofold.coordination.coordinator import Coordinator
from silofold.coordination.events import EndKind, Send
from silofold.coordination.hosting import Hosting
from silofold.messages import Alive
from simulation import __main__ as simulation
from simulation import job

if TYPE_CHECKING:
    from collections.abc import Callable

    from silofold.coordination.events import Action, Event
    from silofold.coordination.phases import Underway

JOBS, DEATHS = 1500, 500
TRANSITIONS = {
    "Gathering → Gathering", "Gathering → Training", "Gathering → Evaluating", "Gathering → Closed",
    "Training → Training", "Training → Reducing", "Training → Applying", "Training → Gathering", "Training → Closed",
    "Reducing → Reducing", "Reducing → Applying", "Reducing → Gathering", "Reducing → Closed",
    "Applying → Applying", "Applying → Gathering", "Applying → Closed",
    "Evaluating → Evaluating", "Evaluating → Gathering", "Evaluating → Closed",
}  # fmt: skip


def simulate(seeds: range, *, one_dead_worker: bool) -> tuple[collections.Counter[str], set[str], list[tuple[int, str]]]:
    kinds, seen, bad = collections.Counter[str](), set[str](), list[tuple[int, str]]()
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0))) as pool:
        work = functools.partial(simulation.summary, one_dead_worker=one_dead_worker)
        for seed, kind, why, _, _, moved in pool.imap_unordered(work, seeds, 50):
            kinds[kind] += 1
            seen |= set(moved)
            if kind == "violation":
                bad.append((seed, why))
    return kinds, seen, bad


def test_nothing_that_must_not_happens() -> None:
    kinds, seen, bad = simulate(range(1, 1 + JOBS), one_dead_worker=False)
    assert bad == []
    assert set(kinds) == {"over", "lost", "resumable", "void"}
    assert seen == TRANSITIONS


def test_one_dead_worker_costs_no_job_and_no_other_rank() -> None:
    kinds, _, bad = simulate(range(1, 1 + DEATHS), one_dead_worker=True)
    assert bad == []
    assert kinds == {"over": DEATHS}


def _hears_no_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = Coordinator.handle

    def forgetful(self: Coordinator, event: Event, now: float) -> list[Action]:
        return [one for one in handle(self, event, now) if not (isinstance(one, Send) and isinstance(one.message, Alive))]

    monkeypatch.setattr(Coordinator, "handle", forgetful)


def _never_rehosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hosting, "rehost", lambda _self, _ready: [])


def _gives_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(self: Coordinator, under: Underway, now: float) -> bool:
        del under, now
        return self._finish(EndKind.RESUMABLE, "rank-silent", "the last model did not arrive")

    monkeypatch.setattr(Coordinator, "_plan_the_end_again", give_up)


@pytest.mark.parametrize("fault", [_hears_no_beat, _never_rehosts, _gives_up_the_end])
def test_an_old_fault_is_found(fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    tried = ((seed, death) for seed in range(1, 1001) for death in (False, True))
    assert any(job.run(seed, one_dead_worker=death).kind == "violation" for seed, death in tried)
