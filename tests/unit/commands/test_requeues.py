from __future__ import annotations

import pytest

from silofold.commands import operate
from silofold.core.endings import ENDINGS, RESUMABLE, STOPPED
from silofold.record.control import End


@pytest.mark.parametrize("ending", ENDINGS, ids=[ending.name for ending in ENDINGS])
def test_only_what_a_repetition_can_mend_is_requeued(ending: object) -> None:
    again, story = operate.requeues(ending, End("x", "", 1), warned=False, done=False)  # type: ignore[arg-type]
    assert again == (ending is RESUMABLE)
    assert story


@pytest.mark.parametrize(("cause", "most"), [("run-write", 2), ("rounds-void", 2), ("", 2), ("rank-lost", 3), ("warned", 3)])
def test_the_same_cause_without_a_new_checkpoint_is_not_requeued_for_ever(cause: str, most: int) -> None:
    told = [operate.requeues(RESUMABLE, End(cause, "", times), warned=False, done=False)[0] for times in range(1, most + 2)]
    assert told == [True] * (most - 1) + [False, False]


def test_who_asked_for_the_stop_decides() -> None:
    assert operate.requeues(STOPPED, End(), warned=True, done=False)[0]
    assert not operate.requeues(STOPPED, End(), warned=False, done=False)[0]
    assert not operate.requeues(RESUMABLE, End(), warned=True, done=True)[0]
