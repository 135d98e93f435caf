"""``silofold compare``: runs side by side, on the same test images where they have the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from silofold import config
from silofold.commands import evaluate
from silofold.commands import options as shared
from silofold.core.console import shown, write
from silofold.errors import RunFolderError
from silofold.evaluation import measures, paired
from silofold.record import history, rundir
from silofold.record.rundir import RunFolder
from silofold.view import text

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from silofold.data import silo as silos
    from silofold.evaluation.measures import Measures
    from silofold.evaluation.paired import Paired
    from silofold.messages import Summary
    from silofold.record.answers import Answers
    from silofold.record.run_record import Record

UNSURE = 0.05
"""From this p on, a difference is no ground for a claim."""
ONE_SEED = (
    "each test is of two trained models, not of two methods: another seed gives other models. "
    "Whether a method is better, several seeds of each tell"
)


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
        return config.resolve(self.record.settings, str(self.path))


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """The first run against another one."""

    name: str
    """The other run."""
    same_images: bool
    pooled: Paired | None = None
    """None without the same test images, or without any."""
    silos: list[Paired | None] = []
    """By silo; None where a silo has no test image."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One run in the file of ``--out``."""

    name: str
    kind: str
    path: str
    round: int
    model_sha256: str
    silos: list[str]
    measures: Measures
    personalised: Measures | None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--out`` writes."""

    runs: list[Entry]
    first_against: list[Pair]


def add(subparsers: shared.Subparsers) -> None:
    """Add the command's options."""
    parser = subparsers.add_parser("compare")
    shared.add_runs(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write everything as JSON")
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Compare runs with the first one and print a table."""
    looks = look(options.runs, options.data)
    pairs = against(looks)
    write(f"{story(looks, pairs)}\n")
    if options.out:
        entries = [
            Entry(
                name=one.name, kind=one.kind, path=shown(str(one.path)), round=one.answers.round,
                model_sha256=one.answers.model_sha256, silos=[silo.name for silo in one.data.silos], measures=one.measures,
                personalised=one.personalised,
            )
            for one in looks
        ]  # fmt: skip
        result = Comparison(runs=entries, first_against=pairs)
        try:
            rundir.write_atomically(options.out, msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
        except OSError as fault:
            raise RunFolderError("out-write", f"{options.out}: cannot be written: {fault.strerror}") from None
    return 0


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


def against(looks: Sequence[Look]) -> list[Pair]:
    """Compare the first run with each other one, image by image."""
    first, *others = looks
    pairs = []
    for other in others:
        if first.answers.tests != other.answers.tests:
            pairs.append(Pair(name=other.name, same_images=False))
            continue
        ours, theirs, silo = (
            first.answers.global_model.right,
            other.answers.global_model.right,
            first.answers.global_model.silo,
        )
        each = [silo == index for index in range(len(first.data.silos))]
        pairs.append(
            Pair(
                name=other.name,
                same_images=True,
                pooled=paired.compare(theirs, ours) if len(ours) else None,
                silos=[paired.compare(theirs[one], ours[one]) if one.any() else None for one in each],
            )
        )
    return pairs


def story(looks: Sequence[Look], pairs: Sequence[Pair]) -> str:
    """Put a comparison into tables."""
    five = any(one.measures.top5 for one in looks)
    header = ["run", "kind", "round", "accuracy", "images", "95 % interval", "worst silo", *["top-5"] * five, "loss"]
    body = [
        [
            one.name, one.kind, str(one.answers.round), text.percent(one.measures.pooled.accuracy),
            str(one.measures.pooled.examples), text.interval(one.measures.pooled.low, one.measures.pooled.high),
            worst(one), *[text.percent(one.measures.top5.accuracy if one.measures.top5 else None)] * five,
            text.number(one.measures.loss),
        ]
        for one in looks
    ]  # fmt: skip
    lines = [text.table(header, body), *(shown(f"note: {line}") for line in notes(looks))]
    for pair in pairs:
        lines += ["", shown(f"{looks[0].name} against {pair.name}: {verdict(looks[0].name, pair)}")]
    paired_ones = [pair for pair in pairs if pair.pooled]
    if paired_ones:
        lines += ["", f"note: {ONE_SEED}"]
        names = [silo.name for silo in looks[0].data.silos]
        sides = [looks[0], *(one for one in looks[1:] if one.name in {pair.name for pair in paired_ones})]
        header = ["silo", "images", *(one.name for one in sides)]
        for pair in paired_ones:
            header += [f"gain on {pair.name}", "p"]
        body = []
        for index, name in enumerate(names):
            row = [name, str(sides[0].measures.silos[index].examples)]
            row += [text.percent(one.measures.silos[index].accuracy) for one in sides]
            for pair in paired_ones:
                found = pair.silos[index]
                row += [text.points(found.difference), text.chance(found.p)] if found else ["n/a", "n/a"]
            body.append(row)
        lines += ["", shown(f"who gains from {looks[0].name}, in percentage points"), text.table(header, body)]
        lines += [shown(f"{pair.name}: {tally(names, pair)}") for pair in paired_ones]
    return "\n".join(lines)


def verdict(name: str, pair: Pair) -> str:
    """Say whether the first run is better than another one, and how sure that is."""
    found = pair.pooled
    if not pair.same_images:
        return "other test images, so the runs cannot be paired; only the intervals above tell"
    if found is None:
        return "n/a: no silo has a test image"
    better = f"{name} is better" if found.difference > 0 else f"{pair.name} is better"
    claim = better if found.p < UNSURE else "no difference that these images can show"
    return (
        f"{text.points(found.difference)} points [{text.points(found.low)}, {text.points(found.high)}]; of {found.examples} "
        f"images {found.only_second} are right in {name} alone, {found.only_first} in {pair.name} alone; McNemar's exact "
        f"p {text.chance(found.p)}: {claim}"
    )


def tally(names: Sequence[str], pair: Pair) -> str:
    """Name the silos that gain and those that lose, and say how many of them chance alone would name."""
    tested = [(name, found) for name, found in zip(names, pair.silos, strict=True) if found]
    gains = [name for name, found in tested if found.difference > 0]
    losses = [name for name, found in tested if found.difference < 0]
    sure = sum(found.p < UNSURE for _, found in tested)
    none = len(names) - len(tested)
    return (
        f"{len(gains)} gain, {len(losses)} lose{f' ({text.names(losses)})' if losses else ''}, "
        f"{len(tested) - len(gains) - len(losses)} the same{f', {none} without a test image' if none else ''}; "
        f"p < {UNSURE} in {sure} of {len(tested)}, where chance alone gives up to {UNSURE * len(tested):.1f}"
    )


def notes(looks: Sequence[Look]) -> list[str]:
    """Tell what makes the runs less comparable: other settings, other data, unfinished runs."""
    found = [
        f"{one.name} is not finished: its newest checkpoint is of round {one.answers.round}"
        for one in looks
        if not RunFolder(one.path).done.exists()
    ]
    for one in looks[1:]:
        changes = config.differences(looks[0].settings, one.settings)
        plain = [
            line for line in changes if one.kind == "federated" or line.partition(".")[0] in {"local", "rounds", "seed"}
        ]
        if plain:
            found.append(f"{one.name} has other settings than {looks[0].name}: {'; '.join(plain[:5])}")
        if one.record.data_digest != looks[0].record.data_digest:
            found.append(f"{one.name} was trained on other data than {looks[0].name}")
    untested = {evaluate.untested([silo.name for silo in one.data.silos], one.measures) for one in looks}
    return [shown(line) for line in [*found, *sorted(untested - {""})]]


def worst(one: Look) -> str:
    """Name the worst silo and its accuracy."""
    index = one.measures.worst
    if index is None or len(one.data.silos) == 1:
        return "n/a"
    return f"{one.data.silos[index].name} {text.percent(one.measures.silos[index].accuracy, 1)}"
