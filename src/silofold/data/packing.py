"""Writing a folder of silos out of pictures whose silo, split, class and group are known: a process for each silo file."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from silofold.core.errors import SchemaError
from silofold.data import packing_notes, work
from silofold.data.manifest import write_manifest
from silofold.data.packing_notes import Packed
from silofold.data.samples import CODES, Picture
from silofold.data.schema import SCHEMA, SplitStream
from silofold.data.verify import image_keys
from silofold.data.writer import write_silo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from silofold.data.fitting import Fitting
    from silofold.data.samples import Samples, Source
    from silofold.data.schema import Batch, Layout, Manifest, Role, SplitName

BATCH = 512


class Pictures(Protocol):
    """The pictures of one silo, in a form that is sent to another process."""

    def listing(self, split: SplitName) -> list[Picture]:
        """Name the pictures of a split in canonical order: writer, class, place."""

    def fill(self, images: NDArray[np.uint8], pictures: Sequence[Picture], fitting: Fitting, notes: list[str]) -> None:
        """Read pictures into (B, H, W[, 3]); add to `notes` what is wrong with those that were read all the same."""


class Noise(NamedTuple):
    """Gaussian noise that is added to the pixels of a silo: its standard deviation as a share of 255, and its seed."""

    deviation: float
    seed: tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """All that a process needs to pack one silo.

    Parameters
    ----------
    origin
        Where its pictures come from, in words, for messages.
    allow_empty_test
        Whether the test split may be empty.
    writers
        Groups of the silo in the order of their numbers; those that occur, by name, if none is given.
    """

    pictures: Pictures
    name: str
    origin: str
    path: Path
    layout: Layout
    fitting: Fitting
    allow_empty_test: bool = False
    role: Role = "train"
    noise: Noise | None = None
    writers: tuple[str, ...] = ()


def write_folder(partial: Path, layout: Layout, jobs: Sequence[Job], processes: int) -> tuple[Manifest, list[str]]:
    """Write every silo file and ``silos.json``; return what it says and what there is to warn of.

    Raises
    ------
    SchemaError
        Something in the input is not as it should be, or the folder cannot be written.
    """
    packed = list(work.each(pack_silo, jobs, processes, "silo"))
    manifest = write_manifest(partial, layout, packing_notes.count_duplicates(packed))
    return manifest, packing_notes.all_of(manifest, packed)


def pack_silo(job: Job) -> Packed:
    """Write one silo file; the names of all its pictures are in memory, and the pixels of one batch at a time.

    Raises
    ------
    SchemaError
        A picture cannot be read, a split is empty, or the file cannot be written.
    """
    listings = {split: job.pictures.listing(split) for split in job.layout.splits}
    needed: tuple[SplitName, ...] = ("test",) if job.role == "external" else ("train", "test")
    for split in needed:
        if not listings[split] and not (split == "test" and job.allow_empty_test and job.role == "train"):
            hint = "; --allow-empty-test lets it pass" if split == "test" and job.role == "train" else ""
            raise SchemaError(
                "data-empty", f"empty silo {job.name} ({job.origin}): found no {split} picture, expected at least 1{hint}"
            )
    order = job.writers or tuple(sorted({picture.writer for listing in listings.values() for picture in listing}))
    seen = {split: _Seen([], [], []) for split in job.layout.splits}
    splits: dict[SplitName, SplitStream] = {
        split: SplitStream(len(listing), _batches(job, split, listing, order, seen[split]))
        for split, listing in listings.items()
    }
    info = write_silo(job.path, job.name, order, job.layout, splits, job.role)
    keys = {split: np.concatenate([np.empty(0, np.uint64), *each.keys]) for split, each in seen.items()}
    writers = np.concatenate([np.empty(0, np.int32), *(part for each in seen.values() for part in each.writers)])
    notes = tuple(note for each in seen.values() for note in each.notes)
    return Packed(info, keys["train"], keys["test"], np.concatenate(list(keys.values())), writers, notes)


class _Seen(NamedTuple):
    """What stays of the pictures of a split, by batches."""

    keys: list[NDArray[np.uint64]]
    writers: list[NDArray[np.int32]]
    notes: list[str]


def _batches(
    job: Job, split: SplitName, listing: Sequence[Picture], writers: tuple[str, ...], seen: _Seen
) -> Iterator[Batch]:
    place = {writer: index for index, writer in enumerate(writers)}
    for start in range(0, len(listing), BATCH):
        chunk = listing[start : start + BATCH]
        images = np.empty((len(chunk), *job.layout.image_shape), np.uint8)
        job.pictures.fill(images, chunk, job.fitting, seen.notes)
        if job.noise and job.noise.deviation:
            rng = np.random.default_rng([*job.noise.seed, CODES[split], start])
            noisy = images + rng.normal(0.0, 255 * job.noise.deviation, images.shape)
            images = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
        seen.keys.append(image_keys(images))
        seen.writers.append(np.array([place[picture.writer] for picture in chunk], np.int32))
        yield images, np.array([picture.label for picture in chunk], np.int32), seen.writers[-1]


class Reads(Protocol):
    """What reads single pictures."""

    def image(self, path: str, place: int, fitting: Fitting) -> NDArray[np.uint8]:
        """Read one picture as (H, W) or (H, W, 3) uint8."""


def fill_one_by_one(
    source: Reads, images: NDArray[np.uint8], pictures: Sequence[Picture], fitting: Fitting, notes: list[str]
) -> None:
    """Read pictures with `Source.image`; what Pillow warns of becomes a note."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for row, picture in enumerate(pictures):
            images[row] = source.image(picture.path, picture.place, fitting)
            if told:
                notes.append(f"{picture.path}: {told[0].message}")
                told.clear()


