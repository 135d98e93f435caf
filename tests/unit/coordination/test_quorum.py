from __future__ import annotations

import msgspec
import pytest

from silofold.coordination import quorum as tally
from silofold.coordination.quorum import Verdict
from silofold.core.reports import Cause, Report
from silofold.core.summary import Phases, SiloSummary, Summary

ELEMENTS = 7
EXAMPLES = (10, 20, 30, 40, 50)
LATE = "no report within the update window"


def good(silo: int, examples: int | None = None, loss: float = 1.0) -> Report:
    seen = EXAMPLES[silo] if examples is None else examples
    return Report(silo, seen, 1, seen, loss, 0, 0.5, finished=True, elements=ELEMENTS)


def failed(silo: int, reason: str = "out of time") -> Report:
    return Report(silo, EXAMPLES[silo], 0, 0, 0.0, 0, 0.5, finished=False, elements=0, reason=reason)


def judge(
    reports: list[Report],
    cohort: tuple[int, ...] = (0, 1, 2, 3),
    ratio: float = 1.0,
    hosted: tuple[tuple[int, ...], ...] = ((0, 1), (2,), (3, 4)),
) -> Verdict:
    sent = [[report for report in reports if report.silo in silos] for silos in hosted]
    return tally.judge(cohort, sent, EXAMPLES, EXAMPLES, ratio, ELEMENTS)


@pytest.mark.parametrize(
    ("ratio", "started", "needed"),
    [
        (1.0, 1, 1), (1.0, 10, 10), (0.5, 10, 5), (0.5, 11, 6), (0.51, 10, 6), (0.7, 10, 7), (0.1, 3, 1), (0.01, 5, 1),
        # in floating point 0.28 · 25 and 0.07 · 100 are 7.000000000000001: seven, and not eight
        (0.28, 25, 7), (0.07, 100, 7), (0.56, 50, 28), (2 / 3, 3, 2), (0.999, 1000, 999), (0.9991, 1000, 1000),
        (0.5, 0, 1),
    ],
)  # fmt: skip
def test_needed(ratio: float, started: int, needed: int) -> None:
    assert tally.needed(ratio, started) == needed


@pytest.mark.parametrize(
    ("setting", "silos", "needed"),
    [(3, 10, 3), (10, 10, 10), (99, 10, 10), (1, 10, 1), (1.0, 10, 10), (0.25, 10, 3), (0.01, 10, 1)],
)
def test_start_quorum(setting: float, silos: int, needed: int) -> None:
    assert tally.start_quorum(setting, silos) == needed


def test_all_good() -> None:
    verdict = judge([good(3), good(1), good(0), good(2)])
    assert verdict == Verdict((0, 1, 2, 3), (10, 20, 30, 40), {}, quorum_met=True)


def test_an_unsorted_cohort_gives_sorted_silos_with_their_own_weights() -> None:
    verdict = judge([good(silo) for silo in (4, 0, 2)], cohort=(4, 0, 2))
    assert (verdict.accepted, verdict.weights) == ((0, 2, 4), (10, 30, 50))


@pytest.mark.parametrize(
    ("accepted", "ratio", "met"),
    [
        (4, 1.0, True), (3, 1.0, False), (3, 0.75, True), (2, 0.75, False), (2, 0.5, True), (1, 0.26, False),
        (1, 0.25, True), (0, 0.01, False),
    ],
)  # fmt: skip
def test_quorum(accepted: int, ratio: float, met: bool) -> None:  # noqa: FBT001
    hosted = ((0,), (1,), (2,), (3,))
    verdict = judge([good(silo) for silo in range(accepted)], ratio=ratio, hosted=hosted)
    assert verdict.quorum_met is met
    assert verdict.accepted == tuple(range(accepted))
    assert verdict.refused == dict.fromkeys(range(accepted, 4), LATE)


def test_nobody_was_asked() -> None:
    assert judge([], cohort=()) == Verdict((), (), {}, quorum_met=False)


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (failed(2), "out of time"),
        (failed(2, ""), "not finished"),
        (good(2, examples=31), "reports 31 training examples, but the silo holds 30"),
        (msgspec.structs.replace(good(2), elements=8), "reports an update of 8 elements, but the model has 7"),
        (good(2, loss=float("nan")), "reports a loss that is not finite"),
        (good(2, loss=float("-inf")), "reports a loss that is not finite"),
    ],
)
def test_reasons(report: Report, reason: str) -> None:
    verdict = judge([good(0), good(1), report, good(3)], ratio=0.75)
    assert verdict == Verdict((0, 1, 3), (10, 20, 40), {2: reason}, quorum_met=True)


def test_a_false_report_refuses_all_that_came_in_the_same_sum() -> None:
    verdict = judge([good(0), good(1, examples=2000), good(2), good(3)], ratio=0.5)
    story = "reports 2000 training examples, but the silo holds 20"
    assert verdict.accepted == (2, 3)
    assert verdict.refused == {0: f"came in one sum with silo 1, which {story}", 1: story}
    assert verdict.quorum_met


def test_a_silo_that_did_not_finish_leaves_its_neighbours_alone() -> None:
    verdict = judge([good(0), failed(1), good(2), good(3)])
    assert verdict == Verdict((0, 2, 3), (10, 30, 40), {1: "out of time"}, quorum_met=False)


