from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from silofold.core import guarded

if TYPE_CHECKING:
    from pathlib import Path


def test_a_regular_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert guarded.read(path, 5) == b"12345"
    with pytest.raises(guarded.UnfitError, match="more than"):
        guarded.read(path, 4)


@pytest.mark.timeout(5)
def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name in ("fifo", "link", "."):
        with pytest.raises((guarded.UnfitError, IsADirectoryError)):
            guarded.read(tmp_path / name, 5)
    with pytest.raises(FileNotFoundError):
        guarded.read(tmp_path / "none", 5)


@pytest.mark.parametrize("text", [b"[" * 10**6, b'{"a":' * 10**5, b"\xff", b"nan", b"{", b'"word"', b""])
def test_what_is_no_such_json_is_one_kind_of_fault(text: bytes) -> None:
    with pytest.raises(guarded.UnfitError):
        guarded.decode(text, list[int])


def test_json_is_decoded() -> None:
    assert guarded.decode(b"[1, 2]", list[int]) == [1, 2]
    assert guarded.depth(b'{"a": [{"b": [1]}, [2]]}') == 4


def test_millions_of_brackets_are_counted_at_once() -> None:
    text = b'{"schema": 1, "x": [' + b"[]," * 2**24 + b"[[[]]]]}"
    began = time.process_time()
    assert guarded.depth(text) == 5
    assert time.process_time() - began < 4
