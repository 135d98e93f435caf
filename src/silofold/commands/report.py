"""``silofold report``: runs on one page that needs no network. Images leave the silos only when they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from silofold.commands import options as shared
from silofold.commands.results import looks, pairs, tables
from silofold.core import files
from silofold.core.console import shown, write
from silofold.core.errors import PluginError, RunFolderError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from silofold.commands.results.looks import Look
    from silofold.commands.results.pairs import Pair
    from silofold.view.page import Drawing


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
        from silofold.view import drawing, page
    except ImportError as fault:
        raise PluginError("extra-missing", f"{fault.name} is not installed: pip install 'silofold[report]'") from None
    runs = looks.look(options.runs, options.data)
    for one in runs:
        if not one.rounds:
            raise RunFolderError("run-empty", f"{one.path}: has no round yet")
    against = pairs.against(runs)
    content, drawn = _content(runs, against, images=options.images, data=options.data)
    content["command"] = f"silofold report {' '.join(str(one.path) for one in runs)}"
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(options.out, page.render(content).encode())
        if options.figures:
            options.figures.mkdir(parents=True, exist_ok=True)
            for figure in drawn:
                for form in ("svg", "png"):
                    files.write_atomically(options.figures / f"{figure.name}.{form}", drawing.save(figure.draw, form))
    except OSError as fault:
        raise RunFolderError("out-write", f"{fault.filename}: cannot be written: {fault.strerror}") from None
    write(f"{pairs.story(runs, against)}\n\n{shown(str(options.out))}: {options.out.stat().st_size / 1e6:.1f} MB\n")
    return 0


def _content(
    runs: Sequence[Look], against: Sequence[Pair], *, images: bool, data: Any
) -> tuple[dict[str, Any], list[Drawing]]:
    """Collect what the template shows, and every drawing in it."""
    from silofold.commands.results import figures

    first = runs[0]
    names = [silo.name for silo in first.data.silos]
    drawn = figures.figures(runs)
    gains = figures.gains(first, against, names)
    chosen = figures.chosen(first)
    silo_curves, histograms = figures.silo_curves(runs, chosen), figures.histograms(first, chosen)
    same = [pair for pair in against if pair.pooled]
    content = {
        "title": f"{first.name}: {tables.result(first)}",
        "facts": tables.facts(first),
        "verdicts": [
            tables.headline(first),
            *(f"{first.name} against {pair.name}: {pairs.verdict(first.name, pair)}." for pair in against),
        ],
        "notes": looks.notes(runs),
        "seeds": pairs.ONE_SEED if same else "",
        "unsure": pairs.UNSURE,
        "merged": first.measures.merged_classes if first.measures.merged else 0,
        "five": any(one.measures.top5 for one in runs),
        "runs": [tables.run(one) for one in runs],
        "pairs": same,
        "personal": first.personalised is not None,
        "silos": tables.silo_rows(runs, same),
        "left_out": f"Shown are the {len(chosen)} silos of {len(names)} with the lowest accuracy."
        if len(chosen) < len(names)
        else "",
        "figures": {key: drawn.get(key) for key in figures.SOMETIMES} | drawn,
        "gains": gains,
        "silo_curves": silo_curves,
        "histograms": histograms,
        "confused": tables.confused(first),
        "wrong": tables.wrong(first, data) if images else [],
        "costs": [tables.cost(one) for one in runs],
        "participation": tables.participation(first),
        "reasons": tables.reasons(first),
    }
    return content, [*drawn.values(), *gains, *silo_curves, *histograms]
