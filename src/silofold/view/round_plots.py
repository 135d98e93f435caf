"""The figures of how a run went, round by round, by matplotlib (the extra ``report``), from plain numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from silofold.view.drawing import NARROW, SMALL, WIDE, add_legend, begin_axes, fitted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

    from silofold.core.summary import RankPhases
    from silofold.view.drawing import Draw, Palette

PHASES = ("broadcast", "evaluate", "train", "wait", "reduce", "apply")


class Curve(NamedTuple):
    """One line over the rounds; an interval where there is one."""

    name: str
    rounds: Sequence[int]
    values: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dashed: bool = False
    color: int = 0


def curves(lines: Sequence[Curve], label: str, *, share: bool, height: float = 3.2) -> Draw:
    """Draw lines over the rounds, with their intervals as bands; values far beyond all others are cut off and told."""
    top = None if share else ceiling([line.values for line in lines])

    def draw(palette: Palette, width: float) -> Figure:
        figure, axes = begin_axes(width, height if width > SMALL else 1.6)
        for line in lines:
            color = palette.series[line.color % len(palette.series)]
            if len(line.low):
                axes.fill_between(line.rounds, line.low, line.high, color=color, alpha=0.16, linewidth=0)
            single = "o" if len(line.rounds) == 1 else None
            dashes = "--" if line.dashed else "-"
            axes.plot(line.rounds, line.values, dashes, color=color, label=fitted(line.name), marker=single)
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
            axes.set_ylabel(fitted(label))
            add_legend(figure, axes, 2 if width < WIDE else 6)
        else:
            axes.set_title(fitted(label, 20), loc="left")
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


def phases(rounds: Sequence[int], seconds: Mapping[str, Sequence[float]]) -> Draw:
    """Draw the seconds of each round, stacked by phase."""

    def draw(palette: Palette, width: float) -> Figure:
        figure, axes = begin_axes(width, 2.6)
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
        add_legend(figure, axes, 3 if width < WIDE else 8)
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
        figure, axes = begin_axes(width, 1.0 + 0.22 * len(ranks))
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
        add_legend(figure, axes, 3 if width < WIDE else 8)
        return figure

    return draw


def participation(names: Sequence[str], states: Sequence[Sequence[str]]) -> Draw:
    """Draw for each silo (row) and round (column) whether its update counted, was refused, or was not asked for."""

    def draw(palette: Palette, width: float) -> Figure:
        figure, axes = begin_axes(width, 1.0 + 0.2 * len(names))
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
        axes.set_yticks(range(len(names)), [fitted(name, 28 if width > NARROW else 16) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(0.4, max((len(row) for row in states), default=1) + 0.6)
        axes.grid(visible=False)
        axes.set_xlabel("round")
        add_legend(figure, axes, 3)
        return figure

    return draw


def _phase_color(palette: Palette, phase: str, index: int) -> str:
    colors = dict(zip(PHASES, (1, 3, 0, 7, 2, 6), strict=True))
    return palette.grid if phase == "other" else palette.series[colors.get(phase, index)]
