"""The first run against each other one, image by image where both were tested on the same images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from silofold.commands.results import looks
from silofold.core.console import shown
from silofold.evaluation import paired
from silofold.view import text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from silofold.commands.results.looks import Look
    from silofold.evaluation.paired import Paired

UNSURE = 0.05
"""From this p on, a difference is no ground for a claim."""
ONE_SEED = (
    "each test is of two trained models, not of two methods: another seed gives other models. "
    "Whether a method is better, several seeds of each tell"
)


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """The first run against another one."""

    name: str
    """The other run."""
    same_images: bool
    pooled: Paired | None = None
    """None without the same test images, or without any."""
    silos: list[Paired | None] = []
    """By silo; None where a silo has no test image."""


def against(looks: Sequence[Look]) -> list[Pair]:
    """Compare the first run with each other one, image by image."""
    first, *others = looks
    pairs = []
    for other in others:
        if first.answers.tests != other.answers.tests:
            pairs.append(Pair(name=other.name, same_images=False))
            continue
        ours, theirs, silo = (
            first.answers.global_model.right,
            other.answers.global_model.right,
            first.answers.global_model.silo,
        )
        each = [silo == index for index in range(len(first.data.silos))]
        pairs.append(
            Pair(
                name=other.name,
                same_images=True,
                pooled=paired.compare(theirs, ours) if len(ours) else None,
                silos=[paired.compare(theirs[one], ours[one]) if one.any() else None for one in each],
            )
        )
    return pairs


def verdict(name: str, pair: Pair) -> str:
    """Say whether the first run is better than another one, and how sure that is."""
    found = pair.pooled
    if not pair.same_images:
        return "other test images, so the runs cannot be paired; only the intervals above tell"
    if found is None:
        return "n/a: no silo has a test image"
    better = f"{name} is better" if found.difference > 0 else f"{pair.name} is better"
    claim = better if found.p < UNSURE else "no difference that these images can show"
    return (
        f"{text.points(found.difference)} points [{text.points(found.low)}, {text.points(found.high)}]; of {found.examples} "
        f"images {found.only_second} are right in {name} alone, {found.only_first} in {pair.name} alone; McNemar's exact "
        f"p {text.chance(found.p)}: {claim}"
    )


def tally(names: Sequence[str], pair: Pair) -> str:
    """Name the silos that gain and those that lose, and say how many of them chance alone would name."""
    tested = [(name, found) for name, found in zip(names, pair.silos, strict=True) if found]
    gains = [name for name, found in tested if found.difference > 0]
    losses = [name for name, found in tested if found.difference < 0]
    sure = sum(found.p < UNSURE for _, found in tested)
    none = len(names) - len(tested)
    return (
        f"{len(gains)} gain, {len(losses)} lose{f' ({text.names(losses)})' if losses else ''}, "
        f"{len(tested) - len(gains) - len(losses)} the same{f', {none} without a test image' if none else ''}; "
        f"p < {UNSURE} in {sure} of {len(tested)}, where chance alone gives up to {UNSURE * len(tested):.1f}"
    )


def story(runs: Sequence[Look], against: Sequence[Pair]) -> str:
    """Put a comparison into tables."""
    five = any(one.measures.top5 for one in runs)
    header = ["run", "kind", "round", "accuracy", "images", "95 % interval", "worst silo", *["top-5"] * five, "loss"]
    body = [
        [
            one.name, one.kind, str(one.answers.round), text.percent(one.measures.pooled.accuracy),
            str(one.measures.pooled.examples), text.interval(one.measures.pooled.low, one.measures.pooled.high),
            looks.worst(one), *[text.percent(one.measures.top5.accuracy if one.measures.top5 else None)] * five,
            text.number(one.measures.loss),
        ]
        for one in runs
    ]  # fmt: skip
    lines = [text.table(header, body), *(shown(f"note: {line}") for line in looks.notes(runs))]
    for pair in against:
        lines += ["", shown(f"{runs[0].name} against {pair.name}: {verdict(runs[0].name, pair)}")]
    paired_ones = [pair for pair in against if pair.pooled]
    if paired_ones:
        lines += ["", f"note: {ONE_SEED}"]
        names = [silo.name for silo in runs[0].data.silos]
        sides = [runs[0], *(one for one in runs[1:] if one.name in {pair.name for pair in paired_ones})]
        header = ["silo", "images", *(one.name for one in sides)]
        for pair in paired_ones:
            header += [f"gain on {pair.name}", "p"]
        body = []
        for index, name in enumerate(names):
            row = [name, str(sides[0].measures.silos[index].examples)]
            row += [text.percent(one.measures.silos[index].accuracy) for one in sides]
            for pair in paired_ones:
                found = pair.silos[index]
                row += [text.points(found.difference), text.chance(found.p)] if found else ["n/a", "n/a"]
            body.append(row)
        lines += ["", shown(f"who gains from {runs[0].name}, in percentage points"), text.table(header, body)]
        lines += [shown(f"{pair.name}: {tally(names, pair)}") for pair in paired_ones]
    return "\n".join(lines)
