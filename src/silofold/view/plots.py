"""Every figure of the report, by matplotlib (the extra ``report``), from plain numbers.

A figure is drawn at a given width: once wide and once narrow for a page, so that its letters stay as large as the text
beside it. On a page its colours are variables of the style sheet, so that one drawing serves light, dark and print.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from unicodedata import east_asian_width

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from silofold.core.console import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from silofold.messages import RankPhases

WIDE, NARROW, SMALL = 9.4, 3.5, 2.1
"""Widths in inches: of a desktop, of a telephone, of one of many."""
MOST_CLASSES = 80
"""A confusion matrix of more classes cannot be read."""
PHASES = ("broadcast", "evaluate", "train", "wait", "reduce", "apply")


class Palette(NamedTuple):
    """The colours of a figure."""

    ink: str
    muted: str
    grid: str
    paper: str
    series: tuple[str, ...]


LIGHT = Palette(
    "#1b1f24", "#57606a", "#d0d7de", "#ffffff",
    ("#0b62c4", "#c4480b", "#1a7f4b", "#8a3fc2", "#b0164f", "#6b6b00", "#007a87", "#5a4632"),
)  # fmt: skip
DARK = Palette(
    "#e6edf3", "#9aa4af", "#3a424c", "#0d1117",
    ("#58a6ff", "#ffa657", "#56d364", "#d2a8ff", "#ff7b9c", "#d7d75f", "#39c5cf", "#c9ae94"),
)  # fmt: skip
PAGE = Palette("#010101", "#010102", "#010103", "#010104", tuple(f"#0102{index:02x}" for index in range(8)))
"""Stands for the variables of the page's style sheet."""

Draw: TypeAlias = Callable[[Palette, float], Figure]
"""Draws a figure in a palette, so many inches wide."""


class Gain(NamedTuple):
    """A difference with its interval, and what a test says of it."""

    name: str
    difference: float
    low: float
    high: float
    sure: bool
    """Whether the test says that it is no chance."""


class Curve(NamedTuple):
    """One line over the rounds; an interval where there is one."""

    name: str
    rounds: Sequence[int]
    values: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dashed: bool = False
    color: int = 0


class Cell(NamedTuple):
    """One cell of a matrix: how dark it is (0 to 1) and what is written in it."""

    row: int
    column: int
    shade: float
    word: str = ""


def variables(palette: Palette) -> dict[str, str]:
    """Name the colours as the style sheet does."""
    named = {"ink": palette.ink, "muted": palette.muted, "grid": palette.grid, "paper": palette.paper}
    return named | {f"series-{index}": color for index, color in enumerate(palette.series)}


def svg(draw: Draw, width: float, name: str, title: str) -> str:
    """Draw for a page: without fixed size, colours as variables.

    Parameters
    ----------
    draw
        The figure.
    width
        Inches at which letters have the size of the page's.
    name
        Makes the identifiers within the drawing unlike those of others on the page.
    title
        What to tell those who cannot see it.
    """
    text = _encode(draw, PAGE, width, "svg", name).decode()
    text = text[text.index("<svg") :]
    size = re.search(r'width="([0-9.]+)pt" height="[0-9.]+pt"', text)
    if size is None:
        raise AssertionError(text[:200])
    points = float(size[1])  # less than asked for where a figure would only be blown up
    head = f'role="img" aria-label="{title}" style="max-width:{points * 96 / 72:.0f}px"'
    text = text.replace(size[0], head, 1)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace('id="', f'id="{name}-').replace('"#', f'"#{name}-').replace("url(#", f"url(#{name}-")
    for key, color in variables(PAGE).items():
        text = text.replace(color, f"var(--{key})")
    return text


def save(draw: Draw, form: str) -> bytes:
    """Draw for paper: ``svg`` or ``png``, wide, light."""
    return _encode(draw, LIGHT, WIDE, form, "figure")


def _encode(draw: Draw, palette: Palette, width: float, form: str, salt: str) -> bytes:
    style: Any = {
        "font.family": "sans-serif", "font.size": 9.0, "axes.titlesize": 9.5, "axes.labelsize": 9.0, "legend.fontsize": 9.0,
        "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "axes.spines.top": False, "axes.spines.right": False,
        "text.color": palette.ink, "axes.labelcolor": palette.muted, "axes.titlecolor": palette.ink,
        "xtick.color": palette.grid, "ytick.color": palette.grid, "xtick.labelcolor": palette.muted,
        "ytick.labelcolor": palette.muted, "axes.edgecolor": palette.grid, "grid.color": palette.grid, "grid.linewidth": 0.6,
        "axes.grid": True, "axes.axisbelow": True, "legend.frameon": False, "svg.fonttype": "none", "svg.hashsalt": salt,
        "lines.linewidth": 1.6, "figure.constrained_layout.use": True,
        "text.parse_math": False,  # a dollar in a name is a dollar
    }  # fmt: skip
    file = io.BytesIO()
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in letters that no font here has
        figure = draw(palette, width)
        metadata = {"Date": None} if form == "svg" else {}
        figure.savefig(file, format=form, dpi=150, metadata=metadata, transparent=palette is PAGE, facecolor=palette.paper)
    return file.getvalue()


