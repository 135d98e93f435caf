"""The ring on disk: what is noted is there at once, the last events stay, and a fault of the file costs the trace alone."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from silofold.core import trace
from silofold.core.errors import RunFolderError

if TYPE_CHECKING:
    from pathlib import Path


def test_what_was_noted_is_on_disk_before_the_rank_waits(tmp_path: Path) -> None:
    ring = trace.Ring(tmp_path / "t", 3)
    ring.note(trace.SAYS, 2, 5, 7)
    ring.note(trace.WAITS, 0)
    ring.flush()
    first, second = trace.read(tmp_path / "t")
    assert first[1:] == (1, 5, 7, 3, trace.SAYS, 2)
    assert second[1:] == (2, -1, 7, 3, trace.WAITS, 0)  # the round goes on
    assert abs(first.at - time.time()) < 60


def test_the_last_events_stay(tmp_path: Path) -> None:
    ring = trace.Ring(tmp_path / "t", 0)
    for number in range(1, 2 * trace.SLOTS + 11):
        ring.note(trace.HEARS, 0, 1, number)
    ring.flush()
    found = trace.read(tmp_path / "t")
    assert [event.round for event in found] == list(range(trace.SLOTS + 11, 2 * trace.SLOTS + 11))


def test_the_next_job_goes_on_with_it(tmp_path: Path) -> None:
    for job in (1, 2):
        ring = trace.Ring(tmp_path / "t", 0)
        ring.note(trace.SAYS, 0, 1, job)
        ring.close()
    assert [event.number for event in trace.read(tmp_path / "t")] == [1, 2]


@pytest.mark.parametrize("kind", ["fifo", "folder", "link", "device"])
def test_what_is_no_file_ends_the_trace_and_nothing_else(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "t"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else tmp_path / "other")
    ring = trace.Ring(path, 0)
    for _ in range(100):
        ring.note(trace.SAYS, 0)
    ring.flush()
    ring.close()
    assert not (tmp_path / "other").exists()


def test_a_full_disk_ends_the_trace_and_nothing_else(tmp_path: Path) -> None:
    ring = trace.Ring(tmp_path / "t", 0)
    ring._file = os.open("/dev/full", os.O_RDWR)
    ring.note(trace.SAYS, 0)
    ring.note(trace.SAYS, 0)
    ring.flush()
    assert ring._file < 0


def test_damaged_traces_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "t"
    for data in (b"", b"x", os.urandom(24 * 40 + 5), b"\xff" * 24 * trace.SLOTS):
        path.write_bytes(data)
        trace.read(path)
    path.write_bytes(b"x" * (24 * trace.SLOTS + 1))
    with pytest.raises(RunFolderError, match="expected the trace of a rank"):
        trace.read(path)
