"""Pack pictures into silo files: silo_0000.h5, silo_0001.h5, … and silos.json.

IN is one of three things, which the tool tells apart by itself:
  a raw tree       <writer>/{train,test}/<class>/<picture>     each writer is one silo, or see --silos
  a combined tree  dataset_<i>/{train,test}/<class>/<picture>  each dataset is one silo
  LEAF's JSON      {train,test}/*.json                         each user is one silo, or see --silos
With --silos the first --users writers in name order are spread evenly over that many silos.
Pictures are turned to --mode, then brought to --size by bilinear interpolation.
"""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from PIL import Image

import console
from combine import first, spread
from leaf import SIDE, Shard, read_shard, shards
from silofold.core.console import shown
from silofold.core.errors import SchemaError
from silofold.data import space
from silofold.data.picture import load, pixels
from silofold.data.silo import (
    SPLITS,
    Batch,
    Layout,
    Manifest,
    SiloInfo,
    SplitName,
    SplitStream,
    image_keys,
    overlaps,
    write_manifest,
    write_silo,
)
from tree import FEMNIST, Kind, Picture, Tree, alike, class_folders, kind_of, natural, read_combined, readable, writers_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

BATCH = 512
MOST_CLASSES = 8000
"""An attribute of HDF5 holds 64 KiB, and the histogram of a split is one."""
_FOUND = {"leaf": "LEAF JSON", "combined": "a combined tree", "raw": "a raw tree"}


