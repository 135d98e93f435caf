"""LEAF's shards as a source of pictures: spooled first, one byte a pixel, so that users can be read by name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from silofold.core.errors import SchemaError
from silofold.data import space, work
from silofold.data.picture import pixels
from silofold.data.samples import Picture
from silofold.data.sources.leaf import SIDE, Shard, read_shard, shards

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from silofold.data.fitting import Fitting
    from silofold.data.schema import SplitName


@dataclass(frozen=True)
class SpoolSource:
    """Pictures out of LEAF's shards, spooled as one array a user, split and shard so that users can be read by name."""

    spool: Path
    parts: dict[tuple[str, SplitName], tuple[int, ...]]

    def pictures(self, folder: str, split: SplitName) -> Iterable[Picture]:
        """Yield the pictures of a folder in canonical order: writer, class, place."""
        rows: list[tuple[int, int, int]] = []
        for part in self.parts.get((folder, split), ()):
            labels = np.fromfile(_spooled(self.spool, folder, part, "labels"), np.int32)
            rows += [(int(label), part, place) for place, label in enumerate(labels)]
        return (
            Picture(folder, label, str(_spooled(self.spool, folder, part, "images")), place)
            for label, part, place in sorted(rows)
        )

    def image(self, path: str, place: int, fitting: Fitting) -> NDArray[np.uint8]:
        """Read one picture as (H, W) or (H, W, 3) uint8."""
        return pixels(Image.fromarray(_load_spooled(path)[place]), fitting.shape, fit=fitting.fit)


def _spooled(spool: Path, user: str, part: int, what: str) -> Path:
    return spool / f"{what}_{part}_{user}"


@lru_cache(maxsize=4)
def _load_spooled(path: str) -> NDArray[np.uint8]:
    return np.fromfile(path, np.uint8).reshape(-1, SIDE, SIDE)


def _spool(task: tuple[int, Shard, Path]) -> None:
    part, shard, spool = task
    for user, images, labels in read_shard(shard.path):
        for what, values in (("images", images), ("labels", labels)):
            path = _spooled(spool, user, part, what)
            try:
                path.write_bytes(values.tobytes())
            except OSError as error:
                raise SchemaError("data-write", f"{path}: cannot be written: {error.strerror or error}") from error


def leaf_source(folder: Path, spool: Path, jobs: int) -> tuple[SpoolSource, tuple[str, ...]]:
    """Spool the shards; return the source and its users in name order."""
    plan = shards(folder, jobs)
    tasks = [(part, shard, spool) for part, shard in enumerate(plan)]
    sizes = [count * (SIDE * SIDE + 4) for shard in plan for count in shard.counts.values()]
    space.check(spool, space.of_files(spool, sizes), spool)
    for _ in work.each(_spool, tasks, jobs, "shard"):
        pass
    parts: dict[tuple[str, SplitName], tuple[int, ...]] = {}
    for part, shard in enumerate(plan):
        for user in shard.offsets:
            parts[user, shard.split] = (*parts.get((user, shard.split), ()), part)
    return SpoolSource(spool, parts), tuple(sorted({user for user, _ in parts}))
