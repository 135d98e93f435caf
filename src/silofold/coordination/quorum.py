"""From reports to a tally: who is accepted, with what weight, and whether the quorum is met."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from silofold.core.reports import Cause

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from silofold.core.messages import Reports
    from silofold.core.reports import Report
    from silofold.core.summary import Summary


MISSING = "no report within the update window"
UNASKED = "was not asked to train"


class Verdict(NamedTuple):
    """What follows from the reports of a round.

    Attributes
    ----------
    accepted
        Silos whose updates count, ascending.
    weights
        Weight of each.
    refused
        Why each other silo of the cohort does not count.
    quorum_met
        Whether the round counts.
    """

    accepted: tuple[int, ...]
    weights: tuple[int, ...]
    refused: dict[int, str]
    quorum_met: bool


def start_quorum(setting: float, silos: int) -> int:
    """Count the silos that must be ready: an integer is a number, a fraction a share of all, rounded up."""
    return min(setting, silos) if isinstance(setting, int) else needed(setting, silos)


def needed(ratio: float, started: int) -> int:
    """Count the updates that a round needs: the share of those that started, rounded up, at least one."""
    # 0.28 * 25 is 7.000000000000001: without the allowance a round of 25 would need eight
    return max(1, math.ceil(ratio * started - 1e-9))


def judge(
    cohort: Sequence[int],
    reports: Collection[Sequence[Report]],
    examples: Sequence[int],
    weights: Sequence[int],
    update_ratio: float,
    elements: int,
) -> Verdict:
    """Decide what counts.

    Parameters
    ----------
    cohort
        Silos that were asked to train.
    reports
        What came back in time, of each worker. Its finished silos come as one sum, so a false report of one refuses all of
        them.
    examples
        Training examples of every silo, as packed: a report of another number is refused.
    weights
        The strategy's weight of every silo.
    update_ratio
        Share of the cohort that must be accepted.
    elements
        Length of the model's vector: an update of another length is refused.
    """
    refused = dict.fromkeys(cohort, MISSING)
    asked = True
    for sent in reports:
        for report in sent:
            silo = report.silo
            if silo not in refused:
                asked = False
            elif report.finished and (report.examples, report.elements) == (examples[silo], elements):  # nearly always
                refused[silo] = "" if math.isfinite(report.loss_sum) else "reports a loss that is not finite"
            else:
                refused[silo] = _objection(report, examples[silo], elements)
    for sent in reports if not asked or any(refused.values()) else ():
        false = next((report for report in sent if report.finished and refused.get(report.silo, UNASKED)), None)
        if false:
            story = f"came in one sum with silo {false.silo}, which {refused.get(false.silo, UNASKED)}"
            refused |= {report.silo: refused[report.silo] or story for report in sent if report.silo in refused}
    accepted = tuple(sorted(silo for silo, objection in refused.items() if not objection))
    return Verdict(
        accepted,
        tuple(weights[silo] for silo in accepted),
        {silo: objection for silo, objection in refused.items() if objection},
        len(accepted) >= needed(update_ratio, len(cohort)),
    )


def failures_in_a_row(earlier: Iterable[Summary], limit: int) -> dict[int, int]:
    """Count, for each silo, the rounds in a row up to the last one in which it failed; see `count_failures`."""
    failures: dict[int, int] = {}
    for summary in earlier:
        refused = {entry.silo for entry in summary.silos if entry.reason}
        failed = {entry.silo for entry in summary.silos if entry.failed}
        failures = count_failures(failures, summary.cohort, refused, failed, limit)
    return failures


def count_failures(
    before: Mapping[int, int], cohort: Iterable[int], refused: Collection[int], failed: Collection[int], limit: int
) -> dict[int, int]:
    """Count a round's failures: a silo that had no part in it keeps its count, one that was accepted starts anew.

    Only what a silo's own report tells is held against it: a worker that was late or lost says nothing about its silos.

    Parameters
    ----------
    before
        Failures in a row of each silo up to the round before.
    cohort
        Silos that were asked to train in the round.
    refused
        Those whose update did not count.
    failed
        Those of them that reported so themselves.
    limit
        So many in a row bench a silo for good.
    """
    after = dict(before)
    for silo in cohort:
        if after.get(silo, 0) >= limit:
            continue
        if silo not in refused:
            after.pop(silo, None)
        elif silo in failed:
            after[silo] = after.get(silo, 0) + 1
    return after


def own_fault(report: Report | None) -> bool:
    """Whether a silo's own report says that its data or its model is at fault, and not the rank that it runs on."""
    return report is not None and not report.finished and report.cause.of_the_silo


def cut_short(reports: Iterable[Reports]) -> bool:
    """Whether a worker says that the window ended while it trained."""
    return any(report.cause is Cause.LATE for sent in reports for report in sent.reports)


def cause_of(report: Report | None, *, refused: bool, dead: bool = False) -> Cause:
    """Tell why a silo of the cohort does not count, as a word; its report may not have come, its worker be dead."""
    if not refused:
        return Cause.NONE
    if report is None:
        return Cause.DEAD if dead else Cause.LATE
    return Cause.FALSE if report.finished else report.cause


def lasting(voids: Sequence[Summary], update_ratio: float) -> Cause:
    """Tell what made void rounds void, if no repetition of the job would mend it.

    A round is void for a lasting cause if too few updates would have counted even with every rank there and in time: too
    many silos diverged, or raised an exception that stands in each of these rounds.

    Parameters
    ----------
    voids
        Void rounds in a row.
    update_ratio
        Share of the cohort that must be accepted.

    Returns
    -------
    Cause
        `Cause.RAISED` or `Cause.DIVERGED`, whichever more silos met; `Cause.NONE` if a repetition may mend it.
    """
    raised = [Counter(silo.raised for silo in one.silos if silo.cause is Cause.RAISED) for one in voids]
    again = set.intersection(*(set(found) for found in raised)) if raised else set()
    by_model = [sum(found[token] for token in again) for found in raised]
    by_numbers = [sum(silo.cause is Cause.DIVERGED for silo in one.silos) for one in voids]
    for one, *failed in zip(voids, by_model, by_numbers, strict=True):
        if sum(failed) <= max(0, len(one.cohort) - needed(update_ratio, len(one.cohort))):
            return Cause.NONE
    if not voids:
        return Cause.NONE
    return Cause.RAISED if sum(by_model) >= sum(by_numbers) else Cause.DIVERGED


def _objection(report: Report, examples: int, elements: int) -> str:
    if not report.finished:
        return report.reason or "not finished"
    if report.examples != examples:
        return f"reports {report.examples} training examples, but the silo holds {examples}"
    return f"reports an update of {report.elements} elements, but the model has {elements}"