# --- figures ---------------------------------------------------------------------------------------------------------


def curves(lines: Sequence[Curve], label: str, *, share: bool, height: float = 3.2) -> Draw:
    """Draw lines over the rounds, with their intervals as bands; values far beyond all others are cut off and told."""
    top = None if share else ceiling([line.values for line in lines])

    def draw(palette: Palette, width: float) -> Figure:
        figure, axes = _axes(width, height if width > SMALL else 1.6)
        for line in lines:
            color = palette.series[line.color % len(palette.series)]
            if len(line.low):
                axes.fill_between(line.rounds, line.low, line.high, color=color, alpha=0.16, linewidth=0)
            single = "o" if len(line.rounds) == 1 else None
            dashes = "--" if line.dashed else "-"
            axes.plot(line.rounds, line.values, dashes, color=color, label=_label(line.name), marker=single)
            if top is not None:
                beyond = [number for number, value in zip(line.rounds, line.values, strict=True) if value > top]
                axes.plot(beyond, [top] * len(beyond), "^", color=color, markersize=5, clip_on=False)
        if top is not None:
            low = min(value for line in lines for value in line.values)
            axes.set_ylim(low - 0.05 * (top - low), top)
            many = sum(value > top for line in lines for value in line.values)
            most = max(value for line in lines for value in line.values)
            axes.set_title(f"▲ cut off: {many} above {top:.3g}, largest {most:.3g}", loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if share:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axes.set_ylim(max(-0.03, axes.get_ylim()[0]), min(1.03, axes.get_ylim()[1]))
        if width > SMALL:
            axes.set_xlabel("round")
            axes.set_ylabel(_label(label))
            _legend(figure, axes, 2 if width < WIDE else 6)
        else:
            axes.set_title(_label(label, 20), loc="left")
        return figure

    return draw


def ceiling(lines: Sequence[Sequence[float]]) -> float | None:
    """Choose where to cut lines off so that a few spikes do not flatten the rest; none where nothing is cut.

    Nine tenths of each line stay, and where it begins; only what is more than eight times as high is cut.
    """
    known = [[value for value in line if math.isfinite(value)] for line in lines]
    known = [line for line in known if line]
    if not known:
        return None
    low, high = min(map(min, known)), max(map(max, known))
    usual = max(max(sorted(line)[int(0.9 * (len(line) - 1))], _beginning(line)) for line in known)
    return low + 1.3 * (usual - low) if high - low > 8 * (usual - low) > 0 else None


def _beginning(line: Sequence[float]) -> float:
    """Return where a line begins; where its first value is a spike itself, its second one."""
    return line[1] if len(line) > 1 and line[0] > 8 * line[1] else line[0]


def bars(heights: Sequence[float], outline: Sequence[float], names: Sequence[str], title: str) -> Draw:
    """Draw a silo's share of each class as bars, and that of all silos as a line over them."""

    def draw(palette: Palette, width: float) -> Figure:
        longest = min(10, max(map(len, names), default=0))
        figure, axes = _axes(width, (1.35 if width == SMALL else 2.6) + 0.05 * longest)
        places = np.arange(len(heights))
        axes.bar(places, heights, width=0.9, color=palette.series[0])
        axes.stairs(outline, np.arange(len(outline) + 1) - 0.5, baseline=None, color=palette.ink, linewidth=0.9)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_locator(MaxNLocator(3))
        room = (width - 0.5) * 72 / 7.5  # names of 6 points that stand on end
        every = max(1, math.ceil(len(names) / room))
        upright = max(map(len, names), default=0) > 1
        axes.set_xticks(places[::every], [_label(name, 10) for name in names[::every]], fontsize=6, rotation=90 * upright)
        axes.tick_params(axis="x", length=0, pad=1)
        axes.grid(visible=False, axis="x")
        axes.set_title(_label(title, 20 if width == SMALL else 80), loc="left")
        return figure

    return draw


def gains(rows: Sequence[Gain], label: str) -> Draw:
    """Draw differences in percentage points; better is to the right, and what the test is sure of has a colour."""

    def draw(palette: Palette, width: float) -> Figure:
        figure, axes = _axes(width, 0.9 + 0.26 * len(rows))
        for place, row in enumerate(rows):
            color = palette.muted if not row.sure else palette.series[2] if row.difference > 0 else palette.series[4]
            axes.plot([100 * row.low, 100 * row.high], [place, place], color=color, linewidth=2)
            axes.plot([100 * row.difference], [place], "o", color=color, markersize=5)
        axes.axvline(0, color=palette.ink, linewidth=0.8)
        axes.set_yticks(range(len(rows)), [_label(row.name, 28 if width > NARROW else 16) for row in rows])
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
        figure, axes = _axes(side, height)
        for cell in cells:
            box = Rectangle(
                (cell.column - 0.5, cell.row - 0.5), 1, 1, facecolor=palette.series[0], alpha=cell.shade, linewidth=0
            )
            axes.add_patch(box)
            if cell.word:
                size = min(9.0, side * 72 / (len(columns) + 3) / 2.4)
                axes.text(cell.column, cell.row, cell.word, ha="center", va="center", color=palette.ink, fontsize=size)
        many = len(columns) > 12
        labels_x, labels_y = [_label(name, 16) for name in columns], [_label(name, 16) for name in rows]
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
        figure, axes = _axes(min(width, 4.2), 3.4)
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


def phases(rounds: Sequence[int], seconds: Mapping[str, Sequence[float]]) -> Draw:
    """Draw the seconds of each round, stacked by phase."""

    def draw(palette: Palette, width: float) -> Figure:
        figure, axes = _axes(width, 2.6)
        bottom = np.zeros(len(rounds))
        for index, (phase, values) in enumerate(seconds.items()):
            color = _phase_color(palette, phase, index)
            axes.bar(rounds, values, bottom=bottom, width=0.8, color=color, label=phase)
            bottom += np.asarray(values)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(visible=False, axis="x")
        axes.set_xlim(rounds[0] - 0.7, rounds[-1] + 0.7)
        axes.set_xlabel("round")
        axes.set_ylabel("seconds")
        _legend(figure, axes, 3 if width < WIDE else 8)
        return figure

    return draw


def timeline(ranks: Sequence[RankPhases], close: float) -> Draw:
    """Draw what each rank does in one round: workers up to the close of the round, then the servers.

    Parameters
    ----------
    ranks
        Seconds of each rank by phase.
    close
        Seconds from the plan to the tally.
    """

    def draw(palette: Palette, width: float) -> Figure:
        figure, axes = _axes(width, 1.0 + 0.22 * len(ranks))
        told: set[str] = set()
        for place, rank in enumerate(ranks):
            begin = 0.0 if rank.broadcast or rank.evaluate or rank.train else close
            steps = ("broadcast", "evaluate", "train") if begin == 0.0 else ("reduce", "apply")
            for phase in steps:
                seconds = getattr(rank, phase)
                color = _phase_color(palette, phase, 0)
                axes.barh([place], [seconds], left=begin, height=0.72, color=color, label="" if phase in told else phase)
                told.add(phase)
                begin += seconds
        axes.axvline(close, color=palette.ink, linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(ranks)), [rank.role for rank in ranks])
        axes.set_ylim(len(ranks) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("seconds from the plan; dotted: the tally")
        _legend(figure, axes, 3 if width < WIDE else 8)
        return figure

    return draw


def participation(names: Sequence[str], states: Sequence[Sequence[str]]) -> Draw:
    """Draw for each silo (row) and round (column) whether its update counted, was refused, or was not asked for."""

    def draw(palette: Palette, width: float) -> Figure:
        figure, axes = _axes(width, 1.0 + 0.2 * len(names))
        colors = {"accepted": palette.series[2], "refused": palette.series[4], "not asked": palette.grid}
        told: set[str] = set()
        for place, row in enumerate(states):
            for word, color in colors.items():
                at = [number for number, state in enumerate(row, 1) if state == word]
                if at:
                    axes.barh([place] * len(at), [0.86] * len(at), left=[n - 0.43 for n in at], height=0.8, color=color,
                              label="" if word in told else word)  # fmt: skip
                    told.add(word)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_yticks(range(len(names)), [_label(name, 28 if width > NARROW else 16) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(0.4, max((len(row) for row in states), default=1) + 0.6)
        axes.grid(visible=False)
        axes.set_xlabel("round")
        _legend(figure, axes, 3)
        return figure

    return draw


def _phase_color(palette: Palette, phase: str, index: int) -> str:
    colors = dict(zip(PHASES, (1, 3, 0, 7, 2, 6), strict=True))
    return palette.grid if phase == "other" else palette.series[colors.get(phase, index)]


def _label(name: str, most: int = 28) -> str:
    """Make a name fit beside a drawing: escaped, and cut where it is long."""
    text = shown(name)
    widths = accumulate(2 if east_asian_width(letter) in "WF" else 1 for letter in text)
    inside = sum(total < most for total in widths)
    text = text if len(text) <= inside + 1 else f"{text[:inside]}…"
    return f" {text}" if text.startswith("_") else text  # what begins with _ is left out of legends


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def _legend(figure: Figure, axes: Axes, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper left", ncols=columns)
