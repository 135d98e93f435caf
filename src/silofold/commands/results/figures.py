"""The figures of a report, and what they draw. Needs the extra ``report``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from silofold.commands.results.pairs import UNSURE
from silofold.view import page, plots, round_plots
from silofold.view.plots import Cell
from silofold.view.round_plots import Curve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from silofold.commands.results.looks import Look
    from silofold.commands.results.pairs import Pair
    from silofold.core.summary import Summary
    from silofold.view.page import Drawing

MOST_SILOS = 24
"""Silos that get a drawing of their own."""
SOMETIMES = ("accuracy", "calibration", "cross", "confusion", "timeline", "participation")
"""Figures for which there is not always something to draw."""


def figures(looks: Sequence[Look]) -> dict[str, Drawing]:
    """Draw what all runs show, by name."""
    first = looks[0]
    accuracy = [curve for index, one in enumerate(looks) for curve in _curves(one, index, "accuracy")]
    loss = [
        curve for index, one in enumerate(looks) for key in ("test_loss", "train_loss") for curve in _curves(one, index, key)
    ]
    bins = [(one.confidence, one.accuracy, one.examples) for one in first.measures.calibration]
    known = [(confidence, right, count) for confidence, right, count in bins if confidence is not None and right is not None]
    rounds = [one.round for one in first.rounds]
    found = [
        page.Drawing("loss", "loss by round", round_plots.curves(loss, "loss", share=False)),
        page.Drawing("phases", "seconds by phase", round_plots.phases(rounds, _phases(first.rounds))),
    ]
    if accuracy:
        found.append(page.Drawing("accuracy", "accuracy by round", round_plots.curves(accuracy, "accuracy", share=True)))
    if known:
        found.append(page.Drawing("calibration", "accuracy over confidence", plots.calibration(known)))
    own = next((one for one in looks if one.answers.matrix is not None), None)
    if own is not None and len(own.data.silos) <= MOST_SILOS:
        rows, columns, cells = _cross(own, first)
        draw = plots.matrix(rows, columns, cells, ("model", "test images of"))
        found.append(page.Drawing("cross", "accuracy of each model on each silo", draw))
    if known and len(first.data.classes) <= plots.MOST_CLASSES:
        draw = plots.matrix(first.data.classes, first.data.classes, _confusion(first), ("true class", "answer"))
        found.append(page.Drawing("confusion", "true classes and answers", draw))
    shown = _typical(first.rounds)
    if shown is not None:
        workers = [rank for rank in shown.ranks if rank.train or rank.evaluate or rank.broadcast]
        close = max((rank.broadcast + rank.evaluate + rank.train for rank in workers), default=0.0)
        title = f"Round {shown.round}, the one of median length"
        found.append(page.Drawing("timeline", title, round_plots.timeline(shown.ranks, close)))
    names = [silo.name for silo in first.data.silos]
    if len(names) <= 2 * MOST_SILOS:
        found.append(
            page.Drawing("participation", "updates by silo and round", round_plots.participation(names, _states(first)))
        )
    return {one.name: one for one in found}


def _curves(one: Look, color: int, key: str) -> list[Curve]:
    known = [summary for summary in one.rounds if getattr(summary, key) is not None]
    if not known:
        return []
    rounds, values = [summary.round for summary in known], [getattr(summary, key) for summary in known]
    if key != "accuracy":
        return [Curve(f"{one.name}, {key.partition('_')[0]}", rounds, values, dashed=key == "train_loss", color=color)]
    low, high = ([getattr(summary, f"accuracy_{end}") for summary in known] for end in ("low", "high"))
    return [Curve(one.name, rounds, values, low, high, color=color)]


def gains(first: Look, pairs: Sequence[Pair], names: Sequence[str]) -> list[Drawing]:
    """Draw, for each other run, who gains from the first one."""
    drawings = []
    for number, pair in enumerate(pairs):
        rows = [(name, one) for name, one in zip(names, pair.silos, strict=False) if one]
        if pair.pooled is None or len(rows) > 2 * MOST_SILOS:
            continue
        rows.append(("all silos", pair.pooled))
        title = f"Gain of {first.name} on {pair.name}, in percentage points"
        points = [plots.Gain(name, one.difference, one.low, one.high, sure=one.p < UNSURE) for name, one in rows]
        draw = plots.gains(points, "percentage points")
        drawings.append(page.Drawing(f"gain-{number}", title, draw))
    return drawings


def chosen(first: Look) -> list[int]:
    """Choose the silos to draw: all, or those with the lowest accuracy; silos without a test image have none."""
    known = [2.0 if one.accuracy is None else one.accuracy for one in first.measures.silos]
    return sorted(sorted(range(len(known)), key=known.__getitem__)[:MOST_SILOS])


def silo_curves(looks: Sequence[Look], chosen: Sequence[int]) -> list[Drawing]:
    """Draw the accuracy by round of the chosen silos."""
    drawings = []
    for silo in chosen:
        name = looks[0].data.silos[silo].name
        lines = []
        for color, one in enumerate(looks):
            pairs = [(r.round, s.accuracy) for r in one.rounds for s in r.silos if s.name == name and s.accuracy is not None]
            if pairs:
                lines.append(Curve(one.name, [r for r, _ in pairs], [value for _, value in pairs], color=color))
        if lines:
            drawings.append(page.Drawing(f"silo-{silo}", name, round_plots.curves(lines, name, share=True), small=True))
    return drawings


def histograms(first: Look, chosen: Sequence[int]) -> list[Drawing]:
    """Draw the classes of the chosen silos, beside those of all."""
    counts = np.array([silo.train.histogram for silo in first.data.silos], float)
    everyone = counts.sum(axis=0) / counts.sum()
    drawings = []
    for silo in chosen:
        mine = counts[silo] / max(counts[silo].sum(), 1)
        name = first.data.silos[silo].name
        title = f"{np.abs(mine - everyone).sum() / 2:.0%} {name}"
        draw = plots.bars(mine.tolist(), everyone.tolist(), first.data.classes, title)
        drawings.append(page.Drawing(f"classes-{silo}", f"classes of {name}", draw, small=True))
    return drawings


def _cross(own: Look, first: Look) -> tuple[list[str], list[str], list[Cell]]:
    matrix = own.answers.matrix if own.answers.matrix is not None else np.zeros((0, 0))
    sizes = [silo.test.examples for silo in own.data.silos]
    names = [silo.name for silo in own.data.silos]
    rows = [[correct / size if size else None for correct, size in zip(row, sizes, strict=True)] for row in matrix]
    titles = [*names]
    if first is not own and first.answers.tests == own.answers.tests and first.answers.matrix is None:
        rows.append([one.accuracy for one in first.measures.silos])
        titles.append(first.name)
    return titles, names, [
        Cell(i, j, 0.0 if value is None else 0.05 + 0.55 * value, "n/a" if value is None else f"{100 * value:.0f}")
        for i, row in enumerate(rows) for j, value in enumerate(row)
    ]  # fmt: skip


def _confusion(first: Look) -> list[Cell]:
    table = np.array(first.measures.confusion)
    sizes = np.maximum(table.sum(axis=1), 1)
    few = len(table) <= 12
    most = 0.5 if few else 0.8  # letters must stay readable on the cell
    return [
        Cell(int(i), int(j), float(0.1 + most * table[i, j] / sizes[i]), str(table[i, j]) if few else "")
        for i, j in zip(*np.nonzero(table), strict=True)
    ]


def _phases(rounds: Sequence[Summary]) -> dict[str, list[float]]:
    """Share out each round's seconds; what overlaps is not counted twice, what is left is `other`."""
    phases = {
        key: [getattr(one.seconds, key) for one in rounds] for key in ("broadcast", "evaluate", "train", "reduce", "apply")
    }
    phases["other"] = [
        max(0.0, one.seconds.total - sum(values[index] for values in list(phases.values())))
        for index, one in enumerate(rounds)
    ]
    return phases


def _typical(rounds: Sequence[Summary]) -> Summary | None:
    """Choose the round of median length among those that tell of their ranks."""
    known = sorted((one for one in rounds if one.ranks), key=lambda one: one.seconds.total)
    return known[len(known) // 2] if known else None


def _states(first: Look) -> list[list[str]]:
    return [
        [
            "accepted" if silo in one.accepted and not one.void else "refused" if silo in one.cohort else "not asked"
            for one in first.rounds
        ]
        for silo in range(len(first.data.silos))
    ]
