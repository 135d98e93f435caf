"""How long the next round's window is, by the rounds before."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from records import summary
from silofold.coordination import window
from silofold.coordination.window import Lap, Setting
from silofold.core.summary import RankPhases, SiloSummary


def laps(*seconds: float, examples: int = 100, evaluated: bool = True) -> tuple[Lap, ...]:
    found: tuple[Lap, ...] = ()
    for one in seconds:
        found = window.remember(found, Lap(one, examples, evaluated))
    return found


def seconds(setting: Setting, known: tuple[Lap, ...], **changes: Any) -> float:
    return window.resolve(setting, known, **({"evaluated": True, "evaluation": 50.0} | changes))


def test_a_number_is_taken_as_it_is() -> None:
    assert seconds(3.5, ()) == 3.5
    assert seconds(3.5, laps(100.0)) == 3.5
    assert window.first(3.5) == 3.5


def test_an_hour_before_the_first_counted_round() -> None:
    assert seconds("auto", ()) == 3600


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ((0.5,), 60),
        ((6.5,), 65),
        ((6.5, 90.0, 7.0), 900),
        ((500.0,), 5000),
        ((90.0, *[1.0] * 10), 60),
        ((1e9,), 1e7),
        ((-5.0,), 60),
    ],
)
def test_ten_times_the_longest_of_the_last_ten(known: tuple[float, ...], expected: float) -> None:
    assert seconds("auto", laps(*known)) == expected


def test_rounds_without_an_evaluation_do_not_cut_one_short() -> None:
    plain = laps(10.0, evaluated=False)
    assert seconds("auto", plain, evaluated=False) == 100
    assert seconds("auto", plain) == 150
    assert seconds("auto", plain, evaluation=1e6) == 3600
    assert seconds("auto", laps(900.0, evaluated=False), evaluation=1e6) == 9000
    known = laps(200.0)
    for _ in range(25):  # every 25th round is evaluated
        known = window.remember(known, Lap(10.0, 100, evaluated=False))
    assert len(known) == 11
    assert seconds("auto", known, evaluated=False) == 100
    assert seconds("auto", known) == 2000


def test_a_record_tells_the_same_as_the_rounds_did() -> None:
    def one(number: int, **changes: Any) -> Any:
        silos = [
            SiloSummary(silo=k, name=f"silo_{k}", accuracy=0.5, test_examples=2, train_examples=30 + k, train_loss=1.0)
            for k in range(3)
        ]  # fmt: skip
        ranks = [RankPhases(role=role) for role in ("server_0", "worker_0", "worker_1")]
        values = {"accepted": [0, 2], "cohort": [0, 1, 2], "silos": silos, "ranks": ranks, "last_report": float(number)}
        return summary(number, **(values | changes))

    rounds = [one(1), one(2, void=True), one(3, timed_out=True), one(4, last_report=None), one(5)]
    assert window.from_record(rounds, 1, 2) == (Lap(1.0, 62, evaluated=False), Lap(5.0, 62, evaluated=True))
    assert window.from_record(rounds, 4, 2)[-1].evaluated
    assert not window.from_record(rounds, 3, 2)[-1].evaluated
    many = [one(number) for number in range(1, 31)]
    assert [lap.seconds for lap in window.from_record(many, 1, 2)] == list(range(21, 31))
    assert all(a.seconds < b.seconds for a, b in itertools.pairwise(window.from_record(many, 12, 2)))
    assert window.from_record(many, 12, 2)[-1].evaluated is False
    assert window.from_record(rounds, 1, 1)[-1].seconds == 10.0
    assert window.from_record(rounds, 1, 40)[-1].seconds == 5.0
