"""All that is known of a run once it has been evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from silofold.commands import evaluate
from silofold.core import recipes
from silofold.core.console import shown
from silofold.evaluation import measures
from silofold.record import history
from silofold.record.rundir import RunFolder
from silofold.view import text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from silofold import config
    from silofold.core.summary import Summary
    from silofold.data import silo as silos
    from silofold.evaluation.measures import Measures
    from silofold.record.answers import Answers
    from silofold.record.run_record import Record


@dataclass(frozen=True, kw_only=True)
class Look:
    """All that is known of a run once it has been evaluated."""

    name: str
    path: Path
    kind: str
    """``federated``, ``local`` or ``central``."""
    record: Record
    rounds: list[Summary]
    answers: Answers
    data: silos.Manifest
    measures: Measures
    personalised: Measures | None

    @property
    def settings(self) -> config.Settings:
        """The run's settings."""
        return recipes.resolve(self.record.settings, str(self.path))


def look(runs: Sequence[Path], data: Path | None) -> list[Look]:
    """Read runs and, where it has not been done, evaluate their models.

    Raises
    ------
    SilofoldError
        A run cannot be read, or its silos are out of reach.
    """
    names = [shown(run.resolve().name) for run in runs]
    looks = []
    for name, run in zip(names, runs, strict=True):
        folder = RunFolder(run)
        record = folder.read_record()
        answers, manifest = evaluate.recorded(run, data)
        count = len(manifest.silos)
        own = answers.personalised
        looks.append(
            Look(
                name=name if names.count(name) == 1 else shown(str(run)),
                path=run,
                kind=record.baseline,
                record=record,
                rounds=history.read(folder.metrics),
                answers=answers,
                data=manifest,
                measures=measures.measure(answers.global_model, manifest.classes, count),
                personalised=measures.measure(own, manifest.classes, count) if own else None,
            )
        )
    return looks


def worst(one: Look) -> str:
    """Name the worst silo and its accuracy."""
    index = one.measures.worst
    if index is None or len(one.data.silos) == 1:
        return "n/a"
    return f"{one.data.silos[index].name} {text.percent(one.measures.silos[index].accuracy, 1)}"


def notes(looks: Sequence[Look]) -> list[str]:
    """Tell what makes the runs less comparable: other settings, other data, unfinished runs."""
    found = [
        f"{one.name} is not finished: its newest checkpoint is of round {one.answers.round}"
        for one in looks
        if not RunFolder(one.path).done.exists()
    ]
    for one in looks[1:]:
        changes = recipes.differences(looks[0].settings, one.settings)
        plain = [
            line for line in changes if one.kind == "federated" or line.partition(".")[0] in {"local", "rounds", "seed"}
        ]
        if plain:
            found.append(f"{one.name} has other settings than {looks[0].name}: {'; '.join(plain[:5])}")
        if one.record.data_digest != looks[0].record.data_digest:
            found.append(f"{one.name} was trained on other data than {looks[0].name}")
    untested = {evaluate.untested([silo.name for silo in one.data.silos], one.measures) for one in looks}
    return [shown(line) for line in [*found, *sorted(untested - {""})]]
