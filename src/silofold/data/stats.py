"""What is in a folder of silos, in numbers: counts, classes, groups, brightness, skew, and what looks like a mistake.

Of each silo counts and sums alone are used, so that what is told of it gives no picture away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from silofold.data import skew
from silofold.data.manifest import read_manifest
from silofold.data.naming import alike
from silofold.data.reader import Reader
from silofold.data.schema import SCHEMA_2, channels_of
from silofold.data.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from silofold.data.schema import Manifest, SiloInfo

FEW: Final = 10
"""Train pictures below which a silo is told of."""


@dataclass(frozen=True)
class SiloStats:
    """What is known of a silo.

    Parameters
    ----------
    splits
        Pictures by split.
    classes
        Pictures of each class, of all splits.
    effective_classes, divergence
        Of the class mix; `silofold.data.skew` says how.
    mean, deviation
        Of the pixels of each channel, 0 to 255, all splits together.
    """

    name: str
    role: str
    groups: int
    splits: dict[str, int]
    classes: list[int]
    effective_classes: float
    divergence: float
    mean: list[float]
    deviation: list[float]
    duplicates: int


@dataclass(frozen=True)
class Stats:
    """What is known of a folder of silos; ``silofold stats --json`` prints this."""

    folder: str
    digest: str
    schema: int
    image_shape: list[int]
    source: str
    group: str
    classes: list[str]
    silos: list[SiloStats]
    mean: list[float]
    deviation: list[float]
    warnings: list[str]


def of_folder(folder: Path) -> Stats:
    """Count what a folder of silos holds; pixels are read where its schema does not keep their sums.

    Raises
    ------
    SchemaError
        The folder or a file is missing or damaged.
    """
    manifest = read_manifest(folder, external=True)
    counts = class_counts(manifest)
    effective, divergence = skew.effective_classes(counts), skew.distance_to_pooled(counts)
    reader = Reader(folder, manifest, manifest.silos)
    sums = np.array([_sums(reader, silo, manifest) for silo in manifest.silos], dtype=object)  # (S, 2, C), whole numbers
    pixels = [silo.examples * math.prod(manifest.image_shape[:2]) for silo in manifest.silos]
    silos = []
    for number, silo in enumerate(manifest.silos):
        mean, deviation = moments(sums[number], pixels[number])
        splits: dict[str, int] = {split: info.examples for split in manifest.splits if (info := silo.split(split))}
        told = float(effective[number]), float(divergence[number])
        own = SiloStats(
            silo.name, silo.role, len(silo.writers), splits, counts[number].tolist(), *told, mean, deviation, silo.duplicates
        )
        silos.append(own)
    return Stats(
        str(folder), manifest.digest, manifest.schema, list(manifest.image_shape), manifest.source, manifest.group,
        list(manifest.classes), silos, *moments(sums.sum(axis=0), sum(pixels)), list(warnings_of(manifest, counts)),
    )  # fmt: skip


def class_counts(manifest: Manifest) -> NDArray[np.int64]:
    """Count the pictures of each silo and class (S, K), all splits together."""
    rows = [[silo.split(split) for split in manifest.splits] for silo in manifest.silos]
    found: NDArray[np.int64] = np.array([[info.histogram for info in row if info] for row in rows], np.int64).sum(axis=1)
    return found


def _sums(reader: Reader, silo: SiloInfo, manifest: Manifest) -> list[list[int]]:
    """Sum pixels and their squares by channel, all splits together: out of the manifest, or by reading them."""
    channels = channels_of(manifest.image_shape)
    total = [[0] * channels, [0] * channels]
    for split in manifest.splits:
        info = silo.split(split)
        if not info or not info.examples:
            continue
        if manifest.schema == SCHEMA_2:
            found = info.sums, info.squares
        else:
            tally = Tally(len(manifest.classes), channels)
            for piece in reader.pieces(silo, split):
                tally.see_images(piece)
            found = tally.sums()
        total = [[a + b for a, b in zip(one, other, strict=True)] for one, other in zip(total, found, strict=True)]
    return total


def moments(sums: NDArray[np.object_], pixels: int) -> tuple[list[float], list[float]]:
    """Tell mean and standard deviation out of whole sums (2, C): without the error of a running sum.

    >>> moments(np.array([[6], [20]], dtype=object), 2)
    ([3.0], [1.0])
    """
    means, deviations = [], []
    for total, squares in zip(*sums.tolist(), strict=True):
        means.append(total / pixels if pixels else 0.0)
        deviations.append(math.sqrt(squares * pixels - total * total) / pixels if pixels else 0.0)
    return means, deviations


def warnings_of(manifest: Manifest, counts: NDArray[np.int64]) -> Iterator[str]:
    """Tell what looks like a mistake, or will make training hard."""
    trained = np.array([silo.train.histogram for silo in manifest.silos], np.int64)
    for label, name in enumerate(manifest.classes):
        holders = [silo.name for silo, row in zip(manifest.silos, counts, strict=True) if row[label]]
        if not holders:
            continue
        if not trained[:, label].any():
            yield f"class {name!r}: no train picture in any silo"
        elif len(holders) == 1 and len(manifest.silos) > 1:
            yield f"class {name!r}: in the silo {holders[0]} only"
    unused = [name for label, name in enumerate(manifest.classes) if not counts[:, label].any()]
    if unused:
        yield f"{len(unused)} classes without a picture: {', '.join(unused[:5])}" + (", …" if len(unused) > 5 else "")
    for what, names in (
        ("classes", [name for name in manifest.classes if len(name) > 1]),
        (f"{manifest.group}s", [writer for silo in manifest.silos for writer in silo.writers]),
        ("silos", [silo.name for silo in manifest.silos]),
    ):
        pairs = alike(names)
        if pairs:
            more = f", and {len(pairs) - 1} more such" if len(pairs) > 1 else ""
            yield f"{what} {pairs[0][0]!a} and {pairs[0][1]!a} differ by case, zeros, blanks or Unicode form alone{more}"
    yield from _silo_warnings(manifest, counts)


def _silo_warnings(manifest: Manifest, counts: NDArray[np.int64]) -> Iterator[str]:
    for silo, row in zip(manifest.silos, counts, strict=True):
        if silo.role == "train" and (row > 0).sum() == 1 and len(manifest.classes) > 1:
            yield f"silo {silo.name}: pictures of one class only"
        if silo.role == "train" and silo.train.examples < FEW:
            yield f"silo {silo.name}: {silo.train.examples} train pictures"
        if not silo.test.examples:
            yield f"silo {silo.name}: no test picture"
        if silo.duplicates:
            yield f"silo {silo.name}: {silo.duplicates} test pictures also stand in a train split"
