from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, get_args

import msgspec
import pytest

from silofold.core import digest, messages
from silofold.core.messages import (  # fmt: skip
    Alive,
    Applied,
    Broken,
    Evaluation,
    Expel,
    Gone,
    Halt,
    Here,
    Members,
    Moved,
    Over,
    Plan,
    Ready,
    Regroup,
    Replan,
    Reports,
    Saved,
    SavedFile,
    Settled,
    Tally,
)
from silofold.core.reports import Cause, Report, Score, Unscored  # fmt: skip
from silofold.core.summary import Summary  # fmt: skip

if TYPE_CHECKING:
    from silofold.core.messages import AnyMessage

MEMBERS = Members.of((2, 3, 5), 4, 1)
EACH: list[AnyMessage] = [
    Ready("worker_3"),
    Plan(
        4, MEMBERS, (7,), (5,), (1,), (3,), 2**40, 0.5, evaluate=True, checkpoint=False,
        last=True, exit_code=75, expelled=(6,),
    ),
    Evaluation(4, "ab", 0.5, 0.25, (Score(0, 10, 9, 1.5), Score(7, 0, 0, 0.0))),
    Reports(4, 1.5, (Report(0, 10, 2, 20, 3.5, 7, 0.5, finished=True, elements=66_404),)),
    Reports(4, 0.0, (Report(7, 9, 0, 0, 0.0, 0, 0.0, finished=False, elements=0, reason="é"),)),
    Reports(
        4, 0.0, (Report(7, 9, 0, 0, 0.0, 0, 0.0, finished=False, elements=0, reason="é", cause=Cause.RAISED, raised="K x"),)
    ),
    Evaluation(4, "", 0.5, 0.25, (Score(0, 10, 9, float("inf"), 4),), (Unscored(7, Cause.DATA, "why"),)),
    Tally(4, 2, MEMBERS, (5, 0), (1, 1), (10, 1), quorum_met=True),
    Settled(4, 2),
    Moved(4, 1),
    Moved(4, 1, broken="a member died", unsound="not finite"),
    Applied(4, 1, "cd", 0.25, 0.125),
    Saved(3, "server_0", (SavedFile("shard_0.h5", "ef"),), 0.5),
    Alive(),
    Halt(),
    Here(),
    Regroup((0, 2), (1,)),
    Expel(3),
    Over(75, troubled=True),
    Replan(4),
    Broken("model-raised", "what and where"),
    Gone(),
]  # fmt: skip


@pytest.mark.parametrize("message", EACH, ids=lambda message: type(message).__name__)
def test_round_trip(message: AnyMessage) -> None:
    data = messages.encode(message)
    for form in (data, bytearray(data), memoryview(data)):
        found = messages.decode(form)
        assert found == message
        assert type(found) is type(message)


def test_every_kind_is_tried() -> None:
    assert {type(message) for message in EACH} == set(get_args(messages.AnyMessage))


def test_a_message_is_small() -> None:
    """1,000 silos of one worker: reports and scores stay below 100 bytes a silo."""
    reports = tuple(
        Report(silo, 9999, 999, 9999, 12345.678, 9999, 12.34, finished=True, elements=66_404) for silo in range(1000)
    )
    assert len(messages.encode(Reports(1, 1.0, reports))) < 100_000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xff",
        messages.encode(EACH[1])[:-1],
        messages.encode(EACH[1]) + b"\x00",
        msgspec.msgpack.encode("Ready"),
        msgspec.msgpack.encode(["Ready"]),
        msgspec.msgpack.encode(["Ready", 3]),
        msgspec.msgpack.encode(["Steady", "worker_0"]),
        msgspec.msgpack.encode(["Tally", 1, 1, [[2], 0, 0], [[0]], [1.5], True]),
        msgspec.msgpack.encode(["Tally", 1, 1, [[2], 0, 0], [[0]], [1], 1]),
        msgspec.msgpack.encode({"type": "Ready", "title": "worker_0"}),
    ],
)
def test_wrong_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        messages.decode(data)


def test_a_summary_survives_json(summary: Summary) -> None:
    line = msgspec.json.encode(summary)
    assert b"\n" not in line
    assert msgspec.json.decode(line, type=Summary) == summary


def test_sha256() -> None:
    assert digest.sha256() == hashlib.sha256(b"").hexdigest()
    assert digest.sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest.sha256(b"a", memoryview(b"bc")) == digest.sha256(b"abc")


def test_members_are_told_as_ranges() -> None:
    """Ten thousand ranks in a row take no more bytes than two."""
    ranks = (*range(5, 10_000), 10_001, *range(10_003, 10_005))
    members = Members.of(ranks, 1, 0)
    assert members.workers == ranks
    assert members.spans == ((5, 10_000), (10_001, 10_002), (10_003, 10_005))
    assert Members.of((), 0, 0).workers == ()
    plans = [msgspec.structs.replace(EACH[1], members=Members.of(range(2, end), 1, 0)) for end in (4, 10_000)]
    assert len(messages.encode(plans[1])) - len(messages.encode(plans[0])) < 5
