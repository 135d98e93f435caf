"""The tables of a report and its sentences."""

from __future__ import annotations

import base64
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from silofold.commands.results import looks
from silofold.core import recipes
from silofold.data import picture
from silofold.data import silo as silos
from silofold.evaluation import measures
from silofold.view import text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from silofold.commands.results.looks import Look
    from silofold.commands.results.pairs import Pair
    from silofold.core.summary import Summary
    from silofold.record.run_record import Record

MOST_EXAMPLES = 24
MOST_CONFUSED = 12
MOST_REASONS = 50


class Run(NamedTuple):
    """A run as the template reads it."""

    name: str
    kind: str
    answers: Any
    measures: Any
    worst: str
    rounds: Sequence[Summary]
    record: Record
    flat: Sequence[tuple[str, str]]


def result(first: Look) -> str:
    """Tell the accuracy of a run."""
    pooled = first.measures.pooled
    return f"{text.percent(pooled.accuracy)} of {pooled.examples} test images" if pooled.examples else "no test image"


def headline(first: Look) -> str:
    """Say what the first run is worth."""
    pooled = first.measures.pooled
    if not pooled.examples:
        return f"{first.name}: no silo has a test image, so nothing can be said of the model's accuracy."
    worst = f"; worst silo {looks.worst(first)}" if len(first.data.silos) > 1 else ""
    return f"{first.name}: {result(first)} are right, 95 % interval {text.interval(pooled.low, pooled.high)}{worst}."


def facts(first: Look) -> list[str]:
    """Tell what was trained, on what and how."""
    data, settings = first.data, first.settings
    train = sum(silo.train.examples for silo in data.silos)
    shape = "×".join(map(str, data.image_shape))
    return [
        f"{len(data.silos)} silos", f"{train} training images of {shape}", f"{len(data.classes)} classes",
        f"model {settings.model['name']}, {first.record.parameters:,} parameters", (f"{first.answers.round} rounds of "
        f"{settings.local.epochs} local epoch{'s' * (settings.local.epochs > 1)}"), f"seed {settings.seed}",
    ]  # fmt: skip


def run(one: Look) -> Run:
    """Collect what the template shows of a run."""
    flat = recipes.flatten(one.record.settings) | recipes.flatten(one.record.versions, "versions.")
    ranks = [
        (str(rank["role"]), ", ".join(f"{k} {v}" for k, v in rank.items() if k not in {"rank", "role"}))
        for rank in one.record.ranks
    ]
    rows = [(key, str(value)) for key, value in flat.items()] + ranks
    return Run(one.name, one.kind, one.answers, one.measures, looks.worst(one), one.rounds, one.record, rows)


def silo_rows(runs: Sequence[Look], pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Tell of the first run's silos; another run that was evaluated on other data may lack some of them."""
    first = runs[0]
    known = [dict(zip([silo.name for silo in one.data.silos], one.measures.silos, strict=True)) for one in runs]
    return [
        {
            "name": silo.name,
            "train": silo.train.examples,
            "test": silo.test.examples,
            "shares": [shares.get(silo.name, measures.count(0, 0)) for shares in known],
            "pairs": [pair.silos[index] for pair in pairs],
            "personal": first.personalised.silos[index] if first.personalised else None,
        }
        for index, silo in enumerate(first.data.silos)
    ]


def confused(first: Look) -> list[dict[str, Any]]:
    """Name the pairs of classes that are taken for each other most often."""
    table = np.array(first.measures.confusion)
    sizes = table.sum(axis=1)
    np.fill_diagonal(table, 0)
    classes = first.data.classes
    best = np.argsort(-table, axis=None, kind="stable")[:MOST_CONFUSED]
    places = [divmod(int(place), len(classes)) for place in best]
    return [
        {"label": classes[i], "answer": classes[j], "count": int(table[i, j]), "share": float(table[i, j] / sizes[i])}
        for i, j in places
        if table[i, j]
    ]


def wrong(first: Look, data: Any) -> list[dict[str, Any]]:
    """Fetch the mistakes of which the model is surest out of their silos."""
    folder = data or Path(first.settings.data.folder)
    found, classes = first.answers.global_model, first.data.classes
    order = np.argsort(-found.confidence, kind="stable")
    chosen = [int(index) for index in order if not found.right[index]][:MOST_EXAMPLES]
    splits: dict[int, silos.Split] = {}
    examples = []
    for index in chosen:
        silo = int(found.silo[index])
        if silo not in splits:
            splits[silo] = silos.read_split(folder, first.data.silos[silo], "test", first.data)
        image = splits[silo].images[index - int(np.argmax(found.silo == silo))]
        examples.append(
            {
                "source": f"data:image/png;base64,{base64.b64encode(picture.encode(image)).decode()}",
                "label": classes[found.label[index]],
                "answer": classes[found.predicted[index]],
                "confidence": float(found.confidence[index]),
                "silo": first.data.silos[silo].name,
            }
        )
    return examples


def cost(one: Look) -> dict[str, Any]:
    """Tell what a run took, in seconds and bytes."""
    totals = [summary.seconds.total for summary in one.rounds]
    return {
        "name": one.name,
        "rounds": len(totals),
        "seconds": sum(totals),
        "median": statistics.median(totals),
        "down": sum(summary.bytes_down for summary in one.rounds),
        "up": sum(summary.bytes_up for summary in one.rounds),
    }


def participation(first: Look) -> str:
    """Tell how many updates counted."""
    asked = sum(len(one.cohort) for one in first.rounds)
    counted = sum(len(one.accepted) for one in first.rounds if not one.void)
    voids = sum(one.void for one in first.rounds)
    return f"{counted} of {asked} updates that were asked for counted, in {len(first.rounds)} rounds; void rounds: {voids}."


def reasons(first: Look) -> list[dict[str, Any]]:
    """List why updates did not count, the first ones."""
    every = [
        {"round": one.round, "silo": silo.name, "reason": silo.reason}
        for one in first.rounds for silo in one.silos if silo.reason
    ]  # fmt: skip
    return every[:MOST_REASONS]