def test_a_failed_neighbour_keeps_its_own_reason() -> None:
    verdict = judge([failed(0), good(1, examples=1), good(2), good(3)])
    assert verdict.refused[0] == "out of time"
    assert verdict.refused[1].startswith("reports 1 ")


def test_silos_outside_the_cohort_are_never_accepted() -> None:
    verdict = judge([good(0), good(2)], cohort=(0, 2))
    assert verdict == Verdict((0, 2), (10, 30), {}, quorum_met=True)


def test_a_finished_report_of_a_silo_that_was_not_asked_refuses_the_sum_it_is_in() -> None:
    assert judge([good(0), good(1), good(2)], cohort=(0, 2)).accepted == (2,)


def entry(silo: int, reason: str = "", *, failed: bool = False) -> SiloSummary:
    return SiloSummary(
        silo=silo,
        name=str(silo),
        accuracy=None,
        test_examples=1,
        train_examples=1,
        train_loss=None,
        reason=reason,
        failed=failed,
    )


def test_failures_in_a_row(summary: Summary) -> None:
    def after(*silos: SiloSummary, cohort: tuple[int, ...] = (0, 1, 2)) -> Summary:
        return msgspec.structs.replace(summary, cohort=list(cohort), silos=list(silos))

    ill, late = entry(1, "its model raises", failed=True), entry(1, "no report within the update window")
    assert tally.failures_in_a_row([after(entry(0), ill), after(entry(0), ill)], 5) == {1: 2}
    assert tally.failures_in_a_row([after(ill), after(late), after(ill)], 5) == {1: 2}  # lateness is no failure of its own
    assert tally.failures_in_a_row([after(ill), after(entry(1)), after(ill)], 5) == {1: 1}
    assert tally.failures_in_a_row([after(ill), after(ill, cohort=(0,)), after(ill)], 5) == {1: 2}  # it was not asked
    assert tally.failures_in_a_row([after(ill)] * 3 + [after(entry(1))], 3) == {1: 3}  # benched is benched


def void(number: int, *silos: tuple[Cause, str]) -> Summary:
    """A void round of so many silos, each with its cause and what its model raised."""
    told = [
        SiloSummary(
            silo=index, name="", accuracy=None, test_examples=1, train_examples=1, train_loss=None, reason=cause.value,
            cause=cause, raised=raised,
        )
        for index, (cause, raised) in enumerate(silos)
    ]  # fmt: skip
    return Summary(
        round=number, void=True, cohort=list(range(len(silos))), accepted=[], train_loss=None, accuracy=None,
        accuracy_low=None, accuracy_high=None, test_loss=None, test_examples=0, silos=told,
        seconds=Phases(broadcast=0, evaluate=0, train=0, wait=0, reduce=0, apply=0, total=0), bytes_down=0, bytes_up=0,
        model_sha256="", shard_sha256=[],
    )  # fmt: skip


GOOD, LATE_ONE = (Cause.NONE, ""), (Cause.LATE, "")
KEY, VALUE, NAN = (Cause.RAISED, "KeyError x:1"), (Cause.RAISED, "ValueError x:2"), (Cause.DIVERGED, "")


@pytest.mark.parametrize(
    ("rounds", "ratio", "cause"),
    [
        ([(KEY, GOOD), (KEY, GOOD), (GOOD, KEY)], 1.0, Cause.RAISED),
        ([(KEY, GOOD), (VALUE, GOOD), (KEY, GOOD)], 1.0, Cause.NONE),
        ([(NAN, GOOD), (GOOD, NAN), (NAN, NAN)], 1.0, Cause.DIVERGED),
        ([(NAN, KEY, KEY)] * 3, 1.0, Cause.RAISED),
        ([(NAN, NAN, KEY)] * 3, 1.0, Cause.DIVERGED),
        ([(NAN, LATE_ONE, LATE_ONE, GOOD)] * 3, 0.5, Cause.NONE),
        ([(NAN, NAN, NAN, LATE_ONE)] * 3, 0.5, Cause.DIVERGED),
        ([(LATE_ONE, GOOD)] * 3, 1.0, Cause.NONE),
        ([(NAN, GOOD), (LATE_ONE, GOOD)], 1.0, Cause.NONE),
        ([((Cause.MEMORY, ""), GOOD)] * 3, 1.0, Cause.NONE),
        ([((Cause.DATA, ""), GOOD)] * 3, 1.0, Cause.NONE),
        ([()], 1.0, Cause.NONE),
        ([], 1.0, Cause.NONE),
    ],
)
def test_what_no_repetition_mends(rounds: list[tuple[tuple[Cause, str], ...]], ratio: float, cause: Cause) -> None:
    assert tally.lasting([void(number, *silos) for number, silos in enumerate(rounds, 1)], ratio) is cause


def test_the_cause_of_a_refusal() -> None:
    assert tally.cause_of(good(0), refused=False) is Cause.NONE
    assert tally.cause_of(None, refused=True) is Cause.LATE
    assert tally.cause_of(good(0), refused=True) is Cause.FALSE
    assert tally.cause_of(msgspec.structs.replace(failed(0), cause=Cause.DATA), refused=True) is Cause.DATA
    assert {cause for cause in Cause if cause.of_the_silo} == {Cause.DATA, Cause.MEMORY, Cause.RAISED, Cause.DIVERGED}
