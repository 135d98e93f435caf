from __future__ import annotations

import os
import threading

import pytest

from silofold.commands.launching import relay
from silofold.core import console

NOT_FOUND = """\
[vm:29579] Local abort before MPI_INIT completed completed successfully
*** An error occurred in MPI_Init_thread
--------------------------------------------------------------------------
A requested component was not found, or was unable to be opened.  This
means that this component is either not installed.

  Host:      vm
  Framework: pml
  Component: nope
--------------------------------------------------------------------------
--------------------------------------------------------------------------
Another one, of no use.
--------------------------------------------------------------------------
"""
RAISED = """\
Traceback (most recent call last):
  File "x.py", line 1, in <module>
    import numpy
ImportError: libblas.so: cannot open shared object file
--------------------------------------------------------------------------
prterun detected that one or more processes exited with non-zero status
--------------------------------------------------------------------------
"""


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            NOT_FOUND,
            "A requested component was not found, or was unable to be opened. Host: vm, Framework: pml, Component: nope",
        ),
        (RAISED, "ImportError: libblas.so: cannot open shared object file"),
        ("*** one\n*** two\n", "*** one *** two"),
        ("", ""),
        ("Traceback (most recent call last)", ""),
    ],
)
def test_many_lines_of_a_launcher_become_one(words: str, line: str) -> None:
    assert relay.essence(words) == line


def test_a_line_is_bounded() -> None:
    assert len(relay.essence("word " * 10**5)) <= relay.SHOWN + 2


def test_what_is_said_is_kept_back_until_a_rank_is_up() -> None:
    words = relay.Relay()
    assert words.take(b"[vm] a warning\nsilofold: rank 0 is") == b""
    assert not words.lived
    assert words.take(b" up\nround 1\n") == b"[vm] a warning\nround 1\n"
    assert words.lived
    assert words.take(b"\xff") == b"\xff"


@pytest.mark.parametrize(
    ("words", "spoken"),
    [
        (("round 1\n", "round 2\n"), False),
        (("silofold: error: the ", "loss [diverged-rounds]\n"), True),
        (("round 1\nsilo", "fold: err", "or: the loss [diverged-rounds]\n"), True),
        (("silofold: rank 3: internal error\nTraceback\n",), True),
    ],
)
def test_whether_a_rank_has_said_why_it_ends(words: tuple[str, ...], *, spoken: bool) -> None:
    told = relay.Relay()
    told.take(f"{console.UP}\n".encode())
    assert not told.spoken
    for part in words:
        told.take(part.encode())
    assert told.spoken is spoken


def test_what_is_said_is_not_kept_back_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    words = relay.Relay()
    assert words.take(b"x" * relay.KEPT) == b"x" * relay.KEPT
    monkeypatch.setattr(relay, "KEPT_FOR", 0.0)
    assert relay.Relay().take(b"slow") == b"slow"


def test_a_stream_goes_on_when_nobody_reads_it() -> None:
    source, sink = os.pipe()
    seen: list[bytes] = []

    def broken(data: bytes) -> None:
        seen.append(data)
        raise BrokenPipeError

    thread = threading.Thread(target=relay.stream, args=(source, bytes, broken))
    thread.start()
    for _ in range(3):
        os.write(sink, b"x" * 70000)
    os.close(sink)
    thread.join(20)
    os.close(source)
    assert not thread.is_alive()
    assert sum(map(len, seen)) == 210000


def test_lines_of_any_bytes() -> None:
    source, sink = os.pipe()
    os.write(sink, b"caf\xe9\nround 1\nlast")
    os.close(sink)
    assert list(relay.lines(source, bytes)) == ["caf\ufffd", "round 1", "last"]
    os.close(source)