class Source(Protocol):
    """Where pictures come from."""

    def pictures(self, folder: str, split: SplitName) -> Iterable[Picture]:
        """Yield the pictures of a folder in canonical order: writer, class, place."""

    def image(self, picture: Picture, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Read one picture as (H, W) or (H, W, 3) uint8."""


@dataclass(frozen=True)
class FileSource:
    """Pictures that are files of a tree."""

    tree: Tree

    def pictures(self, folder: str, split: SplitName) -> Iterable[Picture]:
        """Yield the pictures of a folder in canonical order: writer, class, place."""
        return self.tree.pictures(folder, split)

    def image(self, picture: Picture, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Read one picture as (H, W) or (H, W, 3) uint8."""
        return load(picture.path, shape)


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

    def image(self, picture: Picture, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Read one picture as (H, W) or (H, W, 3) uint8."""
        return pixels(Image.fromarray(_load_spooled(picture.path)[picture.place]), shape)


def _spooled(spool: Path, user: str, part: int, what: str) -> Path:
    return spool / f"{what}_{part}_{user}"


@lru_cache(maxsize=4)
def _load_spooled(path: str) -> NDArray[np.uint8]:
    return np.fromfile(path, np.uint8).reshape(-1, SIDE, SIDE)


@dataclass(frozen=True)
class Job:
    """All that a process needs to pack one silo."""

    source: Source
    name: str
    folders: tuple[str, ...]
    path: Path
    layout: Layout
    allow_empty_test: bool


@dataclass(frozen=True)
class Packed:
    """A silo that was packed, and of each picture its key and its writer: 12 bytes, to find duplicates by.

    Parameters
    ----------
    notes
        Pictures that were read though something was found in them, one line each.
    """

    info: SiloInfo
    train: NDArray[np.uint64]
    test: NDArray[np.uint64]
    writers: NDArray[np.int32]
    notes: tuple[str, ...]


def pack_silo(job: Job) -> Packed:
    """Write one silo file; the names of all its pictures are in memory, and the pixels of one batch at a time.

    Raises
    ------
    SchemaError
        A picture cannot be read, a split is empty, or the file cannot be written.
    """
    listings = {split: _listing(job, split) for split in SPLITS}
    for split, listing in listings.items():
        if not listing and not (split == "test" and job.allow_empty_test):
            hint = "; --allow-empty-test lets it pass" if split == "test" else ""
            folders = ", ".join(job.folders[:3]) + (", …" if len(job.folders) > 3 else "")
            raise SchemaError(
                "data-empty", f"empty silo {job.name} ({folders}): found no {split} picture, expected at least 1{hint}"
            )
    order = tuple(sorted({picture.writer for listing in listings.values() for picture in listing}))
    seen = {split: _Seen([], [], []) for split in SPLITS}
    splits: dict[SplitName, SplitStream] = {
        split: SplitStream(len(listing), _batches(job, listing, order, seen[split])) for split, listing in listings.items()
    }
    info = write_silo(job.path, job.name, order, job.layout, splits)
    train, test = (np.concatenate([np.empty(0, np.uint64), *seen[split].keys]) for split in SPLITS)
    writers = np.concatenate([part for split in SPLITS for part in seen[split].writers])
    return Packed(info, train, test, writers, tuple(note for split in SPLITS for note in seen[split].notes))


class _Seen(NamedTuple):
    """What stays of the pictures of a split, by batches."""

    keys: list[NDArray[np.uint64]]
    writers: list[NDArray[np.int32]]
    notes: list[str]


def _listing(job: Job, split: SplitName) -> list[Picture]:
    return list(itertools.chain.from_iterable(job.source.pictures(folder, split) for folder in job.folders))


def _batches(job: Job, listing: Sequence[Picture], writers: tuple[str, ...], seen: _Seen) -> Iterator[Batch]:
    place = {writer: index for index, writer in enumerate(writers)}
    for start in range(0, len(listing), BATCH):
        chunk = listing[start : start + BATCH]
        images = np.empty((len(chunk), *job.layout.image_shape), np.uint8)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for row, picture in enumerate(chunk):
                images[row] = job.source.image(picture, job.layout.image_shape)
                if told:
                    seen.notes.append(f"{picture.path}: {told[0].message}")
                    told.clear()
        seen.keys.append(image_keys(images))
        seen.writers.append(np.array([place[picture.writer] for picture in chunk], np.int32))
        yield images, np.array([picture.label for picture in chunk], np.int32), seen.writers[-1]


def _spool(task: tuple[int, Shard, Path]) -> None:
    part, shard, spool = task
    for user, images, labels in read_shard(shard.path):
        for what, values in (("images", images), ("labels", labels)):
            path = _spooled(spool, user, part, what)
            try:
                path.write_bytes(values.tobytes())
            except OSError as error:
                raise SchemaError("data-write", f"{path}: cannot be written: {error.strerror or error}") from error


def _leaf_source(folder: Path, spool: Path, jobs: int) -> tuple[SpoolSource, tuple[str, ...]]:
    """Spool the shards; return the source and its users in name order."""
    plan = shards(folder, jobs)
    tasks = [(part, shard, spool) for part, shard in enumerate(plan)]
    sizes = [count * (SIDE * SIDE + 4) for shard in plan for count in shard.counts.values()]
    space.check(spool, space.of_files(spool, sizes), spool)
    for _ in console.each(_spool, tasks, jobs, "shard"):
        pass
    parts: dict[tuple[str, SplitName], tuple[int, ...]] = {}
    for part, shard in enumerate(plan):
        for user in shard.offsets:
            parts[user, shard.split] = (*parts.get((user, shard.split), ()), part)
    return SpoolSource(spool, parts), tuple(sorted({user for user, _ in parts}))


def _classes(wish: str | None, kind: Kind, root: Path, folders: tuple[str, ...]) -> tuple[tuple[str, ...], list[str]]:
    """Return the names of the classes and of their folders."""
    if wish is None:
        return FEMNIST, [str(label) for label in range(len(FEMNIST))]
    if kind == "leaf":
        raise SchemaError("tool-option", f"--classes {wish}: LEAF's JSON always has the {len(FEMNIST)} classes of FEMNIST")
    names = class_folders(root, folders) if wish == "auto" else tuple(wish.split(","))
    if len(names) > MOST_CLASSES:
        raise SchemaError("tool-option", f"--classes: found {len(names)} classes, expected at most {MOST_CLASSES}")
    if "" in names or len(set(names)) != len(names):
        raise SchemaError("tool-option", f"--classes {wish}: found an empty or a repeated name")
    return names, list(names)


def _groups(arguments: argparse.Namespace, kind: Kind, folders: tuple[str, ...]) -> Sequence[tuple[str, tuple[str, ...]]]:
    """Return name and folders of each silo."""
    if kind == "combined":
        if arguments.users or arguments.silos:
            raise SchemaError("tool-option", f"{arguments.folder}: already combined; --users and --silos are for raw users")
        return [(folder, (folder,)) for folder in sorted(folders, key=natural)]
    users = first(folders, arguments.users, arguments.folder)
    if arguments.silos is None:
        return [(user, (user,)) for user in users]
    return [(f"dataset_{silo}", group) for silo, group in enumerate(spread(users, arguments.silos))]


def pack(arguments: argparse.Namespace, kind: Kind, partial: Path) -> tuple[Manifest, list[str]]:
    """Pack into a folder and return its manifest and what there is to warn of.

    Raises
    ------
    SchemaError
        Something in the input is not as it should be, or the folder cannot be written.
    """
    root = arguments.folder
    with TemporaryDirectory(prefix="spool", dir=partial) as spool:
        source: Source
        if kind == "leaf":
            source, folders = _leaf_source(root, Path(spool), arguments.jobs)
        else:
            folders = writers_of(root)
        names, class_names = _classes(arguments.classes, kind, root, folders)
        if kind != "leaf":
            labels = {name: label for label, name in enumerate(class_names)}
            users = read_combined(root) if kind == "combined" else {}
            source = FileSource(Tree(root, labels, kind == "combined", users))
        shape = (arguments.size, arguments.size, *((3,) if arguments.mode == "RGB" else ()))
        words = readable(arguments.source or f"{_FOUND[kind]}: {root.resolve().name}")
        layout = Layout(names, shape, "bilinear", words)
        jobs = [
            Job(source, name, group, partial / f"silo_{number:04d}.h5", layout, arguments.empty_test)
            for number, (name, group) in enumerate(_groups(arguments, kind, folders))
        ]
        packed = list(console.each(pack_silo, jobs, arguments.jobs, "silo"))
    manifest = write_manifest(partial, layout, _count_duplicates(packed))
    return manifest, [*_duplicates(manifest), *_alike_writers(manifest), *_in_several_silos(packed), *_notes(packed)]


def _count_duplicates(packed: Sequence[Packed]) -> Iterator[SiloInfo]:
    """Count the test pictures of each silo that also stand in a train split of any silo."""
    train = np.unique(np.concatenate([silo.train for silo in packed]))
    for silo in packed:
        yield replace(silo.info, duplicates=int(np.isin(silo.test, train).sum()))


def _report(manifest: Manifest) -> None:
    width = max(len(shown(silo.name)) for silo in manifest.silos)
    console.tell(f"{'silo':{width}}  {'file':12} {'writers':>7} {'train':>8} {'test':>7}")
    for silo in manifest.silos:
        sizes = f"{len(silo.writers):7} {silo.train.examples:8} {silo.test.examples:7}"
        console.tell(f"{shown(silo.name):{width}}  {silo.file:12} {sizes}")
    train, test = (sum(getattr(silo, split).examples for silo in manifest.silos) for split in SPLITS)
    writers = sum(len(silo.writers) for silo in manifest.silos)
    console.tell(f"{'sum':{width}}  {len(manifest.silos):<12} {writers:7} {train:8} {test:7}")
    console.tell(f"digest {manifest.digest}")


def _duplicates(manifest: Manifest) -> Iterator[str]:
    """Tell of test pictures that also stand in a train split, and of writers in two silos."""
    found = {silo.name: silo.duplicates for silo in manifest.silos if silo.duplicates}
    if found:
        yield f"{sum(found.values())} test pictures also stand in a train split ({_counts(found)})"
    for writer, names in overlaps(manifest.silos).items():
        yield f"writer {writer} stands in the silos {', '.join(names)}; a run refuses such a folder"


def _alike_writers(manifest: Manifest) -> Iterator[str]:
    """Tell of writers whose names may mean one person."""
    pairs = alike(writer for silo in manifest.silos for writer in silo.writers)
    if pairs:
        one, other = pairs[0]
        more = f", and {len(pairs) - 1} more such" if len(pairs) > 1 else ""
        yield f"writers {one!a} and {other!a} differ by case, leading zeros, blanks or Unicode form alone{more}"


def _in_several_silos(packed: Sequence[Packed]) -> Iterator[str]:
    """Tell of equal pictures in several silos: one writer under two names, say."""
    keys = [np.concatenate([silo.train, silo.test]) for silo in packed]
    values, silos = np.unique(np.concatenate([np.unique(each) for each in keys]), return_counts=True)
    shared = values[silos > 1]
    found: Counter[str] = Counter()
    for silo, each in zip(packed, keys, strict=True) if len(shared) else ():
        for writer, number in Counter(silo.writers[np.isin(each, shared)].tolist()).items():
            found[silo.info.writers[writer]] += number
    if found:
        yield f"{len(shared)} pictures stand in more than one silo, under the writers {_counts(dict(found.most_common()))}"


def _notes(packed: Sequence[Packed]) -> Iterator[str]:
    """Tell of pictures that were read though something was found in them."""
    notes = [note for silo in packed for note in silo.notes]
    if notes:
        yield f"{len(notes)} pictures were packed although something is wrong with them; the first: {notes[0]}"


def _counts(found: dict[str, int]) -> str:
    where = ", ".join(f"{name}: {number}" for name, number in itertools.islice(found.items(), 10))
    return where + (", …" if len(found) > 10 else "")


def main() -> int:
    """Run the tool."""
    parser = console.Parser(__doc__)
    parser.add_argument("folder", metavar="IN", type=Path, help="raw tree, combined tree or LEAF's JSON")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make; must be new or empty")
    parser.add_argument("--users", type=console.count, help="how many writers to take, in name order (default: all)")
    parser.add_argument("--silos", type=console.count, help="how many silos to make of them (default: one a writer)")
    parser.add_argument("--size", type=console.count, default=32, help="height and width in pixels (default: 32)")
    parser.add_argument("--mode", choices=("L", "RGB"), default="L", help="gray or colour (default: L)")
    parser.add_argument("--classes", help="class folders: 'auto', or names with commas (default: FEMNIST's 0 to 61)")
    parser.add_argument("--source", help="where the pictures come from, in words, for the record")
    parser.add_argument("--allow-empty-test", dest="empty_test", action="store_true", help="let a silo lack test data")
    parser.add_jobs()
    arguments = parser.parse_args()
    kind = kind_of(arguments.folder)
    console.tell(f"{arguments.folder}: found {_FOUND[kind]}")
    with console.new_folder(arguments.out) as partial:
        manifest, told = pack(arguments, kind, partial)
    _report(manifest)
    for line in told:
        console.warn(line)
    return 0


if __name__ == "__main__":
    console.run(main)
