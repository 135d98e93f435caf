from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from silofold.core import plugins
from silofold.core.errors import UserCodeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from silofold.core.summary import Summary

RNG = np.random.default_rng(1)


def load(kind: plugins.Kind, name: str) -> Any:
    return plugins.load(kind, {"name": f"odd_plugins:{name}"})


def test_sound_ones_do_what_they_do() -> None:
    assert load("strategy", "Strategy").weight(np.int64(7)) == 7
    assert load("strategy", "Strategy").combine(np.array([6.0]), np.array([1, 2])).tolist() == [2.0]
    assert load("cohort", "Cohort").draw([4], RNG) == [4]
    optimizer, model = load("server_optimizer", "Optimizer"), np.ones(2, np.float32)
    optimizer.step(model, np.ones(2), optimizer.start(2))
    assert model.tolist() == [2, 2]
    assert load("sink", "Sink").Settings


CALLS: dict[plugins.Kind, Callable[[Any], object]] = {
    "strategy": lambda one: (one.weight(7), one.combine(np.ones(5), np.array([1, 2]))),
    "cohort": lambda one: one.draw([0, 1, 2], RNG),
    "server_optimizer": lambda one: one.step(np.ones(5, np.float32), np.ones(5), one.start(5)),
}


@pytest.mark.parametrize(
    ("kind", "name", "id_", "story"),
    [
        ("strategy", "RaisesInit", "plugin-raised", "SystemExit: 3 ("),
        ("strategy", "RaisesCombining", "plugin-raised", "combine: KeyError: 'what"),
        ("strategy", "RaisesWeighing", "plugin-raised", "weight: KeyError: 'what"),
        ("strategy", "NoWeight", "plugin-protocol", "weight(7) returned 0; expected an integer from 1"),
        ("strategy", "FloatWeight", "plugin-protocol", "weight(7) returned 3.5; expected an integer"),
        ("strategy", "ShortSum", "plugin-protocol", "combine returned float64 (1,); expected a float64 array of shape (5,)"),
        ("strategy", "ListSum", "plugin-protocol", "combine returned [np.float64(1.0)"),
        ("strategy", "NanSum", "plugin-protocol", "combine returned numbers that are not finite"),
        ("strategy", "NoNeeds", "plugin-protocol", "needs = 'all'; expected 'sum' or 'each'"),
        ("cohort", "RaisesDrawing", "plugin-raised", "draw: KeyError: 'what"),
        ("cohort", "DrawsWords", "plugin-protocol", "draw returned ['a']; expected some of the 3 silos"),
        ("cohort", "DrawsStrangers", "plugin-protocol", "draw returned [99]"),
        ("cohort", "DrawsTwice", "plugin-protocol", "draw returned [0, 0]"),
        ("cohort", "DrawsNobody", "plugin-protocol", "draw returned []"),
        ("cohort", "DrawsNothing", "plugin-protocol", "draw returned None"),
        ("server_optimizer", "RaisesStepping", "plugin-raised", "step: KeyError: 'what"),
        ("server_optimizer", "StartsWithList", "plugin-protocol", "start returned [array("),
        ("server_optimizer", "StartsShort", "plugin-protocol", "expected a dict of float64 arrays of shape (5,) by name"),
        ("server_optimizer", "StartsWithModel", "plugin-protocol", "named 'model'"),
    ],
)
def test_what_raises_or_returns_what_it_must_not(kind: plugins.Kind, name: str, id_: str, story: str) -> None:
    with pytest.raises(UserCodeError) as caught:
        CALLS[kind](load(kind, name))
    assert (caught.value.id, caught.value.exit_code) == (id_, 4)
    assert str(caught.value).startswith(f"{kind} odd_plugins:{name}")
    assert story in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "odd_plugins.py:" in str(caught.value) or id_ == "plugin-protocol"


def test_a_full_disk_is_no_fault_of_a_sink(summary: Summary) -> None:
    with pytest.raises(OSError, match="No space left"):
        load("sink", "FillsDisk").write(summary)
    with pytest.raises(UserCodeError, match="sink odd_plugins:RaisesWriting, write: KeyError"):
        load("sink", "RaisesWriting").write(summary)
    with pytest.raises(UserCodeError, match="sink odd_plugins:RaisesClosing, close: KeyError"):
        load("sink", "RaisesClosing").close()
