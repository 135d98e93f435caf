"""Make handwriting-like pictures when no real data is at hand: 62 classes, 28x28, dark ink on white paper.

OUT gets <writer>/{train,test}/<class>/<class>_<character>_<i>.png, train to test 9 to 1. Every writer has a hand of
their own (typeface, slant, stroke, size, shapes of single letters) and a mix of classes of their own, so that silos
differ. Every class occurs in some writer's train split. A writer's pictures follow from --seed, the writer's number and
the number of writers alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from silofold.core.errors import SchemaError
from silofold.data import space, work
from silofold.data.glyphs import GRID, REACH, TYPEFACES, fields
from silofold.data.sources.tree import FEMNIST

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SIDE: Final = 28
CLASSES: Final = len(FEMNIST)
# Half of what people were asked to write were digits.
_PRIOR: Final = np.concatenate([np.full(10, 0.5 / 10), np.full(CLASSES - 10, 0.5 / (CLASSES - 10))])
_WAVES: Final = 4


@dataclass(frozen=True)
class Writer:
    """Which writer of how many, and how many pictures to make."""

    out: Path
    number: int
    writers: int
    seed: int
    images: int


def labels_of(writer: Writer, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the classes of a writer's train and test pictures.

    Writer k of n shows the classes k, k + n, … in train whatever the mix, so that each class occurs.
    """
    due = np.arange(writer.number, CLASSES, writer.writers)
    size = max(int(writer.images * rng.uniform(0.8, 1.2)), len(due) + 1, 2)
    train = max(int(0.9 * size), len(due))
    drawn = rng.choice(CLASSES, size - len(due), p=rng.dirichlet(_PRIOR * CLASSES * 0.8))
    labels = np.concatenate([due, drawn])
    return rng.permutation(labels[:train]), labels[train:]


def draw(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one writer's pictures (N, 28, 28) uint8 of classes (N,)."""
    count = len(labels)
    usual, other = rng.integers(len(TYPEFACES)), rng.integers(len(TYPEFACES), size=CLASSES)
    faces = np.where(rng.random(CLASSES) < 0.7, usual, other)
    own_shapes = _bend(rng, CLASSES, rng.uniform(0.04, 0.11))[labels]
    points = _pen_points(count, rng) + own_shapes + _bend(rng, count, rng.uniform(0.03, 0.07))
    gap = _sample(faces[labels], labels, points)
    stroke = rng.uniform(0.03, 0.065) * np.exp(rng.normal(0, 0.12, (count, 1, 1)))
    soft = rng.uniform(0.04, 0.08)
    ink = np.clip((stroke - gap) / soft + 0.5, 0, 1) * rng.uniform(0.75, 1, (count, 1, 1))
    grain = rng.normal(0, rng.uniform(0.01, 0.05), ink.shape)
    return np.rint(255 * (1 - np.clip(ink + np.where(ink > 0, grain, 0), 0, 1))).astype(np.uint8)


def _pen_points(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Say where in the letter each pixel lies, (count, 28, 28, 2): slant, turn and size of hand and of try."""
    axis = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
    pixels = np.stack(np.meshgrid(axis, axis), axis=-1)
    slant = rng.normal(0.12, 0.2) + rng.normal(0, 0.06, count)
    turn = rng.normal(0, 0.07) + rng.normal(0, 0.05, count)
    size = rng.uniform(0.62, 0.85) * np.exp(rng.normal(0, 0.07, count))
    width = np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.07, count))
    cos, sin = np.cos(turn), np.sin(turn)
    upright = np.stack([[np.ones(count), slant], [np.zeros(count), np.ones(count)]])
    turned = np.stack([[cos, -sin], [sin, cos]])
    scale = np.stack([1 / (size * width), 1 / size])
    matrix = np.einsum("ijn,jkn->nik", upright, turned) * scale.T[:, :, None]
    shift = rng.normal(0, 0.05, (count, 1, 1, 2))
    # A letter is 1 high and `pixels` 2; at size 1 the picture is to be 1.2 high.
    points: NDArray[np.float64] = 0.6 * np.einsum("nik,hwk->nhwi", matrix, pixels) + shift
    return points


def _bend(rng: np.random.Generator, count: int, strength: float) -> NDArray[np.float64]:
    """Bend the paper smoothly, (count, 28, 28, 2): a few random waves, long ones stronger."""
    order = np.arange(_WAVES)
    waves = np.cos(np.pi * order * (np.arange(SIDE)[:, None] + 0.5) / SIDE)
    decay = strength / (1 + order[:, None] + order)
    weights = rng.normal(size=(count, _WAVES, _WAVES, 2)) * decay[..., None]
    bend: NDArray[np.float64] = np.einsum("hj,njkc,wk->nhwc", waves, weights, waves, optimize=True)
    return bend


def _sample(faces: NDArray[np.int64], labels: NDArray[np.int64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Read distance fields between grid points."""
    place = np.clip((points + REACH) / (2 * REACH) * (GRID - 1), 0, GRID - 1.001)
    low = place.astype(np.int64)
    x, y = np.moveaxis(place - low, -1, 0)
    column, row = np.moveaxis(low, -1, 0)
    table = fields()
    face, label = faces[:, None, None], labels[:, None, None]
    above = table[face, label, row, column] * (1 - x) + table[face, label, row, column + 1] * x
    below = table[face, label, row + 1, column] * (1 - x) + table[face, label, row + 1, column + 1] * x
    gap: NDArray[np.float64] = above * (1 - y) + below * y
    return gap


def write(writer: Writer) -> int:
    """Make one writer's folder and return how many pictures it holds.

    Raises
    ------
    SchemaError
        A picture cannot be written.
    """
    rng = np.random.default_rng([writer.seed, writer.number])
    name = f"synth_{writer.number:0{max(4, len(str(writer.writers - 1)))}d}"
    train, test = labels_of(writer, rng)
    pictures = draw(np.concatenate([train, test]), rng)
    for split, labels, drawn in (("train", train, pictures[: len(train)]), ("test", test, pictures[len(train) :])):
        for place, (label, picture) in enumerate(zip(labels, drawn, strict=True)):
            path = writer.out / name / split / str(label) / f"{label}_{FEMNIST[label]}_{place}.png"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(path)
            except OSError as error:
                raise SchemaError("data-write", f"{path}: cannot be written: {error.strerror or error}") from error
    return len(pictures)


def synthesize(out: Path, writers: int, seed: int, images: int, jobs: int) -> int:
    """Make a tree of so many writers with about so many images each, and return how many pictures it holds.

    Raises
    ------
    SchemaError
        The tree cannot be written.
    """
    fields()  # once here, so that the processes inherit them
    with work.new_folder(out) as partial:
        least = int(0.8 * images) * writers
        space.check(partial, least * space.of_files(partial, [1]), out)
        tasks = [Writer(partial, number, writers, seed, images) for number in range(writers)]
        return sum(work.each(write, tasks, jobs, "writer"))
