from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import msgspec
import pytest
from msgspec.structs import replace

from silofold.core.errors import RunFolderError
from silofold.record import history

if TYPE_CHECKING:
    from pathlib import Path

    from silofold.core.summary import Summary


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
    other = msgspec.structs.replace(rounds[1], accuracy=0.75)
    record.append(other)
    record.close()
    assert history.read(path) == [rounds[0], other]


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


@pytest.mark.usefixtures("rounds")
def test_rounds_that_do_not_follow_each_other(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    for wrong in ([lines[0], lines[2]], [lines[0], lines[0]], [lines[1]]):
        path.write_bytes(b"".join(wrong))
        with pytest.raises(RunFolderError, match=r"metrics\.jsonl, line [12]: found round [123], expected round [12]$"):
            history.read(path)


@pytest.mark.timeout(20)
def test_what_is_no_file_of_rounds(path: Path) -> None:
    path.write_bytes(b'{"round":' * 10**5 + b"\n")
    with pytest.raises(RunFolderError, match="nested more than"):
        history.read(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RunFolderError, match="no regular file"):
        history.read(path)


@pytest.mark.parametrize("removed", [True, False])
def test_a_file_that_is_removed_or_replaced_under_the_job_is_noticed(
    path: Path, rounds: list[Summary], *, removed: bool
) -> None:
    record = history.History(path, rounds[:1])
    record.check()
    path.unlink()
    if not removed:
        path.write_bytes(b"")
    for see in (record.check, lambda: record.append(rounds[1])):
        with pytest.raises(RunFolderError, match=r"metrics\.jsonl: was removed or replaced") as caught:
            see()
        assert (caught.value.id, caught.value.exit_code) == ("run-vanished", 2)
    record.close()


def test_a_full_disk_can_be_resumed(path: Path, rounds: list[Summary], monkeypatch: pytest.MonkeyPatch) -> None:
    record = history.History(path, rounds[:1])

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl: No space left on device$") as caught:
        record.append(rounds[1])
    assert caught.value.exit_code == 75
    record.close()


def test_an_empty_and_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert history.read(tmp_path / "empty") == []
    with pytest.raises(RunFolderError, match=r"nowhere: No such file or directory$"):
        history.read(tmp_path / "nowhere")
