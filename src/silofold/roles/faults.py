"""The true cause by which a run ends early: divergence, the user's own code, or what a repetition may mend."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NoReturn

from silofold.coordination import quorum
from silofold.core.errors import DivergedError, RequeueError, UserCodeError
from silofold.core.reports import Cause

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from silofold.core.messages import Evaluation
    from silofold.core.reports import Score
    from silofold.core.summary import Summary
    from silofold.roles.job import Job

logger = logging.getLogger(__name__)


def rates(job: Job) -> str:
    """Tell the learning rates, which are what diverges."""
    local, server = job.settings.local, job.settings.server_optimizer
    told = ", ".join(f"{key} = {value}" for key, value in server.items() if key != "name") or "its defaults"
    return f"local.lr = {local.lr:g} and server_optimizer {server['name']} ({told})"


def give_up(job: Job, voids: Sequence[Summary], story: str) -> NoReturn:
    """End the job because rounds are void: by the true cause, where no repetition would mend it.

    Parameters
    ----------
    job
        The run.
    voids
        Void rounds in a row.
    story
        What has come to its end.

    Raises
    ------
    UserCodeError, DivergedError, RequeueError
        One of them.
    """
    recent = voids[-job.settings.rounds.max_void :]
    cause = quorum.lasting(recent, job.settings.rounds.update_ratio)
    met = [silo for silo in recent[-1].silos if silo.cause is cause] if recent and cause is not Cause.NONE else []
    if met:
        others = f" and {len(met) - 1} other silos" if len(met) > 1 else ""
        story = f"{story}; round {recent[-1].round}, silo {met[0].name}{others}: {met[0].reason}"
    if cause is Cause.RAISED:
        raise UserCodeError("model-raised", f"model {job.settings.model['name']}: {story}")
    if cause is Cause.DIVERGED:
        raise DivergedError("diverged-rounds", f"{story}, with {rates(job)}")
    told = recent[-1].silos if recent else []
    reasons = "; ".join(f"silo {one.silo}: {one.reason}" for one in told if one.reason)
    raise RequeueError("rounds-void", f"{story}; the last one: {reasons}")


def look_at_answers(job: Job, summary: Summary, scores: Mapping[int, Score], evaluations: Iterable[Evaluation]) -> None:
    """See whether the model still answers: an image without a finite logit counts as wrong.

    Raises
    ------
    DivergedError
        Most images are without an answer.
    UserCodeError
        The model raised on every silo that was to be evaluated.
    """
    unanswered = sum(score.unanswered for score in scores.values())
    if unanswered:
        story = (
            f"round {summary.round}: the global model gives no finite logit for {unanswered} of "
            f"{summary.test_examples} test images"
        )
        if 2 * unanswered > summary.test_examples:
            raise DivergedError("diverged-model", f"{story}, with {rates(job)}")
        logger.warning("%s: they count as wrong", story)
    raised = sorted(
        (one for found in evaluations for one in found.unscored if one.cause is Cause.RAISED), key=lambda one: one.silo
    )  # the same silo is named each time, whoever tells first
    if raised and not any(score.examples for score in scores.values()):
        name, silo = job.settings.model["name"], job.data.silos[raised[0].silo].name
        raise UserCodeError(
            "model-raised", f"model {name}: round {summary.round}, evaluating silo {silo}: {raised[0].reason}"
        )
