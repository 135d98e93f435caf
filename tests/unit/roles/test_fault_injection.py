from __future__ import annotations

import pytest

from silofold.core.errors import ConfigError
from silofold.roles import fault_injection as faults
from silofold.roles.fault_injection import Fault, FaultInjector


def test_nothing_is_planned_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(faults.VARIABLE, raising=False)
    assert faults.planned("worker_0") == []
    assert faults.in_training([], 3) == ""


def test_planned_for_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "worker 3: kill @ round 4 before reduce; server: sleep 1.5 @ round 1 after train; worker 3: nan @ round 2;"
    monkeypatch.setenv(faults.VARIABLE, text)
    assert faults.planned("worker_3") == [
        Fault("worker_3", "kill", 0.0, 4, ("after", "update")),
        Fault("worker_3", "nan", 0.0, 2, None),
    ]
    assert faults.planned("server_0") == [Fault("server_0", "sleep", 1.5, 1, ("after", "train"))]
    assert faults.planned("scheduler") == []
    monkeypatch.setenv(faults.VARIABLE, "worker 3: stop @ before restart")
    assert faults.planned("worker_3") == [Fault("worker_3", "stop", 0.0, 0, ("before", "restart"))]
    monkeypatch.setenv(faults.VARIABLE, text)
    assert faults.in_training(faults.planned("worker_3"), 2) == "nan"
    assert faults.in_training(faults.planned("worker_3"), 4) == ""


@pytest.mark.parametrize(
    "text",
    [
        "worker 3 kill @ round 4 before reduce", "worker 3: kill @ round 4", "worker 3: nan @ round 4 before train",
        "clerk: kill @ round 1 before plan", "worker 3: kill @ round 4 before lunch", "worker 3: hug @ round 4 before train",
        "worker 3: kill @ round 4 before regroup", "worker 3: kill @ after restart", "worker 3: kill @ before train",
        "worker 3: nan @",
    ],
)  # fmt: skip
def test_what_cannot_be_understood(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(faults.VARIABLE, text)
    with pytest.raises(ConfigError, match=faults.VARIABLE):
        faults.planned("worker_3")


class Steps:
    """A role that counts."""

    vector = "its own"

    def __init__(self) -> None:
        self.called: list[str] = []

    def plan(self) -> str:
        self.called.append("plan")
        return "the plan"

    def record(self, plan: str) -> None:
        self.called.append(f"record {plan}")


def test_a_fault_strikes_once_in_its_round() -> None:
    steps = Steps()
    rigged = FaultInjector(steps, [Fault("worker_0", "raise", 0, 3, ("after", "plan"))], first=2)
    assert rigged.vector == "its own"
    assert rigged.plan() == "the plan"
    rigged.record("a")
    with pytest.raises(RuntimeError, match="planned fault"):
        rigged.plan()
    assert rigged.plan() == "the plan"
    assert steps.called == ["plan", "record a", "plan", "plan"]


@pytest.mark.parametrize(("what", "error"), [("fail", RuntimeError), ("oom", MemoryError)])
def test_faults_of_training(what: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        faults.in_training([Fault("worker_0", what, 0, 3, None)], 3)
