"""The page on runs made by hand: empty test splits, hostile names, colours that say what the test says."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from contextlib import nullcontext
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from looks import look
from records import summary
from silofold.commands import report
from silofold.commands.results import pairs as compared
from silofold.commands.results import tables
from silofold.core.predictions import TOP

plots = pytest.importorskip("silofold.view.plots")
page = pytest.importorskip("silofold.view.page")
round_plots = pytest.importorskip("silofold.view.round_plots")
shown_as = pytest.importorskip("silofold.view.drawing")
figures = pytest.importorskip("silofold.commands.results.figures")

if TYPE_CHECKING:
    from collections.abc import Sequence

    from silofold.commands.results.looks import Look

HOSTILE = (
    "$x_{", "$\\frac{1}{0}$", "<script>alert(1)</script>", "\x1b[31mred", "north\nsilofold: error: forged", "\u202egnp.exe",
    "_private", "名前", "x" * 300, "a & b \"c\" 'd'", "{{ 7 * 7 }}", "%s %d {0}", "\x00",
)  # fmt: skip
"""Names of silos, classes or runs that someone else chose."""


def written(*looks: Look, figures: bool = False) -> str:
    """Make the page of runs; figures take a while, and few tests need them."""
    content, drawings = report._content(looks, compared.against(looks), images=False, data=None)
    with nullcontext() if figures else mock.patch.object(page.Drawing, "html", lambda drawing: drawing.title):
        text: str = page.render(content | {"command": "silofold report"})
    for drawing in drawings if figures else ():
        ET.fromstring(shown_as.save(drawing.draw, "svg"))  # a figure that is exported is XML  # noqa: S314
    return text


def colours(text: str) -> list[str]:
    """Colours of the gains in the table of silos."""
    return re.findall(r'<td class="(better|worse|)">[+-]', text)


class Words(HTMLParser):
    """All text and tags of a page, apart from its style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.parametrize("sizes", [(20, 0, 20), (0, 0), (0,), (5,)])
def test_silos_without_test_images(sizes: Sequence[int]) -> None:
    right = [[index % 2 == 0 for index in range(size)] for size in sizes]
    nothing = {"accuracy": None, "accuracy_low": None, "accuracy_high": None, "test_loss": None, "test_examples": 0}
    rounds = [summary(number, **(nothing if not any(sizes) else {})) for number in (1, 2, 3)]
    looks = [look(right, name=name, rounds=rounds, matrix=name == "local") for name in ("federated", "local")]
    text = written(*looks, figures=True)
    said = " ".join(Words(text).words)
    assert not re.search(r"\bnan\b", said, re.IGNORECASE)
    if not any(sizes):
        assert "no silo has a test image" in said
        assert "0.00%" not in said
    elif 0 in sizes:
        assert f"n/a: no test image in silo_{sizes.index(0)}" in said
    story = compared.story(looks, compared.against(looks))
    assert "nan" not in story
    assert ("other test images" in story) is False
    assert ("n/a" in story) == (0 in sizes or len(sizes) == 1)


def test_names_are_names() -> None:
    right = [[True, False, True]] * len(HOSTILE)
    looks = [look(right, name=name, silo_names=HOSTILE, classes=HOSTILE) for name in HOSTILE[:6]]
    text = written(*looks)
    found = Words(text)
    assert "script" not in found.tags
    assert "".join(found.words).isprintable() or not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", "".join(found.words))
    for name in (
        "$x_{",
        "<script>alert(1)</script>",
        "{{ 7 * 7 }}",
        "名前",
        "\\x1b[31mred",
        "north\\nsilofold: error: forged",
    ):
        assert name in found.words, name
    story = compared.story(looks, compared.against(looks))
    assert not [line for line in story.splitlines() if line.startswith("silofold")]
    assert "\x1b" not in story
    assert "\u202e" not in story


def test_figures_take_any_name() -> None:
    names = ["$x_{\x1b\n<b>\u202e&\x00", "名前" * 100]
    looks = [look([[True, False]] * 2, name=name, silo_names=names, classes=[*names, "_"]) for name in names]
    written(*looks, figures=True)


def test_each_run_is_in_the_legend() -> None:
    looks = [look([[True, False]], name=name) for name in ("_first", "$second$")]
    figure = figures.figures(looks)["accuracy"].draw(shown_as.LIGHT, shown_as.WIDE)
    (legend,) = figure.legends
    assert [one.get_text().strip() for one in legend.get_texts()] == ["_first", "$second$"]


