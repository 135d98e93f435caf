"""A sample of simulated jobs in every test run; ``make simulate`` runs a hundred thousand."""

from __future__ import annotations

import collections
import functools
import multiprocessing
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from silofold.coordination import member, recovery
from silofold.coordination.coordinator import Coordinator
from silofold.coordination.events import EndKind, Send
from silofold.coordination.hosting import Hosting
from silofold.coordination.phases import TRANSITIONS, Applying, Gathering, Training
from silofold.messages import Alive, Applied, Ready
from simulation import __main__ as simulation
from simulation import job, ranks
from simulation.world import Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from silofold.coordination.events import Action, Event
    from silofold.coordination.phases import Underway

JOBS, DEATHS = 2000, 500
LEAST = 100
"""Times that each way from phase to phase is taken by these jobs."""


class Found(NamedTuple):
    """What many jobs have come to."""

    kinds: collections.Counter[str]
    ways: collections.Counter[tuple[str, ...]]
    bad: list[str]


def simulate(seeds: range, *, one_dead_worker: bool) -> Found:
    found = Found(collections.Counter(), collections.Counter(), [])
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0))) as pool:
        work = functools.partial(simulation.summary, one_dead_worker=one_dead_worker)
        for told in pool.imap(work, seeds, 50):
            found.kinds[told.kind] += 1
            found.ways.update(told.ways)
            if told.kind == "violation":
                found.bad.append(f"seed {told.seed}: {told.why}\n{told.test}")
    return found


def test_nothing_that_must_not_happens_and_every_way_is_taken() -> None:
    found = simulate(range(1, 1 + JOBS), one_dead_worker=False)
    assert not found.bad, "\n".join(found.bad[:1])
    assert set(found.kinds) == {"over", "lost", "resumable", "void", "not finite", "stop now"}
    table = simulation.table()
    assert len(table) == len(TRANSITIONS) + len(member.WAYS) + len(recovery.WAYS)
    assert {way: found.ways[way] for way in table if found.ways[way] < LEAST} == {}


def test_one_dead_worker_costs_no_job_and_no_other_rank() -> None:
    found = simulate(range(1, 1 + DEATHS), one_dead_worker=True)
    assert not found.bad, "\n".join(found.bad[:1])
    assert found.kinds == {"over": DEATHS}


def test_a_way_that_is_not_in_the_table_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "WAYS", {way for way in job.WAYS if way != (Gathering, Ready, Training)})
    assert job.run(1).why == "no such transition: Gathering Ready Training"


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_seed_that_fails_prints_the_unit_test_that_shows_it(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job.Job, "_check_end", lambda *_: job.fail("as this test wants it"))
    found = job.run(seed)
    assert found.kind == "violation"
    names: dict[str, Any] = {}
    exec(found.test, names)  # noqa: S102  (that is what the test is about)
    with pytest.raises(AssertionError, match="as this test wants it"):
        names[f"test_seed_{seed}"]()


def test_a_coordinator_that_breaks_a_rule_breaks_it_in_the_unit_test_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "WAYS", {way for way in job.WAYS if way != (Applying, Applied, Gathering)})
    found, names = job.run(1), dict[str, Any]()
    exec(found.test, names)  # noqa: S102
    with pytest.raises(Violation, match="no such transition: Applying Applied Gathering"):
        names["test_seed_1"]()


@pytest.mark.parametrize("ways", ["MEMBER_WAYS", "RECOVERY_WAYS"])
def test_a_way_of_a_member_or_a_survivor_that_is_not_in_the_table_is_shown(
    ways: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, ways, set())
    found = next(found for seed in range(1, 50) if "no such way" in (found := job.run(seed)).why)
    names: dict[str, Any] = {}
    exec(found.test, names)  # noqa: S102  (as above)
    (test,) = [value for name, value in names.items() if name.startswith("test_")]
    with pytest.raises(AssertionError, match="no such way"):
        test()


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


def test_a_replay_that_decides_otherwise_is_found() -> None:
    found = job.run(2)
    replay = job.Replay(2, found.plan, found.rounds)
    replay._recorded = replay._recorded[:-1]
    with pytest.raises(Violation, match="a replay decided"):
        replay.run()
