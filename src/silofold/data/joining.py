"""Putting folders of silos together that were packed apart, each at its own site: no picture is packed anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from silofold.core.errors import SchemaError
from silofold.data import work
from silofold.data.fitting import of_words
from silofold.data.manifest_faults import overlaps
from silofold.data.packing import Job, write_folder
from silofold.data.reader import reader_of
from silofold.data.samples import Picture, few
from silofold.data.schema import MANIFEST, Layout
from silofold.data.sources.silo_folder import SiloFolder, open_silos

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from silofold.data.fitting import Fitting
    from silofold.data.schema import Manifest, SplitName


@dataclass(frozen=True)
class SiloPictures:
    """The pictures of a silo as its file holds them, in its order."""

    source: SiloFolder
    number: int

    def listing(self, split: SplitName) -> list[Picture]:
        """Name the pictures of a split."""
        manifest = self.source.manifest
        if split not in manifest.splits:
            return []
        silo = manifest.silos[self.number]
        found = reader_of(self.source.folder, manifest).read(silo, split)  # which checks its digest
        names = [silo.writers[code] for code in found.writer]
        path = f"{self.number}/{split}"
        return [Picture(*values, path, place) for place, values in enumerate(zip(names, found.labels.tolist(), strict=True))]

    def fill(self, images: NDArray[np.uint8], pictures: Sequence[Picture], fitting: Fitting, notes: list[str]) -> None:
        """Read pictures as they are."""
        del notes
        self.source.many(images, pictures, fitting)


def join(folders: Sequence[Path], out: Path, jobs: int) -> tuple[Manifest, list[str]]:
    """Put the silos of several folders into one new folder, by name.

    Returns
    -------
    tuple
        What ``silos.json`` says, and what there is to warn of.

    Raises
    ------
    SchemaError
        The folders have other classes or sizes, silos of one name, or a group in common.
    """
    sources = [open_silos(folder) for folder in folders]
    for source in sources[1:]:
        _check_fit(sources[0], source)
    homes: dict[str, Path] = {}
    for source in sources:
        for silo in source.manifest.silos:
            other = homes.setdefault(silo.name, source.folder)
            if other is not source.folder:
                raise SchemaError(
                    "join-fit", f"silo {silo.name}: found it in {other} and in {source.folder}, expected each name once"
                )
    for group, names in overlaps(silo for source in sources for silo in source.manifest.silos).items():
        raise SchemaError(
            "join-fit",
            f"the group {group!r} stands in the silos {', '.join(names)}, expected each in one silo; if others are "
            "meant by the same name, pack one site again with other names",
        )
    layout = _layout(sources)
    found = sorted(
        (
            (source.manifest.silos[number].name, source, number)
            for source in sources
            for number in range(len(source.manifest.silos))
        ),
        key=lambda row: row[0],
    )
    with work.new_folder(out) as partial:
        tasks = []
        for place, (name, source, number) in enumerate(found):
            silo = source.manifest.silos[number]
            path, fitting = partial / f"silo_{place:04d}.h5", of_words("", layout.image_shape)
            tasks.append(
                Job(
                    SiloPictures(source, number), name, str(source.folder), path, layout, fitting,
                    allow_empty_test=True, role=silo.role, writers=silo.writers,
                )
            )  # fmt: skip
        return write_folder(partial, layout, tasks, jobs)


def _check_fit(first: SiloFolder, other: SiloFolder) -> None:
    """Refuse folders that could not be one."""
    one, two = first.manifest, other.manifest
    where = f"{other.folder / MANIFEST}"
    if one.classes != two.classes:
        missing = [name for name in one.classes if name not in two.classes]
        more = [name for name in two.classes if name not in one.classes]
        told = f"lacks {few(missing)}" if missing else ""
        told += (" and " if told and more else "") + (f"has {few(more)} besides" if more else "")
        raise SchemaError(
            "join-fit",
            f"{where}: classes: {told or 'they come in another order'}, compared with {first.folder}; "
            f"pack it with --like {first.folder}",
        )
    for key in ("image_shape", "interpolation"):
        if getattr(one, key) != getattr(two, key):
            raise SchemaError(
                "join-fit",
                f"{where}: {key}: found {getattr(two, key)}, expected {getattr(one, key)} as {first.folder} has; "
                f"pack it with --like {first.folder}",
            )


def _layout(sources: Sequence[SiloFolder]) -> Layout:
    first = sources[0].manifest
    words = "; ".join(dict.fromkeys(source.manifest.source for source in sources))
    if len(words) > 50_000:
        words = f"{words[:50_000]} …"
    schema = max(source.manifest.schema for source in sources)
    groups = {source.manifest.group for source in sources}
    group = groups.pop() if len(groups) == 1 else "group"
    return Layout(first.classes, first.image_shape, first.interpolation, words, schema, group)
