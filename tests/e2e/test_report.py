"""The report of real runs: its numbers are those of the record, and a real browser finds nothing to complain of."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from PIL import Image

import browser
import mpirun
from mpirun import silofold as command
from records import rounds

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def runs(tiny: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A federated run in which not every silo trains in every round, and both baselines."""
    folder = tmp_path_factory.mktemp("runs")
    ended = mpirun.train(4, recipe, tiny, folder / "federated", "rounds.count=4", "cohort.name=sample", "cohort.size=4")
    assert ended.code == 0, ended
    names = {"local": "<b>local", "central": "central"}  # a name may hold what HTML would take for a tag
    for kind, name in names.items():
        ended = command("baseline", kind, folder / "federated", "--out", folder / name)
        assert ended.code == 0, ended
    return {name: folder / name for name in ("federated", *names.values())}


@pytest.fixture(scope="module")
def page(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    ended = command("report", *runs.values(), "--out", folder / "report.html", "--figures", folder / "figures")
    assert ended.code == 0, ended
    return folder / "report.html"


class Numbers(HTMLParser):
    """What the page says, by table, run and round: every cell that names a key of the record."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
        self.shown: list[tuple[str, str, str]] = []
        self._place = ["", "", ""]
        self._open: tuple[str, str] | None = None
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append((tag, named))
        if tag == "table":
            self._place = [named.get("id") or named.get("class") or "", named.get("data-run") or "", ""]
        if tag == "tr":
            self._place[1] = named.get("data-run") or self._place[1]
            self._place[2] = named.get("data-round") or ""
        if key := named.get("data-key"):
            table, run, number = self._place
            self.found.setdefault((table, run, number), []).append((key, named.get("data-value") or ""))
            self._open = (key, named.get("data-value") or "")

    def handle_data(self, data: str) -> None:
        if self._open and data.strip():
            self.shown.append((*self._open, data.strip()))
            self._open = None


def read(page: Path) -> Numbers:
    numbers = Numbers()
    numbers.feed(page.read_text(encoding="utf-8"))
    return numbers


def test_every_number_is_that_of_the_record(page: Path, runs: dict[str, Path]) -> None:
    found = read(page).found
    for name, run in runs.items():
        entries = rounds(run)
        assert [number for table, of, number in found if (table, of) == ("rounds", name)] == ["1", "2", "3", "4"]
        for entry in entries:
            said = dict(found["rounds", name, str(entry["round"])])
            for key in ("accuracy", "test_loss", "train_loss"):
                assert float(said[key]) == entry[key]
            assert [float(end) for end in said["interval"].split()] == [entry["accuracy_low"], entry["accuracy_high"]]
            assert float(said["total"]) == entry["seconds"]["total"]
            assert int(said["test_examples"]) == entry["test_examples"]
            assert said["model_sha256"] == entry["model_sha256"]
        last = dict(found["runs", name, ""])
        assert float(last["accuracy"]) == entries[-1]["accuracy"]
        assert int(last["test_examples"]) == entries[-1]["test_examples"]
    silos = [float(value) for _, value in found["silos", "", ""]]
    last_rounds = [rounds(run)[-1]["silos"] for run in runs.values()]
    assert silos == [one["accuracy"] for row in zip(*last_rounds, strict=True) for one in row]
    costs = [int(value) for _, value in found["costs", "", ""]]
    wanted = [sum(entry[key] for entry in rounds(run)) for run in runs.values() for key in ("bytes_down", "bytes_up")]
    assert costs == wanted


def test_what_is_shown_is_the_number_rounded(page: Path) -> None:
    shown = read(page).shown
    assert len(shown) > 80
    for key, value, words in shown:
        if key in {"accuracy", "silo_accuracy"}:
            assert words == f"{float(value):.2%}"
        if key.endswith("_loss"):
            assert words == f"{float(value):.4f}"


def test_compare_says_the_same(runs: dict[str, Path], tmp_path: Path) -> None:
    ended = command("compare", *runs.values(), "--out", tmp_path / "compare.json")
    assert ended.code == 0, ended
    found = json.loads((tmp_path / "compare.json").read_text())
    accuracies = {name: rounds(run)[-1]["accuracy"] for name, run in runs.items()}
    assert {run["name"]: run["measures"]["pooled"]["accuracy"] for run in found["runs"]} == accuracies
    for pair in found["first_against"]:
        assert pair["same_images"]
        difference = accuracies["federated"] - accuracies[pair["name"]]
        assert pair["pooled"]["difference"] == pytest.approx(difference, abs=1e-12)
        assert pair["pooled"]["only_second"] - pair["pooled"]["only_first"] == round(difference * 75)
        assert sum(silo["only_second"] for silo in pair["silos"]) == pair["pooled"]["only_second"]
        assert f"{100 * difference:+.2f} points" in ended.out


def test_nothing_leaves_the_page_and_no_image_is_in_it(page: Path) -> None:
    tags = read(page).tags
    assert not [tag for tag, _ in tags if tag in {"script", "iframe", "object", "img", "image", "b"}]
    links = [value for _, named in tags for key, value in named.items() if key in {"src", "href", "xlink:href"} and value]
    assert not [link for link in links if not link.startswith(("#", "data:,"))]
    assert "url(http" not in page.read_text(encoding="utf-8")
    assert {"accuracy.svg", "accuracy.png", "cross.svg", "timeline.png"} <= {
        f.name for f in (page.parent / "figures").iterdir()
    }
    with Image.open(page.parent / "figures" / "accuracy.png") as image:
        assert image.size[0] > 1000


def test_images_only_when_asked(runs: dict[str, Path], tmp_path: Path) -> None:
    ended = command("report", runs["federated"], "--out", tmp_path / "report.html", "--images")
    assert ended.code == 0, ended
    images = [named for tag, named in read(tmp_path / "report.html").tags if tag == "img"]
    last = rounds(runs["federated"])[-1]
    wrong = round(last["test_examples"] * (1 - last["accuracy"]))
    assert len(images) == min(24, wrong) > 0
    assert all((named["src"] or "").startswith("data:image/png;base64,") for named in images)


@pytest.mark.skipif(
    browser.CHROMIUM is None or importlib.util.find_spec("playwright") is None, reason="no Chromium, or no playwright"
)
def test_a_real_browser_has_no_complaint(page: Path, tmp_path: Path) -> None:
    seen = browser.look(page, tmp_path)
    assert seen.faults == []
    assert [url for url in seen.requests if not url.startswith(("file:", "data:"))] == []
    assert set(seen.overflow.values()) == {0}
    for shot in seen.shots:
        with Image.open(shot) as image:
            colors = Counter(image.convert("L").tobytes())
            assert len(colors) > 50
            background = colors.most_common(1)[0][0]
            assert background > 240 if "light" in shot.name else background < 30
