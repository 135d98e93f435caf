"""``silofold report``: runs on one page that needs no network. Images leave the silos only when they are asked for."""

from __future__ import annotations

import base64
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from silofold import config
from silofold.commands import compare
from silofold.commands import options as shared
from silofold.core.console import shown, write
from silofold.data import picture
from silofold.data import silo as silos
from silofold.errors import PluginError, RunFolderError
from silofold.evaluation import measures
from silofold.record import rundir
from silofold.view import text

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from silofold.commands.compare import Look, Pair
    from silofold.messages import Summary
    from silofold.record.run_record import Record
    from silofold.view.page import Drawing
    from silofold.view.plots import Cell, Curve

MOST_SILOS = 24
"""Silos that get a drawing of their own."""
MOST_EXAMPLES = 24
MOST_CONFUSED = 12
MOST_REASONS = 50
SOMETIMES = ("accuracy", "calibration", "cross", "confusion", "timeline", "participation")
"""Figures for which there is not always something to draw."""


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


def add(subparsers: shared.Subparsers) -> None:
    """Add the command's options."""
    parser = subparsers.add_parser("report")
    shared.add_runs(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="PAGE.html", help="the page to write")
    parser.add_argument("--images", action="store_true", help="show test images that the first run gets wrong")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="also write each figure as SVG and PNG")
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Write the page and, where asked for, its figures."""
    try:
        from silofold.view import page, plots  # noqa: PLC0415  (the extra `report`)
    except ImportError as fault:
        raise PluginError("extra-missing", f"{fault.name} is not installed: pip install 'silofold[report]'") from None
    looks = compare.look(options.runs, options.data)
    for one in looks:
        if not one.rounds:
            raise RunFolderError("run-empty", f"{one.path}: has no round yet")
    pairs = compare.against(looks)
    content, drawings = _content(looks, pairs, images=options.images, data=options.data)
    content["command"] = f"silofold report {' '.join(str(one.path) for one in looks)}"
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        rundir.write_atomically(options.out, page.render(content).encode())
        if options.figures:
            options.figures.mkdir(parents=True, exist_ok=True)
            for drawing in drawings:
                for form in ("svg", "png"):
                    rundir.write_atomically(options.figures / f"{drawing.name}.{form}", plots.save(drawing.draw, form))
    except OSError as fault:
        raise RunFolderError("out-write", f"{fault.filename}: cannot be written: {fault.strerror}") from None
    write(f"{compare.story(looks, pairs)}\n\n{shown(str(options.out))}: {options.out.stat().st_size / 1e6:.1f} MB\n")
    return 0


def _content(
    looks: Sequence[Look], pairs: Sequence[Pair], *, images: bool, data: Any
) -> tuple[dict[str, Any], list[Drawing]]:
    """Collect what the template shows, and every drawing in it."""
    first = looks[0]
    names = [silo.name for silo in first.data.silos]
    figures = _figures(looks)
    gains = _gains(first, pairs, names)
    chosen = _chosen(first)
    silo_curves, histograms = _silo_curves(looks, chosen), _histograms(first, chosen)
    same = [pair for pair in pairs if pair.pooled]
    content = {
        "title": f"{first.name}: {_result(first)}",
        "facts": _facts(first),
        "verdicts": [
            _headline(first),
            *(f"{first.name} against {pair.name}: {compare.verdict(first.name, pair)}." for pair in pairs),
        ],
        "notes": compare.notes(looks),
        "seeds": compare.ONE_SEED if same else "",
        "unsure": compare.UNSURE,
        "merged": first.measures.merged_classes if first.measures.merged else 0,
        "five": any(one.measures.top5 for one in looks),
        "runs": [_run(one) for one in looks],
        "pairs": same,
        "personal": first.personalised is not None,
        "silos": _silo_rows(looks, same),
        "left_out": f"Shown are the {len(chosen)} silos of {len(names)} with the lowest accuracy."
        if len(chosen) < len(names)
        else "",
        "figures": {key: figures.get(key) for key in SOMETIMES} | figures,
        "gains": gains,
        "silo_curves": silo_curves,
        "histograms": histograms,
        "confused": _confused(first),
        "wrong": _wrong(first, data) if images else [],
        "costs": [_cost(one) for one in looks],
        "participation": _participation(first),
        "reasons": _reasons(first),
    }
    return content, [*figures.values(), *gains, *silo_curves, *histograms]


def _result(first: Look) -> str:
    pooled = first.measures.pooled
    return f"{text.percent(pooled.accuracy)} of {pooled.examples} test images" if pooled.examples else "no test image"


def _headline(first: Look) -> str:
    pooled = first.measures.pooled
    if not pooled.examples:
        return f"{first.name}: no silo has a test image, so nothing can be said of the model's accuracy."
    worst = f"; worst silo {compare.worst(first)}" if len(first.data.silos) > 1 else ""
    return f"{first.name}: {_result(first)} are right, 95 % interval {text.interval(pooled.low, pooled.high)}{worst}."


def _facts(first: Look) -> list[str]:
    data, settings = first.data, first.settings
    train = sum(silo.train.examples for silo in data.silos)
    shape = "×".join(map(str, data.image_shape))
    return [
        f"{len(data.silos)} silos", f"{train} training images of {shape}", f"{len(data.classes)} classes",
        f"model {settings.model['name']}, {first.record.parameters:,} parameters", (f"{first.answers.round} rounds of "
        f"{settings.local.epochs} local epoch{'s' * (settings.local.epochs > 1)}"), f"seed {settings.seed}",
    ]  # fmt: skip


def _run(one: Look) -> Run:
    flat = config.flatten(one.record.settings) | config.flatten(one.record.versions, "versions.")
    ranks = [
        (str(rank["role"]), ", ".join(f"{k} {v}" for k, v in rank.items() if k not in {"rank", "role"}))
        for rank in one.record.ranks
    ]
    rows = [(key, str(value)) for key, value in flat.items()] + ranks
    return Run(one.name, one.kind, one.answers, one.measures, compare.worst(one), one.rounds, one.record, rows)


def _silo_rows(looks: Sequence[Look], pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Tell of the first run's silos; another run that was evaluated on other data may lack some of them."""
    first = looks[0]
    known = [dict(zip([silo.name for silo in one.data.silos], one.measures.silos, strict=True)) for one in looks]
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


