"""``silofold stats``: what is in a folder of silos, in numbers."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from silofold.commands import data_tool
from silofold.core.console import shown
from silofold.core.endings import DONE

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from silofold.commands import options as shared
    from silofold.data.stats import Stats

TEXT = """Say what is in a folder of silos: pictures, classes, groups, brightness, skew, and what looks like a mistake.

Of a silo, counts and sums alone are used. `eff` is how many classes a silo has in effect, e to its entropy; `JS` is how
far its mix is from that of all pooled, in bits: 0 the same, 1 nothing in common. Mean and deviation are of pixels, 0 to
255. Warnings come on standard error.

examples:
  silofold stats silos
  silofold stats silos --json > stats.json
  silofold stats silos --picture skew.svg
"""
MOST_COLUMNS = 12
"""Classes that are printed one by one; beyond them the largest stand there, and the rest as one."""


def add(subparsers: shared.Subparsers) -> None:
    """Add the command's options."""
    data_tool.add(subparsers, "stats", TEXT, options, main)


def options(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder of silos")
    parser.add_argument("--json", action="store_true", help="everything, as one JSON text, in place of the table")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw classes by silo: .svg or .png (extra report)")


def main(options: argparse.Namespace) -> int:
    """Count, and print."""
    from silofold.data import stats

    picture = data_tool.picture_file(options.picture)
    found = stats.of_folder(options.folder)
    if options.json:
        data_tool.tell(json.dumps(asdict(found), ensure_ascii=True))
    else:
        _tell(found)
    if picture:
        data_tool.draw(picture, _names(found), found.classes, [silo.classes for silo in found.silos])
    for line in found.warnings:
        data_tool.warn(options, line)
    return DONE.code


def _tell(found: Stats) -> None:
    import numpy as np

    shape = "x".join(map(str, found.image_shape))
    total = sum(sum(silo.splits.values()) for silo in found.silos)
    data_tool.tell(f"{found.folder}: {len(found.silos)} silos, {total} pictures of {shape}, {len(found.classes)} classes")
    data_tool.tell(f"from {found.source}")
    splits = list(found.silos[0].splits)
    rows = [["silo", *splits, f"{found.group}s", "classes", "eff", "JS", "mean", "deviation"]]
    for name, silo in zip(map(shown, _names(found)), found.silos, strict=True):
        present = sum(count > 0 for count in silo.classes)
        numbers = [*(silo.splits[split] for split in splits), silo.groups, present]
        skewed = [f"{silo.effective_classes:.1f}", f"{silo.divergence:.3f}"]
        rows.append([name, *map(str, numbers), *skewed, _numbers(silo.mean), _numbers(silo.deviation)])
    sums = [str(sum(silo.splits[split] for silo in found.silos)) for split in splits]
    groups, present = (
        sum(silo.groups for silo in found.silos),
        sum(any(s.classes[c] for s in found.silos) for c in range(len(found.classes))),
    )
    rows.append(["all", *sums, str(groups), str(present), "", "", _numbers(found.mean), _numbers(found.deviation)])
    data_tool.tell_table(rows)
    data_tool.tell("")
    tell_classes([silo.name for silo in found.silos], found.classes, np.array([silo.classes for silo in found.silos]))


def _names(found: Stats) -> list[str]:
    return [silo.name + (" (external)" if silo.role == "external" else "") for silo in found.silos]


def _numbers(values: Sequence[float]) -> str:
    return "/".join(f"{value:.1f}" for value in values)


def tell_classes(silos: Sequence[str], classes: Sequence[str], counts: NDArray[np.int64]) -> None:
    """Print silos by classes (S, K), with two numbers of skew."""
    from silofold.data import skew

    order = list(range(len(classes)))
    if len(classes) > MOST_COLUMNS:
        largest = sorted(order, key=lambda label: (-int(counts[:, label].sum()), label))[: MOST_COLUMNS - 1]
        order = sorted(largest)
    rest = [label for label in range(len(classes)) if label not in set(order)]
    head = ["silo", *(shown(classes[label])[:12] for label in order), *([f"{len(rest)} others"] if rest else [])]
    rows = [[*head, "sum", "eff", "JS"]]
    effective, divergence = skew.effective_classes(counts), skew.distance_to_pooled(counts)
    for name, row, eff, far in zip(silos, counts, effective, divergence, strict=True):
        others = [str(int(row[rest].sum()))] if rest else []
        rows.append(
            [
                shown(name),
                *(str(int(row[label])) for label in order),
                *others,
                str(int(row.sum())),
                f"{eff:.1f}",
                f"{far:.3f}",
            ]
        )
    pooled = counts.sum(axis=0)
    others = [str(int(pooled[rest].sum()))] if rest else []
    rows.append(["sum", *(str(int(pooled[label])) for label in order), *others, str(int(pooled.sum())), "", ""])
    data_tool.tell_table(rows)
