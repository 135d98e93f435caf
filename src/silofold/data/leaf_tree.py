"""Turning LEAF's JSON shards of FEMNIST into a tree of pictures, without loss."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from silofold.core.errors import SchemaError
from silofold.data import space, work
from silofold.data.schema import SPLITS
from silofold.data.sources.leaf import Shard, read_shard, shards
from silofold.data.sources.tree import FEMNIST, shard_files

if TYPE_CHECKING:
    from pathlib import Path


class Exported(NamedTuple):
    """How much was written."""

    writers: int
    pictures: int
    shards: int


def export(folder: Path, out: Path, jobs: int) -> Exported:
    """Make a tree ``<writer>/{train,test}/<class>/<class>_<character>_<i>.png`` of LEAF's shards.

    Raises
    ------
    SchemaError
        A shard is damaged, or the tree cannot be written.
    """
    for split in SPLITS:
        if not shard_files(folder / split):
            raise SchemaError("leaf-shard", f"{folder / split}: found no *.json, expected LEAF's shards")
    with work.new_folder(out) as partial:
        plan = shards(folder, jobs)
        files = sum(sum(shard.counts.values()) for shard in plan)
        space.check(partial, files * space.of_files(partial, [1]), out)
        pictures = sum(work.each(_export, [(shard, partial) for shard in plan], jobs, "shard"))
    return Exported(len({user for shard in plan for user in shard.offsets}), pictures, len(plan))


def _export(task: tuple[Shard, Path]) -> int:
    shard, out = task
    pictures = 0
    for user, images, labels in read_shard(shard.path):
        home = out / user / shard.split
        for label in np.unique(labels):
            (home / str(label)).mkdir(parents=True, exist_ok=True)
        for place, image, label in zip(itertools.count(shard.offsets[user]), images, labels, strict=False):
            path = home / str(label) / f"{label}_{FEMNIST[label]}_{place}.png"
            try:
                with path.open("xb") as file:
                    Image.fromarray(image).save(file, "png")
            except OSError as error:
                raise SchemaError("data-write", f"{path}: cannot be written: {error.strerror or error}") from error
        pictures += len(labels)
    return pictures