# --- figures ---------------------------------------------------------------------------------------------------------


def _figures(looks: Sequence[Look]) -> dict[str, Drawing]:
    from silofold.view import page, plots  # noqa: PLC0415  (the extra `report`)

    first = looks[0]
    accuracy = [curve for index, one in enumerate(looks) for curve in _curves(one, index, "accuracy")]
    loss = [
        curve for index, one in enumerate(looks) for key in ("test_loss", "train_loss") for curve in _curves(one, index, key)
    ]
    bins = [(one.confidence, one.accuracy, one.examples) for one in first.measures.calibration]
    known = [(confidence, right, count) for confidence, right, count in bins if confidence is not None and right is not None]
    rounds = [one.round for one in first.rounds]
    found = [
        page.Drawing("loss", "loss by round", plots.curves(loss, "loss", share=False)),
        page.Drawing("phases", "seconds by phase", plots.phases(rounds, _phases(first.rounds))),
    ]
    if accuracy:
        found.append(page.Drawing("accuracy", "accuracy by round", plots.curves(accuracy, "accuracy", share=True)))
    if known:
        found.append(page.Drawing("calibration", "accuracy over confidence", plots.calibration(known)))
    own = next((one for one in looks if one.answers.matrix is not None), None)
    if own is not None and len(own.data.silos) <= MOST_SILOS:
        rows, columns, cells = _cross(own, first)
        draw = plots.matrix(rows, columns, cells, ("model", "test images of"))
        found.append(page.Drawing("cross", "accuracy of each model on each silo", draw))
    if known and len(first.data.classes) <= plots.MOST_CLASSES:
        draw = plots.matrix(first.data.classes, first.data.classes, _confusion(first), ("true class", "answer"))
        found.append(page.Drawing("confusion", "true classes and answers", draw))
    shown = _typical(first.rounds)
    if shown is not None:
        workers = [rank for rank in shown.ranks if rank.train or rank.evaluate or rank.broadcast]
        close = max((rank.broadcast + rank.evaluate + rank.train for rank in workers), default=0.0)
        title = f"Round {shown.round}, the one of median length"
        found.append(page.Drawing("timeline", title, plots.timeline(shown.ranks, close)))
    names = [silo.name for silo in first.data.silos]
    if len(names) <= 2 * MOST_SILOS:
        found.append(page.Drawing("participation", "updates by silo and round", plots.participation(names, _states(first))))
    return {one.name: one for one in found}


