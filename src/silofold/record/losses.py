"""What a run has lost: updates that were asked for and do not count, and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from silofold.core.reports import Cause

if TYPE_CHECKING:
    from collections.abc import Sequence

    from silofold.core.summary import SiloSummary, Summary

KINDS, NAMES = 3, 3
"""Causes, and names beside each of them, that are told at most."""
LONGEST = 40
"""Letters of a name that are told."""
OF_A_WORKER = {Cause.DEAD: "died", Cause.LATE: "came too late", Cause.ABSENT: "got no model"}
OF_A_SILO = {
    Cause.DATA: "its data could not be read",
    Cause.MEMORY: "the memory was full",
    Cause.RAISED: "the model raised",
    Cause.DIVERGED: "loss or update not finite or out of range",
    Cause.FALSE: "a report that cannot be true",
    Cause.NONE: "not accepted",
}


def told(rounds: Sequence[Summary]) -> str:
    """Tell how many updates were lost, and by which causes; nothing if none was.

    An update is lost if its silo was asked to train and it did not count: refused, or in a void round.
    """
    asked = sum(len(one.cohort) for one in rounds)
    counts: Counter[Cause] = Counter()
    names: defaultdict[Cause, Counter[str]] = defaultdict(Counter)
    void = 0
    for one in rounds:
        silos = {silo.silo: silo for silo in one.silos}
        for index in set(one.cohort) - set(one.accepted):
            silo = silos.get(index)
            cause = silo.cause if silo else Cause.NONE
            counts[cause] += 1
            names[cause][_name(silo, cause)] += 1
        void += len(one.accepted) if one.void else 0
    kinds = [(count, _told(cause, names[cause])) for cause, count in counts.most_common()]
    kinds += [(void, "void rounds")] if void else []
    lost = sum(count for count, _ in kinds)
    if not lost:
        return ""
    kinds = sorted(kinds, key=lambda kind: -kind[0])
    parts = [f"{what} ({count})" for count, what in kinds[:KINDS]]
    if rest := sum(count for count, _ in kinds[KINDS:]):
        parts.append(f"other causes ({rest})")
    return f"{lost} of {asked} updates lost: {', '.join(parts)}"


def _name(silo: SiloSummary | None, cause: Cause) -> str:
    name = "" if silo is None else silo.worker if cause in OF_A_WORKER else silo.name
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _told(cause: Cause, names: Counter[str]) -> str:
    """Say what happened to whom, those who lost most first."""
    found = [name for name, _ in sorted(names.items(), key=lambda one: (-one[1], one[0])) if name]
    who = ", ".join(found[:NAMES]) + (f" and {len(found) - NAMES} more" if len(found) > NAMES else "")
    if cause in OF_A_WORKER:
        return f"{who or 'a worker'} {OF_A_WORKER[cause]}"
    return f"{who or 'a silo'}: {OF_A_SILO[cause]}"
