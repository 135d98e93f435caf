"""The coordinator, event by event: no rank, no clock, no file."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from silofold.coordination.coordinator import Coordinator
from silofold.coordination.events import (
    Again,
    Asked,
    CommitCheckpoint,
    Died,
    EndKind,
    Expel,
    Finished,
    Heard,
    Opened,
    RoundClosed,
    Send,
    Tallied,
    Tick,
    TimeIsShort,
)  # fmt: skip
from silofold.coordination.facts import GRACE, Facts
from silofold.coordination.phases import Applying, Evaluating, Gathering, Reducing, Training
from silofold.coordination.window import Lap
from silofold.core import recipes, topology
from silofold.core.endings import STOPPED
from silofold.core.messages import (  # fmt: skip
    Alive,
    Applied,
    Evaluation,
    Moved,
    Plan,
    Ready,
    Replan,
    Reports,
    Saved,
    SavedFile,
    Settled,
    Tally,
)
from silofold.core.reports import Cause, Report  # fmt: skip

ELEMENTS = 100
EXAMPLES = (10, 20, 30)
SERVER, WORKERS = 1, (2, 3, 4)


def facts(*settings: str, **changes: Any) -> Facts:
    rounds = recipes.parse(
        "", "test", ["rounds.count=2", "rounds.start_window=5", "rounds.update_window=60", *settings]
    ).rounds
    layout = topology.Layout(5, 1)
    given = Facts(
        layout=layout, nodes=("a",) * 5, rounds=rounds, examples=EXAMPLES, hosted={2: (0,), 3: (1,), 4: (2,)},
        elements=ELEMENTS, survives=True, tied=False, keeps_state=False, deals=False, foresees=False,
        weight=lambda examples: examples, draw=lambda silos, _: silos, certain=lambda _: False, gathers=False, script={},
    )  # fmt: skip
    return dataclasses.replace(given, **changes)


class Played:
    """A coordinator, and what it has said so far."""

    def __init__(self, given: Facts) -> None:
        self.machine, self.now, self.said = Coordinator(given, 0.0), 0.0, list[Any]()

    def __call__(self, event: Any, after: float = 0.0) -> list[Any]:
        self.now += after
        actions = self.machine.handle(event, self.now)
        self.said += actions
        return actions

    def ready(self, *ranks: int) -> list[Any]:
        return [action for rank in ranks for action in self(Heard(rank, Ready("")))]

    def report(self, rank: int, silos: tuple[int, ...], **changes: Any) -> list[Any]:
        reports = tuple(
            Report(silo, EXAMPLES[silo], 1, 1, 1.0, 1, 0.1, finished=True, elements=ELEMENTS, state=f"state {silo}")
            for silo in silos
        )  # fmt: skip
        number = changes.get("round", self.machine.number)
        return self(Heard(rank, Reports(number, 0.1, reports)))

    def evaluate(self, rank: int, *, arrived: bool = True) -> list[Any]:
        digest = "d" if arrived and rank == min(WORKERS) else ""
        return self(Heard(rank, Evaluation(self.machine.number, digest, 0.1, 0.1, (), arrived=arrived)))

    def whole_round(self) -> None:
        """Everyone is there, and all goes well."""
        self.ready(SERVER, *WORKERS)
        number = self.machine.number
        for rank, silo in zip(WORKERS, range(3), strict=True):
            self.evaluate(rank)
            self.report(rank, (silo,))
        self(Heard(SERVER, Saved(number - 1, "server_0", (SavedFile("shard_0.h5", "x"),), 0.1)))
        self(Heard(SERVER, Moved(number, 1)))
        self(Heard(SERVER, Applied(number, 0, "x", 0.1, 0.1)))

    def to(self, rank: int, kind: type) -> list[Any]:
        return [a.message for a in self.said if isinstance(a, Send) and a.to == rank and isinstance(a.message, kind)]


def only(actions: list[Any], kind: type) -> Any:
    (found,) = [action for action in actions if isinstance(action, kind)]
    return found


def test_a_whole_run() -> None:
    play = Played(facts())
    play.whole_round()
    play.whole_round()
    play.ready(SERVER, *WORKERS)
    assert isinstance(play.machine.phase, Evaluating)
    for rank in WORKERS:
        play.evaluate(rank)
    play(Heard(SERVER, Saved(2, "server_0", (SavedFile("shard_0.h5", "x"),), 0.1)))
    assert only(play.said, Finished).kind is EndKind.OVER
    assert [one.round for one in play.said if isinstance(one, CommitCheckpoint)] == [1, 2]
    assert [one.plan.round for one in play.said if isinstance(one, RoundClosed)] == [1, 2]
    assert [plan.hosted for plan in play.to(2, Plan)] == [(0,)] * 3
    assert play.machine.handle(Tick(), play.now + 1e6) == []


def test_a_death_between_rounds_at_the_default_quorum_moves_the_silos_at_once() -> None:
    play = Played(facts())
    play.whole_round()
    play.ready(SERVER, 2, 3)
    actions = play(Died(4))
    assert only(actions, Opened).cohort == (0, 1, 2)
    assert sorted(silo for rank in (2, 3) for silo in play.to(rank, Plan)[-1].hosted) == [0, 1, 2]


def test_a_death_while_training_makes_the_round_void_and_no_more() -> None:
    play = Played(facts())
    play.ready(SERVER, *WORKERS)
    play.report(2, (0,))
    play.report(3, (1,))
    actions = play(Died(4))
    assert only(actions, Tallied).tally.quorum_met is False
    assert only(actions, RoundClosed).verdict.refused == {2: "no report within the update window"}
    play.ready(SERVER, 2, 3)
    assert isinstance(play.machine.phase, Training)
    assert play.machine.number == 2


def test_a_stopped_worker_costs_its_window_and_gets_its_silos_back() -> None:
    play = Played(facts())
    play.ready(SERVER, *WORKERS)
    play.report(2, (0,))
    play.report(3, (1,))
    actions = play(Tick(), 60 + GRACE)
    assert only(actions, RoundClosed).tally.quorum_met is False
    play.ready(SERVER, 2, 3)
    assert sorted(silo for rank in (2, 3) for silo in play.to(rank, Plan)[-1].hosted) == [0, 1, 2]
    play.ready(4)  # it is back, in the middle of the round
    for rank in (2, 3):
        play.report(rank, play.to(rank, Plan)[-1].dealt)
    play(Heard(SERVER, Moved(2, 1)))
    play(Heard(SERVER, Applied(2, 0, "x", 0.1, 0.1)))
    play.ready(SERVER, 2, 3)
    assert [play.to(rank, Plan)[-1].hosted for rank in WORKERS] == [(0,), (1,), (2,)]


def test_a_stopped_worker_whose_silos_are_tied_ends_the_job_resumably() -> None:
    play = Played(facts(tied=True, keeps_state=True))
    play.ready(SERVER, *WORKERS)
    play.report(2, (0,))
    play.report(3, (1,))
    play(Tick(), 60 + GRACE)
    play.ready(SERVER, 2, 3)
    assert isinstance(play.machine.phase, Gathering)
    actions = play(Tick(), 5)
    assert (only(actions, Finished).kind, only(actions, Finished).error) == (EndKind.RESUMABLE, "start-quorum")


def test_every_living_rank_hears_that_the_scheduler_lives() -> None:
    play = Played(facts())
    play.ready(SERVER, *WORKERS)
    play(Died(4))
    for _ in range(3):
        play(Tick(), 5 / 4)
    assert all(len(play.to(rank, Alive)) >= 3 for rank in (SERVER, 2, 3))


def test_a_death_in_the_last_broadcast_sends_the_model_again() -> None:
    play = Played(facts("rounds.count=1"))
    play.whole_round()
    play.ready(SERVER, *WORKERS)
    play(Died(2))
    play.evaluate(3, arrived=False)
    actions = play.evaluate(4, arrived=False)
    assert only(actions, Again)
    assert [len(play.to(rank, Replan)) for rank in (SERVER, 3, 4)] == [1, 1, 1]
    play.ready(SERVER, 3, 4)
    assert sorted(silo for rank in (3, 4) for silo in play.to(rank, Plan)[-1].hosted) == [0, 1, 2]
    assert play.to(3, Plan)[-1].members.epoch > play.to(3, Plan)[-2].members.epoch
    play(Heard(3, Evaluation(2, "d", 0.1, 0.1, ())))
    play(Heard(4, Evaluation(2, "d", 0.1, 0.1, ())))
    play(Heard(SERVER, Saved(1, "server_0", (SavedFile("shard_0.h5", "x"),), 0.1)))
    assert only(play.said, Finished).kind is EndKind.OVER
    assert [one.round for one in play.said if isinstance(one, CommitCheckpoint)] == [1]


def test_a_worker_that_is_lost_in_the_reduction_is_tallied_without() -> None:
    play = Played(facts("rounds.update_ratio=0.5"))
    play.ready(SERVER, *WORKERS)
    for rank, silo in zip(WORKERS, range(3), strict=True):
        play.report(rank, (silo,))
    assert isinstance(play.machine.phase, Reducing)
    play(Died(4))
    for rank in (SERVER, 2, 3):
        play(Heard(rank, Moved(1, 1, "revoked")))
    tally = play.to(2, Tally)[-1]
    assert (tally.attempt, tally.members.workers, tally.silos, tally.weights) == (2, (2, 3), (0,), ())
    assert play.to(3, Tally)[-1].silos == (1,)
    assert play.to(SERVER, Tally)[-1].weights == EXAMPLES[:2]
    play(Heard(SERVER, Moved(1, 2)))
    assert play.to(2, Settled) == [Settled(1, 2)]
    assert isinstance(play.machine.phase, Applying)


@pytest.mark.parametrize("survives", [True, False])
def test_a_server_that_does_not_answer_is_lost(*, survives: bool) -> None:
    play = Played(facts(survives=survives))
    play.ready(*WORKERS)
    actions = play(Tick(), 5)
    found = only(actions, Finished)
    assert found.kind is (EndKind.LOST if survives else EndKind.RESUMABLE)
    assert found.suspects == ((SERVER,) if survives else ())


def test_unsound_sums_make_the_round_void() -> None:
    play = Played(facts())
    play.ready(SERVER, *WORKERS)
    for rank, silo in zip(WORKERS, range(3), strict=True):
        play.report(rank, (silo,))
    actions = play(Heard(SERVER, Moved(1, 1, "", "server 0 received numbers that are not finite")))
    assert only(actions, RoundClosed).tally.quorum_met is False


def test_void_rounds_in_a_row_end_the_job() -> None:
    play = Played(facts("rounds.max_void=2"))
    for _ in range(2):
        play.ready(SERVER, *WORKERS)
        for rank in WORKERS:
            play.report(rank, ())
    assert only(play.said, Finished).kind is EndKind.VOID


def test_who_misses_too_many_windows_is_expelled() -> None:
    play = Played(facts("rounds.update_ratio=0.5", "rounds.start_quorum=0.5", "rounds.bench_after=1"))
    play.ready(SERVER, *WORKERS)
    play.report(2, (0,))
    play.report(3, (1,))
    assert only(play(Tick(), 60 + GRACE), Expel) == Expel(4, (1, 2, 3))


def test_what_the_user_asks_for() -> None:
    play = Played(facts())
    play.whole_round()
    play(Asked("round"))
    play.ready(SERVER, *WORKERS)
    assert only(play.said[-9:], Opened).plan.last
    assert play.machine.ending == (STOPPED, "stopped as asked")
    assert only(play(Asked("now")), Finished).kind is EndKind.STOP_NOW
    short = Played(facts())
    short(TimeIsShort("saved"))
    short.ready(SERVER, *WORKERS)
    assert (only(short.said, Opened).plan.last, only(short.said, Opened).plan.exit_code) == (True, 75)


def test_a_job_that_is_asked_to_stop_before_its_first_round_plays_that_one() -> None:
    play = Played(facts())
    play(Asked("round"))
    play.ready(SERVER, *WORKERS)
    assert not only(play.said, Opened).plan.last
    play.whole_round()
    play.ready(SERVER, *WORKERS)
    assert play.to(SERVER, Plan)[-1].last


def test_a_silo_goes_on_from_the_state_of_its_last_accepted_round_wherever_it_trains() -> None:
    play = Played(facts("rounds.update_ratio=0.3", "rounds.start_quorum=0.3", keeps_state=True))
    play.whole_round()
    assert [plan.states for plan in play.to(2, Plan)] == [(0,)]
    play.ready(SERVER, 2, 3)
    play(Died(4))  # it had not said that it is ready: what its silo keeps is lost
    assert only(play.said, Finished).kind is EndKind.LOST


def test_a_dead_workers_silos_are_trained_elsewhere_from_what_they_keep() -> None:
    play = Played(facts("rounds.update_ratio=0.3", "rounds.start_quorum=0.3", "rounds.count=3", keeps_state=True))
    play.whole_round()
    play.ready(4)  # what its silo keeps is on disk
    play(Died(4))
    play.ready(SERVER, 2, 3)
    plans = {rank: play.to(rank, Plan)[-1] for rank in (2, 3)}
    assert plans[2].dealt == (0, 2)
    assert plans[2].states == (1, 1)
    assert plans[3].states == (1,)
    play.report(2, (0,))
    play.report(3, (1,))
    play(Heard(SERVER, Moved(2, 1)))
    play(Heard(SERVER, Applied(2, 0, "x", 0.1, 0.1)))
    play.ready(SERVER, 2, 3)
    assert play.to(2, Plan)[-1].states == (2, 1)  # silo 2 did not count in round 2
    assert {silo: state.round for silo, state in play.machine.states.snapshot().items()} == {0: 2, 1: 2, 2: 1}
    assert play.machine.states.snapshot()[2].sha256 == "state 2"


def test_nobody_else_trains_a_silo_whose_state_is_not_on_disk() -> None:
    """Its worker stops when its update has counted: its silos wait for it, and no checkpoint names what is not there."""
    play = Played(facts("rounds.update_ratio=0.3", "rounds.start_quorum=0.3", "rounds.count=5", keeps_state=True))
    play.whole_round()
    play.ready(SERVER, 2, 3)
    play(Tick(), after=5)
    assert play.to(2, Plan)[-1].round == 2
    assert [play.to(rank, Plan)[-1].dealt for rank in (2, 3)] == [(0,), (1,)]
    assert play.to(SERVER, Plan)[-1].checkpoint is False
    play.ready(4)
    for rank, silo in ((2, 0), (3, 1)):
        play.report(rank, (silo,))
    play(Heard(SERVER, Moved(2, 1)))
    play(Heard(SERVER, Applied(2, 0, "x", 0.1, 0.1)))
    play.ready(SERVER, 2, 3)
    assert play.to(4, Plan)[-1].states == (1,)
    assert play.to(SERVER, Plan)[-1].checkpoint is True


def test_a_worker_that_never_writes_what_its_silos_keep_is_left_behind() -> None:
    play = Played(facts(keeps_state=True))
    play.whole_round()
    play.ready(SERVER, 2, 3)
    play(Tick(), after=5)
    play(Tick(), after=5)
    end = only(play.said, Finished)
    assert (end.kind, end.suspects) == (EndKind.LOST, (4,))


AUTO = "rounds.update_window=auto"


def take_round(play: Played, seconds: float, *, late: bool = False) -> float:
    """Play a round whose last report comes after so long; the last worker's never comes if it is late."""
    play.ready(SERVER, *WORKERS)
    number, plan = play.machine.number, play.to(2, Plan)[-1]
    for rank in WORKERS[1:] if late else WORKERS:
        play.evaluate(rank)
    for rank in WORKERS[:2]:
        play.report(rank, play.to(rank, Plan)[-1].dealt)
    play.now += seconds
    if late:
        play(Tick(), plan.window + GRACE - seconds)
    else:
        play.report(4, play.to(4, Plan)[-1].dealt)
    if isinstance(play.machine.phase, Reducing):
        play(Heard(SERVER, Moved(number, 1)))
        play(Heard(SERVER, Applied(number, 0, "x", 0.1, 0.1)))
    window: float = plan.window
    return window