def test_colour_follows_the_exact_test() -> None:
    """+50 points of 8 images: Newcombe's interval leaves out 0, the exact p is 0.125."""
    first, other = look([[True] * 8]), look([[True] * 4 + [False] * 4], name="other")
    (pair,) = compared.against([first, other])
    assert pair.pooled is not None
    assert pair.pooled.low > 0
    assert pair.pooled.p == pytest.approx(0.125)
    assert colours(written(first, other)) == [""]
    sure, worse = look([[True] * 30]), look([[False] * 30], name="other")
    assert colours(written(sure, worse)) == ["better"]
    assert colours(written(worse, sure)) == ["worse"]


def test_gains_have_the_colours_of_the_table() -> None:
    first, other = look([[True] * 8, [True] * 30]), look([[True] * 4 + [False] * 4, [False] * 30], name="other")
    pairs = compared.against([first, other])
    (drawing,) = figures.gains(first, pairs, ["few", "many"])
    drawn = shown_as.save(drawing.draw, "svg").decode()
    axes = drawing.draw(shown_as.LIGHT, shown_as.WIDE).axes[0]
    assert [line.get_color() for line in axes.get_lines()][:4:2] == [shown_as.LIGHT.muted, shown_as.LIGHT.series[2]]
    assert "few" in drawn


def test_top_five_only_of_more_classes() -> None:
    five, six = ([str(number) for number in range(count)] for count in (TOP, TOP + 1))
    assert "top-5" not in written(look([[True, False]], classes=five))
    assert "top-5" not in compared.story([look([[True, False]], classes=five)], [])
    assert "top-5" in written(look([[True, False]], classes=six))
    assert "top-5" in compared.story([look([[True, False]], classes=six)], [])


def test_bars_have_the_names_of_their_classes() -> None:
    (drawing,) = figures.histograms(look([[True, False]], classes=["cat", "dog", "a very long name"]), [0])
    drawn = shown_as.save(drawing.draw, "svg").decode()
    assert ">cat<" in drawn
    assert ">dog<" in drawn
    assert ">a very lo…<" in drawn


def test_a_spike_does_not_rule_the_loss() -> None:
    usual = [2.0 / number for number in range(1, 21)]
    spiky = [*usual[:9], 500.0, *usual[10:]]
    numbers = range(1, 21)
    calm, wild = ([round_plots.Curve("run", numbers, values)] for values in (usual, spiky))
    assert round_plots.curves(calm, "loss", share=False)(shown_as.LIGHT, shown_as.WIDE).axes[0].get_ylim()[1] > 2.0
    axes = round_plots.curves(wild, "loss", share=False)(shown_as.LIGHT, shown_as.WIDE).axes[0]
    assert 2.0 < axes.get_ylim()[1] < 4.0
    assert axes.get_title(loc="left") == f"▲ cut off: 1 above {axes.get_ylim()[1]:.3g}, largest 500"


@pytest.mark.parametrize(
    ("lines", "cut"),
    [
        ([[2.3, 0.5, 0.1, 0.05, 0.03, 0.02, 0.01]], False),  # where a line begins is no spike
        ([[1.0, 1.0, 1.0, 1.0]], False),
        ([[1.0]], False),
        ([[1.0, 90.0]], False),
        ([[1.0, 0.9, 90.0, 0.8, 0.7]], True),
        ([[1.0, 0.9, 0.8, 0.7], [50.0, 51.0, 52.0, 53.0]], False),  # a whole run that is worse is to be seen
        ([], False),
        ([[]], False),
    ],
)
def test_what_is_cut(lines: list[list[float]], *, cut: bool) -> None:
    assert (round_plots.ceiling(lines) is not None) == cut


def test_a_run_on_other_silos_is_not_paired_by_place() -> None:
    first = look([[True] * 4, [False] * 4], silo_names=["north", "south"])
    other = look([[True] * 4], silo_names=["south"], name="other")
    rows = tables.silo_rows([first, other], [])
    assert [(row["name"], row["shares"][1].accuracy) for row in rows] == [("north", None), ("south", 1.0)]


def test_compare_says_whom_a_test_judges() -> None:
    runs = [look([[True] * 8]), look([[True] * 4 + [False] * 4], name="other")]
    assert "not of two methods" in compared.story(runs, compared.against(runs))
    assert "not of two methods" in written(*runs)
    assert "not of two methods" not in compared.story(runs[:1], [])
