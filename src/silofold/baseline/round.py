"""A round of a baseline on record: its summary, and whether its models train and answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from silofold.core.errors import DivergedError, RequeueError, UserCodeError
from silofold.core.reports import Cause, Score, Unscored
from silofold.core.summary import Phases, RankPhases, SiloSummary, Summary
from silofold.record import model_set
from silofold.record.model_set import State
from silofold.roles import round_summary
from silofold.training.local import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from silofold.baseline.process import Played, Work


def summarise(
    work: Work, number: int, homes: Sequence[tuple[int, ...]], played: Sequence[Played], began: float
) -> tuple[Summary, list[State]]:
    """Summarise a round; return the models after it as well, in their order."""
    states, outcomes = dict[int, State](), dict[int, Outcome]()
    for models, one in zip(homes, played, strict=True):
        states |= dict(zip(models, one.states, strict=True))
        outcomes |= dict(zip(models, one.outcomes, strict=True))
    after = [states[model] for model in sorted(states)]
    good = [outcomes[model] for model in sorted(outcomes) if not outcomes[model].reason]
    seen = sum(outcome.seen for outcome in good)
    home = {silo: model for model, group in enumerate(work.groups) for silo in group}
    summary = Summary(
        round=number,
        void=False,
        cohort=sorted(home),
        accepted=[silo for silo in sorted(home) if not outcomes[home[silo]].reason],
        train_loss=sum(outcome.sums["loss"] for outcome in good) / seen if seen else None,
        accuracy=None,
        accuracy_low=None,
        accuracy_high=None,
        test_loss=None,
        test_examples=0,
        silos=[_silo(work, silo, outcomes[home[silo]]) for silo in sorted(home)],
        seconds=Phases(
            broadcast=0.0,
            evaluate=max(one.evaluate_seconds for one in played),
            train=max(one.train_seconds for one in played),
            wait=0.0, reduce=0.0, apply=0.0, total=time.monotonic() - began,
        ),
        ranks=[
            RankPhases(role=f"process_{index}", train=one.train_seconds, evaluate=one.evaluate_seconds)
            for index, one in enumerate(played)
        ],
        bytes_down=0,
        bytes_up=0,
        model_sha256="",
        shard_sha256=[model_set.digest([state]) for state in after],
    )  # fmt: skip
    told = [one for each in played for one in each.scores]
    scores = [one for one in told if isinstance(one, Score)]
    unscored = [one for one in told if isinstance(one, Unscored)]
    return round_summary.evaluated(summary, scores, unscored, model_set.digest(after)), after


def _silo(work: Work, silo: int, outcome: Outcome) -> SiloSummary:
    info = work.data.silos[silo]
    return SiloSummary(
        silo=silo,
        name=info.name,
        accuracy=None,
        test_examples=info.test.examples,
        train_examples=info.train.examples,
        train_loss=outcome.sums["loss"] / outcome.seen if outcome.seen and not outcome.reason else None,
        reason=outcome.reason,
        failed=outcome.cause.of_the_silo,
        cause=outcome.cause,
        raised=outcome.raised,
    )


def failed(summary: Summary) -> dict[str, str]:
    """Name the silos whose model failed in a round, by the reason: one model of many silos is told of once."""
    failed: dict[str, list[str]] = {}
    for one in summary.silos:
        if one.reason:
            failed.setdefault(one.reason, []).append(one.name)
    return {why: f"silo {names[0]}{f' and {len(names) - 1} others' * (len(names) > 1)}" for why, names in failed.items()}


def check(work: Work, played: Sequence[Summary], scores: Sequence[Score | Unscored]) -> None:
    """See that every model trains and answers, since no other rank could make up for one that does not.

    Parameters
    ----------
    work
        What is trained.
    played
        The rounds up to now.
    scores
        The evaluation of the last one.

    Raises
    ------
    UserCodeError, DivergedError, RequeueError
        A model failed in ``rounds.max_void`` rounds in a row, or in all there are; most images are without an answer; the
        model raised on every silo that was to be evaluated.
    """
    rounds, last, name = work.settings.rounds, played[-1], work.settings.model["name"]
    rate = f"local.lr = {work.settings.local.lr:g}"
    unanswered = sum(one.unanswered for one in scores if isinstance(one, Score))
    if 2 * unanswered > last.test_examples:
        raise DivergedError(
            "diverged-model",
            f"round {last.round}: no finite logit for {unanswered} of {last.test_examples} test images, with {rate}",
        )
    raised = [one for one in scores if isinstance(one, Unscored) and one.cause is Cause.RAISED]
    if raised and not last.test_examples:
        silo = work.data.silos[raised[0].silo].name
        raise UserCodeError("model-raised", f"model {name}: round {last.round}, evaluating silo {silo}: {raised[0].reason}")
    window = min(rounds.max_void, rounds.count)
    recent = [summary.silos for summary in played[-window:]]
    if len(recent) < window:
        return
    failed = set.intersection(*({one.silo for one in silos if one.reason} for silos in recent))
    for one in [one for one in last.silos if one.silo in failed][:1]:
        story = f"round {last.round}, silo {one.name}: {one.reason}; so in {window} rounds in a row (rounds.max_void)"
        if one.cause is Cause.RAISED:
            raise UserCodeError("model-raised", f"model {name}: {story}")
        if one.cause is Cause.DIVERGED:
            raise DivergedError("diverged-rounds", f"{story}, with {rate}")
        raise RequeueError("rounds-void", story)
