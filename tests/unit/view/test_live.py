from __future__ import annotations

import pytest
from msgspec.structs import replace

from records import summary
from silofold.view import live, text


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_no_line_is_wider_than_the_terminal(width: int, count: int) -> None:
    rounds = [summary(number, accuracy=number / 10) for number in range(1, count + 1)]
    lines = live.lines(live.State(rounds, 10, 30.0, 2.0, late=["worker_3"] * 9), width)
    assert max(map(len, lines)) <= width
    assert len(lines) == (2 if count == 0 else 8)


def test_what_is_said() -> None:
    rounds = [summary(1, accuracy=0.25), summary(2, void=True), summary(3, accuracy=0.75)]
    said = "\n".join(live.lines(live.State(rounds, 8, 90.0, 1.0, late=["worker_1"]), 200))
    for story in (
        "rounds   2/8", " 25%  1 min 30 s, about 23.0 s left",
        "accuracy 75.00% [31.9%, 68.1%] of 20, best 75.00% in round 3",
        "▁▅█", "loss     train 0.6667 █▃▁  test 1.5000 ▄▄▄", "seconds  4.00: train 3.00  evaluate 0.20",
        "bytes    1 kB down, 2 kB up in the last round, 9 kB in all", "slowest  worker_0 3.00 s, fastest worker_1 1.00 s",
        "left out round 3: silo_0 (out of time)", "late     worker_1",
    ):  # fmt: skip
        assert story in said, said


def test_names_forge_no_line() -> None:
    silos = [replace(summary(1).silos[0], name="\x1b[2Jsilo\nsilofold: error: forged")]
    lines = live.lines(live.State([summary(1, silos=silos)], 8, 3.0, 3.0), 200)
    assert all(line.isprintable() for line in lines)
    assert any("\\x1b[2Jsilo\\nsilofold" in line for line in lines)


def test_what_is_said_before_the_first_round() -> None:
    story = "the ranks start"
    assert f"now      {story}" in live.lines(live.State([], 8, 3.0, 3.0, now=story), 200)
    assert story not in "".join(live.lines(live.State([summary(1)], 8, 3.0, 3.0, now=story), 200))


def test_time_that_is_left() -> None:
    assert live.left(live.State([], 8, 0.0, 0.0)) is None
    rounds = [summary(number) for number in (1, 2, 3)]
    assert live.left(live.State(rounds, 8, 12.0, 0.0)) == 20.0
    assert live.left(live.State(rounds, 8, 30.0, 100.0)) == 16.0  # a round that takes too long counts as about to end
    assert live.left(live.State(rounds, 3, 12.0, 100.0)) == 0.0


def test_words() -> None:
    assert (text.percent(0.12345), text.percent(None), text.points(0.1), text.points(-0.02)) == (
        "12.35%",
        "n/a",
        "+10.00",
        "-2.00",
    )
    assert (text.size(999), text.size(1.5e6), text.span(61), text.span(7200), text.chance(1e-5)) == (
        "999 B", "1.5 MB", "1 min 01 s", "2 h 00 min", "< 0.0001",
    )  # fmt: skip
    assert text.sparkline([None, 0.0, 0.5, 1.0], 2) == "▁█"
    assert text.table(["a", "bb"], [["x", "1"]]) == "a  bb\n-  --\nx   1"
