"""The round: the whole protocol on one screen. Every rank runs this; what it does in each step is its role's business."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from silofold.comm.fabric import Fabrics
    from silofold.core.messages import Plan, Tally
    from silofold.roles.job import Job


class Role(Protocol):
    """What the scheduler, a server and a worker each do in a round."""

    vector: NDArray[np.float32]

    def plan(self) -> Plan: ...  # noqa: D102
    def evaluate(self, plan: Plan, broken: str) -> None: ...  # noqa: D102
    def is_over(self, plan: Plan) -> bool: ...  # noqa: D102
    def train(self, plan: Plan) -> Tally: ...  # noqa: D102
    def update(self, tally: Tally) -> NDArray[Any]: ...  # noqa: D102
    def settle(self, tally: Tally, moved: NDArray[Any], broken: str) -> Tally: ...  # noqa: D102
    def apply(self, moved: NDArray[Any], tally: Tally) -> None: ...  # noqa: D102
    def record(self, plan: Plan, tally: Tally) -> None: ...  # noqa: D102


def play(role: Role, job: Job, fabrics: Fabrics) -> int:
    """Play rounds until the plan says that it is the last, and return the exit code."""
    while True:
        plan = role.plan()  # ready → rank 0, which draws the cohort; plan → all
        broken = fabrics.among(plan.members).share_model(role.vector, plan.window, plan.round)  # one broadcast a shard
        role.evaluate(plan, broken)  # the model of the round before; scores → rank 0
        if plan.last:
            if role.is_over(plan):  # else somebody was lost meanwhile, and the end is planned again
                return plan.exit_code
            continue
        tally = role.train(plan)  # reports → rank 0; tally → all
        while tally.quorum_met and not tally.settled:  # once, unless a member is lost meanwhile
            moved = role.update(tally)  # a worker's weighted sum; a server's room for it
            broken = fabrics.among(tally.members).collect(moved, job.counts(tally), plan.window)  # one reduction a shard
            tally = role.settle(tally, moved, broken)  # moved → rank 0; settled, or a tally without the lost → all
        if tally.settled:
            role.apply(moved, tally)  # strategy → server optimizer, on the shard
        role.record(plan, tally)  # below quorum the round is void: the model stands
