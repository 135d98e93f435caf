"""Small silos that a small model can learn, and settings of three short rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from silofold.data import silo

if TYPE_CHECKING:
    from pathlib import Path

SIZES = (61, 18, 40, 33, 25, 52)


def pack(folder: Path, sizes: tuple[int, ...] = SIZES, classes: int = 5, seed: int = 3) -> Path:
    """Write silos of 16×16 pictures that a small model can learn: a bright square whose place is the class."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    layout = silo.Layout(tuple(f"class {c}" for c in range(classes)), (16, 16), "none", "made by a test")

    def stream(size: int) -> silo.SplitStream:
        labels = rng.integers(classes, size=size).astype(np.int32)
        images = rng.integers(0, 60, size=(size, 16, 16)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[3 * label : 3 * label + 3, 2:14] += 180
        return silo.SplitStream(size, [(images, labels, np.zeros(size, np.int32))])

    infos = []
    for index, size in enumerate(sizes):
        name = f"silo_{index:04d}"
        splits: dict[silo.SplitName, silo.SplitStream] = {"train": stream(size), "test": stream(10 + index)}
        infos.append(silo.write_silo(folder / f"{name}.h5", name, (f"writer {index}",), layout, splits))
    silo.write_manifest(folder, layout, infos)
    return folder


RECIPE = """
seed = 5
[rounds]
count = 3
start_window = 60
update_window = 60
[local]
epochs = 2
batch_size = 8
lr = 0.05
[model]
name = "lenet"
"""