def _curves(one: Look, color: int, key: str) -> list[Curve]:
    from silofold.view.plots import Curve  # noqa: PLC0415

    known = [summary for summary in one.rounds if getattr(summary, key) is not None]
    if not known:
        return []
    rounds, values = [summary.round for summary in known], [getattr(summary, key) for summary in known]
    if key != "accuracy":
        return [Curve(f"{one.name}, {key.partition('_')[0]}", rounds, values, dashed=key == "train_loss", color=color)]
    low, high = ([getattr(summary, f"accuracy_{end}") for summary in known] for end in ("low", "high"))
    return [Curve(one.name, rounds, values, low, high, color=color)]


def _gains(first: Look, pairs: Sequence[Pair], names: Sequence[str]) -> list[Drawing]:
    from silofold.view import page, plots  # noqa: PLC0415

    drawings = []
    for number, pair in enumerate(pairs):
        rows = [(name, one) for name, one in zip(names, pair.silos, strict=False) if one]
        if pair.pooled is None or len(rows) > 2 * MOST_SILOS:
            continue
        rows.append(("all silos", pair.pooled))
        title = f"Gain of {first.name} on {pair.name}, in percentage points"
        points = [plots.Gain(name, one.difference, one.low, one.high, sure=one.p < compare.UNSURE) for name, one in rows]
        draw = plots.gains(points, "percentage points")
        drawings.append(page.Drawing(f"gain-{number}", title, draw))
    return drawings


def _chosen(first: Look) -> list[int]:
    """Choose the silos to draw: all, or those with the lowest accuracy; silos without a test image have none."""
    known = [2.0 if one.accuracy is None else one.accuracy for one in first.measures.silos]
    return sorted(sorted(range(len(known)), key=known.__getitem__)[:MOST_SILOS])


def _silo_curves(looks: Sequence[Look], chosen: Sequence[int]) -> list[Drawing]:
    from silofold.view import page, plots  # noqa: PLC0415

    drawings = []
    for silo in chosen:
        name = looks[0].data.silos[silo].name
        lines = []
        for color, one in enumerate(looks):
            pairs = [(r.round, s.accuracy) for r in one.rounds for s in r.silos if s.name == name and s.accuracy is not None]
            if pairs:
                lines.append(plots.Curve(one.name, [r for r, _ in pairs], [value for _, value in pairs], color=color))
        if lines:
            drawings.append(page.Drawing(f"silo-{silo}", name, plots.curves(lines, name, share=True), small=True))
    return drawings


def _histograms(first: Look, chosen: Sequence[int]) -> list[Drawing]:
    from silofold.view import page, plots  # noqa: PLC0415

    counts = np.array([silo.train.histogram for silo in first.data.silos], float)
    everyone = counts.sum(axis=0) / counts.sum()
    drawings = []
    for silo in chosen:
        mine = counts[silo] / max(counts[silo].sum(), 1)
        name = first.data.silos[silo].name
        title = f"{np.abs(mine - everyone).sum() / 2:.0%} {name}"
        draw = plots.bars(mine.tolist(), everyone.tolist(), first.data.classes, title)
        drawings.append(page.Drawing(f"classes-{silo}", f"classes of {name}", draw, small=True))
    return drawings


