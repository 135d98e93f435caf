"""A figure as a page or a file shows it: palettes, widths, SVG and PNG, by matplotlib (the extra ``report``).

On a page its colours are variables of the style sheet, so that one drawing serves light, dark and print.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from unicodedata import east_asian_width

import matplotlib as mpl
from matplotlib.figure import Figure

from silofold.core.console import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE, NARROW, SMALL = 9.4, 3.5, 2.1
"""Widths in inches: of a desktop, of a telephone, of one of many."""


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


def fitted(name: str, most: int = 28) -> str:
    """Make a name fit beside a drawing: escaped, and cut where it is long."""
    text = shown(name)
    widths = accumulate(2 if east_asian_width(letter) in "WF" else 1 for letter in text)
    inside = sum(total < most for total in widths)
    text = text if len(text) <= inside + 1 else f"{text[:inside]}…"
    return f" {text}" if text.startswith("_") else text  # what begins with _ is left out of legends


def begin_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Begin a figure of one plot."""
    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def add_legend(figure: Figure, axes: Axes, columns: int) -> None:
    """Put the names of what is drawn above the plot."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper left", ncols=columns)