def test_the_window_follows_the_rounds_that_count() -> None:
    play = Played(facts(AUTO, "rounds.count=9"))
    assert [take_round(play, seconds) for seconds in (7.5, 9.0, 1.0, 1.0)] == [3600, 75, 90, 90]
    closed = [one for one in play.said if isinstance(one, RoundClosed)]
    assert [(one.last_report, one.timed_out) for one in closed] == [(7.5, False), (9, False), (1, False), (1, False)]


def test_a_round_that_its_window_closed_makes_none_longer() -> None:
    play = Played(facts(AUTO, "rounds.count=9", "rounds.update_ratio=0.5"))
    assert take_round(play, 7.0) == 3600
    assert take_round(play, 60.0, late=True) == 70
    closed = [one for one in play.said if isinstance(one, RoundClosed)][-1]
    assert (closed.tally.quorum_met, closed.timed_out) == (True, True)
    assert take_round(play, 1.0) == 70


def test_a_worker_that_cuts_its_training_short_makes_none_longer() -> None:
    play = Played(facts(AUTO, "rounds.count=9", "rounds.update_ratio=0.5"))
    play.ready(SERVER, *WORKERS)
    play.report(2, (0,))
    play.report(3, (1,))
    short = Report(2, 30, 1, 1, 1.0, 1, 0.1, finished=False, elements=ELEMENTS, reason="out of time", cause=Cause.LATE)
    play(Heard(4, Reports(1, 0.1, (short,))), after=3600)
    play(Heard(SERVER, Moved(1, 1)))
    closed = only(play(Heard(SERVER, Applied(1, 0, "x", 0.1, 0.1))), RoundClosed)
    assert (closed.tally.quorum_met, closed.timed_out) == (True, True)
    assert take_round(play, 1.0) == 3600


def test_a_resumed_run_goes_by_its_record() -> None:
    play = Played(facts(AUTO, laps=(Lap(12.0, 60, evaluated=False),), start_round=2, counted=1))
    assert take_round(play, 1.0) == 120


def test_a_dead_worker_and_a_late_one_are_told_apart() -> None:
    play = Played(facts("rounds.update_ratio=0.3"))
    play.ready(SERVER, *WORKERS)
    play.report(2, (0,))
    play(Died(3))
    play(Tick(), 60 + GRACE)
    play(Heard(SERVER, Moved(1, 1)))
    closed = only(play(Heard(SERVER, Applied(1, 0, "x", 0.1, 0.1))), RoundClosed)
    assert closed.dealt == {0: 2, 1: 3, 2: 4}
    assert closed.dead == {3}