def _cross(own: Look, first: Look) -> tuple[list[str], list[str], list[Cell]]:
    from silofold.view.plots import Cell  # noqa: PLC0415

    matrix = own.answers.matrix if own.answers.matrix is not None else np.zeros((0, 0))
    sizes = [silo.test.examples for silo in own.data.silos]
    names = [silo.name for silo in own.data.silos]
    rows = [[correct / size if size else None for correct, size in zip(row, sizes, strict=True)] for row in matrix]
    titles = [*names]
    if first is not own and first.answers.tests == own.answers.tests and first.answers.matrix is None:
        rows.append([one.accuracy for one in first.measures.silos])
        titles.append(first.name)
    return titles, names, [
        Cell(i, j, 0.0 if value is None else 0.05 + 0.55 * value, "n/a" if value is None else f"{100 * value:.0f}")
        for i, row in enumerate(rows) for j, value in enumerate(row)
    ]  # fmt: skip


def _confusion(first: Look) -> list[Cell]:
    from silofold.view.plots import Cell  # noqa: PLC0415

    table = np.array(first.measures.confusion)
    sizes = np.maximum(table.sum(axis=1), 1)
    few = len(table) <= 12
    most = 0.5 if few else 0.8  # letters must stay readable on the cell
    return [
        Cell(int(i), int(j), float(0.1 + most * table[i, j] / sizes[i]), str(table[i, j]) if few else "")
        for i, j in zip(*np.nonzero(table), strict=True)
    ]


def _phases(rounds: Sequence[Summary]) -> dict[str, list[float]]:
    """Share out each round's seconds; what overlaps is not counted twice, what is left is `other`."""
    phases = {
        key: [getattr(one.seconds, key) for one in rounds] for key in ("broadcast", "evaluate", "train", "reduce", "apply")
    }
    phases["other"] = [
        max(0.0, one.seconds.total - sum(values[index] for values in list(phases.values())))
        for index, one in enumerate(rounds)
    ]
    return phases


def _typical(rounds: Sequence[Summary]) -> Summary | None:
    """Choose the round of median length among those that tell of their ranks."""
    known = sorted((one for one in rounds if one.ranks), key=lambda one: one.seconds.total)
    return known[len(known) // 2] if known else None


def _states(first: Look) -> list[list[str]]:
    return [
        [
            "accepted" if silo in one.accepted and not one.void else "refused" if silo in one.cohort else "not asked"
            for one in first.rounds
        ]
        for silo in range(len(first.data.silos))
    ]


# --- tables ----------------------------------------------------------------------------------------------------------


def _confused(first: Look) -> list[dict[str, Any]]:
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


def _wrong(first: Look, data: Any) -> list[dict[str, Any]]:
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


def _cost(one: Look) -> dict[str, Any]:
    totals = [summary.seconds.total for summary in one.rounds]
    return {
        "name": one.name,
        "rounds": len(totals),
        "seconds": sum(totals),
        "median": statistics.median(totals),
        "down": sum(summary.bytes_down for summary in one.rounds),
        "up": sum(summary.bytes_up for summary in one.rounds),
    }


def _participation(first: Look) -> str:
    asked = sum(len(one.cohort) for one in first.rounds)
    counted = sum(len(one.accepted) for one in first.rounds if not one.void)
    voids = sum(one.void for one in first.rounds)
    return f"{counted} of {asked} updates that were asked for counted, in {len(first.rounds)} rounds; void rounds: {voids}."


def _reasons(first: Look) -> list[dict[str, Any]]:
    every = [
        {"round": one.round, "silo": silo.name, "reason": silo.reason}
        for one in first.rounds for silo in one.silos if silo.reason
    ]  # fmt: skip
    return every[:MOST_REASONS]
