"""What the evaluation of a model adds to the summary of its round."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from silofold.evaluation.accuracy import wilson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from silofold.core.reports import Score, Unscored
    from silofold.core.summary import SiloSummary, Summary


def evaluated(summary: Summary, scores: Iterable[Score], unscored: Iterable[Unscored], digest: str) -> Summary:
    """Add the evaluation of the model after a round.

    Parameters
    ----------
    summary
        Of the round, with every silo in it.
    scores, unscored
        What has been told of the silos' test splits.
    digest
        sha256 of the model.
    """
    found = {score.silo: score for score in scores}
    correct, examples = (sum(getattr(score, key) for score in found.values()) for key in ("correct", "examples"))
    low, high = wilson(correct, examples) if examples else (None, None)
    # in the order of the silos, not of arrival: float sums depend on it
    loss = sum(found[silo].loss_sum for silo in sorted(found)) / examples if examples else None
    silos = summary.silos.copy()
    for silo, score in found.items():
        if score.examples:
            silos[silo] = msgspec.structs.replace(silos[silo], accuracy=score.correct / score.examples)
    for silo, why in _untested(silos, found, unscored).items() if examples else ():
        silos[silo] = msgspec.structs.replace(silos[silo], untested=why)
    return msgspec.structs.replace(
        summary,
        accuracy=correct / examples if examples else None,
        accuracy_low=low,
        accuracy_high=high,
        test_loss=loss if loss is None or math.isfinite(loss) else None,
        test_examples=examples,
        silos=silos,
        model_sha256=digest,
    )


def _untested(silos: Sequence[SiloSummary], scores: Mapping[int, Score], unscored: Iterable[Unscored]) -> dict[int, str]:
    """Say why silos with test images were not evaluated, or not on all of them."""
    told = {one.silo: one.reason for one in unscored}
    lacking = {silo.silo for silo in silos if silo.test_examples} - scores.keys()
    parts = {silo: score.lacks for silo, score in sorted(scores.items()) if score.lacks}
    return {silo: told.get(silo) or "no worker has told of it" for silo in sorted(lacking)} | parts
