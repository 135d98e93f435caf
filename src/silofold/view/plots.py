"""The figures of what a model is worth, by matplotlib (the extra ``report``), from plain numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from silofold.view.drawing import NARROW, SMALL, WIDE, begin_axes, fitted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from silofold.view.drawing import Draw, Palette

MOST_CLASSES = 80
"""A confusion matrix of more classes cannot be read."""


class Gain(NamedTuple):
    """A difference with its interval, and what a test says of it."""

    name: str
    difference: float
    low: float
    high: float
    sure: bool
    """Whether the test says that it is no chance."""


class Cell(NamedTuple):
    """One cell of a matrix: how dark it is (0 to 1) and what is written in it."""

    row: int
    column: int
    shade: float
    word: str = ""


def bars(heights: Sequence[float], outline: Sequence[float], names: Sequence[str], title: str) -> Draw:
    """Draw a silo's share of each class as bars, and that of all silos as a line over them."""

    def draw(palette: Palette, width: float) -> Figure:
        longest = min(10, max(map(len, names), default=0))
        figure, axes = begin_axes(width, (1.35 if width == SMALL else 2.6) + 0.05 * longest)
        places = np.arange(len(heights))
        axes.bar(places, heights, width=0.9, color=palette.series[0])
        axes.stairs(outline, np.arange(len(outline) + 1) - 0.5, baseline=None, color=palette.ink, linewidth=0.9)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_locator(MaxNLocator(3))
        room = (width - 0.5) * 72 / 7.5  # names of 6 points that stand on end
        every = max(1, math.ceil(len(names) / room))
        upright = max(map(len, names), default=0) > 1
        axes.set_xticks(places[::every], [fitted(name, 10) for name in names[::every]], fontsize=6, rotation=90 * upright)
        axes.tick_params(axis="x", length=0, pad=1)
        axes.grid(visible=False, axis="x")
        axes.set_title(fitted(title, 20 if width == SMALL else 80), loc="left")
        return figure

    return draw


def gains(rows: Sequence[Gain], label: str) -> Draw:
    """Draw differences in percentage points; better is to the right, and what the test is sure of has a colour."""

    def draw(palette: Palette, width: float) -> Figure:
        figure, axes = begin_axes(width, 0.9 + 0.26 * len(rows))
        for place, row in enumerate(rows):
            color = palette.muted if not row.sure else palette.series[2] if row.difference > 0 else palette.series[4]
            axes.plot([100 * row.low, 100 * row.high], [place, place], color=color, linewidth=2)
            axes.plot([100 * row.difference], [place], "o", color=color, markersize=5)
        axes.axvline(0, color=palette.ink, linewidth=0.8)
        axes.set_yticks(range(len(rows)), [fitted(row.name, 28 if width > NARROW else 16) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(label)
        return figure

    return draw


def matrix(rows: Sequence[str], columns: Sequence[str], cells: Sequence[Cell], labels: tuple[str, str]) -> Draw:
    """Draw a matrix: the darker a cell, the more; `labels` are of the rows and of the columns."""

    def draw(palette: Palette, width: float) -> Figure:
        worded = any(cell.word for cell in cells)
        most = 7.0 if len(columns) > 12 else 1.6 + 0.72 * len(columns)
        side = min(width, most)
        height = side * 0.97 if len(rows) > 12 else 0.8 + (0.36 if width > NARROW else 0.3) * len(rows)
        figure, axes = begin_axes(side, height)
        for cell in cells:
            box = Rectangle(
                (cell.column - 0.5, cell.row - 0.5), 1, 1, facecolor=palette.series[0], alpha=cell.shade, linewidth=0
            )
            axes.add_patch(box)
            if cell.word:
                size = min(9.0, side * 72 / (len(columns) + 3) / 2.4)
                axes.text(cell.column, cell.row, cell.word, ha="center", va="center", color=palette.ink, fontsize=size)
        many = len(columns) > 12
        labels_x, labels_y = [fitted(name, 16) for name in columns], [fitted(name, 16) for name in rows]
        every = math.ceil(len(columns) * 6.5 / (side * 72 * 0.86)) if many else 1  # letters below 6.5 points cannot be read
        size = 6.5 if many else 8.5
        turn = 0 if all(len(name) < 3 for name in labels_x) else 30 if worded and side > WIDE / 2 else 90
        axes.set_xticks(
            range(0, len(columns), every),
            labels_x[::every],
            fontsize=size,
            rotation=turn,
            ha="right" if turn == 30 else "center",
        )
        axes.set_yticks(range(0, len(rows), every), labels_y[::every], fontsize=size)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=many)
        for line in (*axes.get_xgridlines(), *axes.get_ygridlines()):
            line.set_linewidth(0.25)
        axes.tick_params(length=0)
        axes.set_ylabel(labels[0])
        axes.set_xlabel(labels[1])
        for spine in axes.spines.values():
            spine.set_visible(True)
        return figure

    return draw


def calibration(bins: Sequence[tuple[float, float, int]]) -> Draw:
    """Draw accuracy over confidence for bins of (confidence, accuracy, images); the diagonal is perfect."""

    def draw(palette: Palette, width: float) -> Figure:
        figure, axes = begin_axes(min(width, 4.2), 3.4)
        axes.plot([0, 1], [0, 1], "--", color=palette.muted, linewidth=0.9)
        total = max((count for *_, count in bins), default=1)
        for confidence, accuracy, count in bins:
            size = 20 + 180 * count / total
            axes.plot([confidence, confidence], [confidence, accuracy], color=palette.series[0], linewidth=1, alpha=0.6)
            axes.scatter([confidence], [accuracy], s=size, color=palette.series[0], alpha=0.85, linewidth=0)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlim(0, 1.04)
        axes.set_ylim(0, 1.04)
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        return figure

    return draw
