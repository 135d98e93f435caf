from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from silofold import config
from silofold.messages import Saved
from silofold.record.rundir import RunFolder
from silofold.roles.worker import Worker

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("keep", [False, True])
def test_only_who_has_something_to_save_tells_of_it(keep: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Nobody waits for the others: what they said after a checkpoint was published came too late, each time."""
    said: list[Any] = []
    worker = Worker.__new__(Worker)
    worker._job = SimpleNamespace(  # type: ignore[assignment]
        folder=RunFolder(tmp_path), settings=config.resolve({"local": {"keep_momentum": keep}}, "a test")
    )
    worker._world = SimpleNamespace(say=lambda message, _: said.append(message))  # type: ignore[assignment]
    worker._title, worker._momenta = "worker_0", {}
    worker._save(SimpleNamespace(round=3, last=False, checkpoint=True), first=False)  # type: ignore[arg-type]
    assert [type(message) for message in said] == [Saved] * keep
