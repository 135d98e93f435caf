"""What the last line of a run says of updates that do not count."""

from __future__ import annotations

from typing import Any

from records import summary
from silofold.core.reports import Cause
from silofold.core.summary import SiloSummary, Summary
from silofold.record import losses


def played(number: int, lost: dict[int, tuple[Cause, str]], silos: int = 7, **changes: Any) -> Summary:
    told = [
        SiloSummary(silo=k, name=f"hospital_{k}", accuracy=0.5, test_examples=2, train_examples=30, train_loss=1.0,
                    cause=lost.get(k, (Cause.NONE, ""))[0], worker=lost.get(k, (Cause.NONE, f"worker_{k}"))[1])
        for k in range(silos)
    ]  # fmt: skip
    accepted = [k for k in range(silos) if k not in lost]
    return summary(number, **({"cohort": list(range(silos)), "accepted": accepted, "silos": told} | changes))


DEAD, LATE = (Cause.DEAD, "worker_1"), (Cause.LATE, "worker_3")


def test_nothing_is_said_where_nothing_was_lost() -> None:
    assert losses.told([played(number, {}) for number in range(1, 21)]) == ""
    assert losses.told([]) == ""


def test_how_many_and_why() -> None:
    rounds = [played(number, {3: DEAD, 4: DEAD} if number == 7 else {}) for number in range(1, 21)]
    assert losses.told(rounds) == "2 of 140 updates lost: worker_1 died (2)"


def test_updates_of_a_void_round_are_lost_too() -> None:
    assert losses.told([played(1, {3: DEAD}, void=True), played(2, {})]) == (
        "7 of 14 updates lost: void rounds (6), worker_1 died (1)"
    )


def test_three_causes_at_most_the_commonest_first() -> None:
    rounds = [
        played(1, {0: LATE, 1: LATE, 2: LATE, 3: LATE, 4: (Cause.RAISED, "worker_2"), 5: (Cause.RAISED, "worker_2")}),
        played(2, {0: DEAD, 1: DEAD, 2: DEAD, 3: (Cause.DATA, "worker_4")}),
        played(3, {4: (Cause.RAISED, "worker_2"), 5: DEAD}),
    ]
    assert losses.told(rounds) == (
        "12 of 21 updates lost: worker_3 came too late (4), worker_1 died (4), "
        "hospital_4, hospital_5: the model raised (3), other causes (1)"
    )


def test_names_are_few_and_short() -> None:
    lost = {k: (Cause.DEAD, f"worker_{k}") for k in range(6)}
    assert losses.told([played(1, lost)]) == "6 of 7 updates lost: worker_0, worker_1, worker_2 and 3 more died (6)"
    assert losses.told([played(1, {0: (Cause.DEAD, "x" * 10**6)})]).count("x") == 39


def test_older_records_name_no_worker_and_the_oldest_no_cause() -> None:
    assert losses.told([played(1, {0: (Cause.LATE, "")})]) == "1 of 7 updates lost: a worker came too late (1)"
    assert losses.told([played(1, {0: (Cause.NONE, "")})]) == "1 of 7 updates lost: hospital_0: not accepted (1)"
    assert losses.told([played(1, {0: (Cause.NONE, "")}, silos=7) , played(2, {}, cohort=[0], accepted=[])]) == (
        "2 of 8 updates lost: hospital_0: not accepted (2)"
    )  # fmt: skip


def test_every_cause_is_told() -> None:
    assert {*losses.OF_A_WORKER, *losses.OF_A_SILO} == set(Cause)
