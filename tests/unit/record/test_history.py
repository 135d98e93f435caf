from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from silofold.errors import RunFolderError
from silofold.record import history

if TYPE_CHECKING:
    from pathlib import Path

    from silofold.messages import Summary


@pytest.fixture
def rounds(summary: Summary) -> list[Summary]:
    """Three rounds, the second void and without a loss."""
    void = replace(summary, round=2, void=True, accepted=[], train_loss=None, accuracy=None)
    return [summary, void, replace(summary, round=3)]


@pytest.fixture
def path(tmp_path: Path, rounds: list[Summary]) -> Path:
    """A history of those rounds."""
    path = tmp_path / "metrics.jsonl"
    record = history.History(path, rounds[:1])
    for summary in rounds[1:]:
        record.append(summary)
    record.close()
    return path


def test_round_trip(path: Path, rounds: list[Summary]) -> None:
    assert history.read(path) == rounds
    assert path.read_bytes().count(b"\n") == 3


def test_a_line_is_on_disk_at_once(path: Path, summary: Summary) -> None:
    record = history.History(path, [])
    record.append(summary)
    assert history.read(path) == [summary]
    record.close()


def test_rounds_after_the_checkpoint_are_dropped(path: Path, rounds: list[Summary]) -> None:
    record = history.History(path, rounds[:1])
    assert history.read(path) == rounds[:1]
    record.append(rounds[2])
    record.close()
    assert history.read(path) == [rounds[0], rounds[2]]


@pytest.mark.parametrize("missing", [1, 2, 100])
def test_a_last_line_that_was_cut_short_is_left_out(path: Path, rounds: list[Summary], missing: int) -> None:
    path.write_bytes(path.read_bytes()[:-missing])
    assert history.read(path) == rounds[:2]


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"not json", b'{"round": 1}', b'{"round": "\xff"}', b"\x00\x00\x00"]
)  # fmt: skip
def test_a_damaged_line_in_the_middle(path: Path, line: bytes) -> None:
    lines = path.read_bytes().split(b"\n")
    lines[1] = line
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl, line 2: not the summary of a round: "):
        history.read(path)


def test_an_empty_and_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert history.read(tmp_path / "empty") == []
    with pytest.raises(RunFolderError, match=r"nowhere: No such file or directory$"):
        history.read(tmp_path / "nowhere")