@dataclass(frozen=True)
class Rows:
    """The pictures of one silo of `Samples`, in columns: group, label, file and place of each, by split."""

    source: Source
    groups: tuple[str, ...]
    splits: dict[SplitName, tuple[NDArray[np.int32], NDArray[np.int32], Sequence[str], NDArray[np.int64]]]

    def listing(self, split: SplitName) -> list[Picture]:
        """Name the pictures of a split in canonical order."""
        group, label, paths, place = self.splits[split]
        names = paths if len(paths) == len(label) else [paths[0]] * len(label)
        columns = ([self.groups[code] for code in group], label.tolist(), names, place.tolist())
        return [Picture(*values) for values in zip(*columns, strict=True)]

    def fill(self, images: NDArray[np.uint8], pictures: Sequence[Picture], fitting: Fitting, notes: list[str]) -> None:
        """Read pictures, all at once where the source can."""
        many = getattr(self.source, "many", None)
        if many is None or not many(images, pictures, fitting):
            fill_one_by_one(self.source, images, pictures, fitting, notes)


def jobs_of(
    source: Source, samples: Samples, partial: Path, layout: Layout, fitting: Fitting, *, allow_empty_test: bool
) -> list[Job]:
    """Make a job for each silo of samples."""
    jobs = []
    for number, name in enumerate(samples.silos):
        splits = {}
        codes: set[int] = set()
        for split in layout.splits:
            rows = samples.part(number, split)
            paths = samples.paths if len(samples.paths) == 1 else [samples.paths[row] for row in rows]
            splits[split] = (samples.group[rows], samples.label[rows], paths, samples.place[rows])
            codes.update(samples.group[rows].tolist())
        used = sorted(codes)
        new = np.zeros(len(samples.groups), np.int32)
        new[used] = np.arange(len(used))
        own = {split: (new[group], *rest) for split, (group, *rest) in splits.items()}
        rows_of = Rows(source, tuple(samples.groups[code] for code in used), own)  # type: ignore[arg-type]
        role: Role = "external" if name in samples.external else "train"
        path = partial / f"silo_{number:04d}.h5"
        jobs.append(Job(rows_of, name, source.words, path, layout, fitting, allow_empty_test, role))
    return jobs


def schema_of(samples: Samples) -> int:
    """Tell which schema can hold samples: the second one only where it is needed."""
    return 2 if samples.external or (samples.split == CODES["validation"]).any() else SCHEMA
