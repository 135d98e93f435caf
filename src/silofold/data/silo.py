"""The schema of a silo folder: one HDF5 file a silo and ``silos.json``, written, read and checked.

This module owns the file format, schema 1, whose specification is ``data_tools/README.md``. It knows nothing of
training, of MPI, or of where pictures come from.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from silofold.data import space
from silofold.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

SCHEMA: Final = 1
MANIFEST: Final = "silos.json"
SplitName = Literal["train", "test"]
SPLITS: Final[tuple[SplitName, ...]] = ("train", "test")

Batch: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.int32]]
"""Pictures (B, H, W[, C]), labels (B,) and writer indices (B,) of a piece of a split."""

_DTYPES: Final[dict[str, np.dtype[np.uint8] | np.dtype[np.int32]]] = {
    "images": np.dtype("u1"),
    "labels": np.dtype("<i4"),
    "writer": np.dtype("<i4"),
}
_BLOCK_BYTES: Final = 1 << 24
# What h5py raises on a missing, truncated, foreign or damaged file or on one that lacks a name.
_READ_FAULTS: Final = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError)


@dataclass(frozen=True)
class SplitInfo:
    """What the manifest says of one split of a silo.

    Parameters
    ----------
    examples
        Number of pictures.
    sha256
        Hex digest over the bytes of images, labels and writer indices, in this order.
    histogram
        Number of pictures of each class.
    """

    examples: int
    sha256: str
    histogram: tuple[int, ...]


@dataclass(frozen=True)
class SiloInfo:
    """What the manifest says of one silo.

    Parameters
    ----------
    file
        Name of the silo's file within the folder.
    writers
        Ids of the people whose pictures these are, in the order of the file's writer indices.
    duplicates
        Test pictures of this silo whose pixels also stand in a train split of the folder.
    """

    name: str
    file: str
    writers: tuple[str, ...]
    train: SplitInfo
    test: SplitInfo
    duplicates: int = 0


@dataclass(frozen=True)
class Layout:
    """What all silo files of a folder have in common; the fields are those of `Manifest`."""

    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    interpolation: str
    source: str


@dataclass(frozen=True)
class Manifest:
    """What ``silos.json`` says of a folder of silos.

    Parameters
    ----------
    image_shape
        ``(H, W)`` or ``(H, W, C)``, the same for every picture of the folder.
    interpolation
        How pictures were brought to that shape.
    source
        Where they came from, in words.
    """

    schema: int
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    interpolation: str
    source: str
    silos: tuple[SiloInfo, ...]

    @property
    def layout(self) -> Layout:
        """What every silo file of the folder repeats."""
        return Layout(self.classes, self.image_shape, self.interpolation, self.source)

    @property
    def digest(self) -> str:
        """Sha256, in hex, of what determines training: classes, shape, and each silo's name and split digests."""
        silos = [[silo.name, silo.train.sha256, silo.test.sha256] for silo in self.silos]
        facts = {"classes": self.classes, "image_shape": self.image_shape, "silos": silos}
        return hashlib.sha256(json.dumps(facts, separators=(",", ":"), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Split:
    """One split of a silo in memory.

    Parameters
    ----------
    images
        (M, H, W[, C]) uint8.
    labels
        (M,) int64, index into the manifest's classes.
    writer
        (M,) int32, index into the silo's writers.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    writer: NDArray[np.int32]


@dataclass(frozen=True)
class SplitStream:
    """A split on its way to disk: its size, which must be known in advance, and its pieces in order."""

    examples: int
    batches: Iterable[Batch]


class _Head(msgspec.Struct):
    schema: int


class _Sealed(msgspec.Struct):
    digest: str


# ---------------------------------------------------------------------------------------------------------- manifest


def parse_manifest(text: bytes, path: Path) -> Manifest:
    """Read a manifest out of the bytes of ``silos.json``.

    Parameters
    ----------
    path
        Where the bytes came from, for messages alone.

    Raises
    ------
    SchemaError
        The text is no JSON, a key is missing or of the wrong type, the schema is another one, values contradict each
        other, or a writer stands in two silos.
    """
    manifest = _decode_manifest(text, path)
    fault = next(_manifest_faults(manifest), None)
    if fault is not None:
        raise SchemaError("manifest-values", f"{path}: {fault}")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a folder of silos.

    Raises
    ------
    SchemaError
        The folder or its manifest is missing or unreadable, or as for `parse_manifest`.
    """
    path = folder / MANIFEST
    return parse_manifest(_manifest_bytes(folder), path)


def write_manifest(folder: Path, layout: Layout, silos: Iterable[SiloInfo]) -> Manifest:
    """Write ``silos.json`` for silo files that `write_silo` wrote, and return what it says.

    Raises
    ------
    SchemaError
        It cannot be written.
    """
    manifest = Manifest(SCHEMA, **asdict(layout), silos=tuple(silos))
    head = {key: value for key, value in asdict(manifest).items() if key != "silos"} | {"digest": manifest.digest}
    lines = [f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}," for key, value in head.items()]
    rows = ",\n".join(f"  {json.dumps(asdict(silo), ensure_ascii=False)}" for silo in manifest.silos)
    text = "\n".join(["{", *lines, ' "silos": [', rows, " ]", "}", ""])
    with replacing(folder / MANIFEST) as partial:
        partial.write_text(text, encoding="utf-8")
    return manifest


def _manifest_bytes(folder: Path) -> bytes:
    if not folder.is_dir():
        raise SchemaError("data-missing", f"{folder}: no such folder, expected a folder of silo files and {MANIFEST}")
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise SchemaError(
            "data-missing", f"{folder / MANIFEST}: {error.strerror}, expected the manifest that pack.py writes"
        ) from error


def _decode_manifest(text: bytes, path: Path) -> Manifest:
    try:
        schema = msgspec.json.decode(text, type=_Head).schema
        if schema != SCHEMA:
            raise SchemaError("data-schema", f"{path}: schema: found {schema}, expected {SCHEMA}")
        manifest = msgspec.json.decode(text, type=Manifest)
        sealed = msgspec.json.decode(text, type=_Sealed).digest
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SchemaError("manifest-values", f"{path}: {error}") from error
    if sealed != manifest.digest:
        raise SchemaError(
            "manifest-digest", f"{path}: digest: found {sealed}, expected {manifest.digest}; the file was changed by hand"
        )
    return manifest


def _manifest_faults(manifest: Manifest) -> Iterator[str]:
    """Tell what values of a manifest contradict each other."""
    shape = manifest.image_shape
    if len(shape) not in {2, 3} or min(shape, default=0) < 1:
        yield f"image_shape: found {list(shape)}, expected [H, W] or [H, W, C], each at least 1"
    if not manifest.classes or len(set(manifest.classes)) != len(manifest.classes):
        yield f"classes: found {list(manifest.classes)}, expected at least one, each once"
    if not manifest.silos:
        yield "silos: found none, expected at least one"
    for key in ("name", "file"):
        yield from _twice(f"silos: {key}", [getattr(silo, key) for silo in manifest.silos])
    for number, silo in enumerate(manifest.silos):
        yield from (f"silos[{number}] ({silo.name}): {fault}" for fault in _silo_faults(silo, len(manifest.classes)))
    for writer, names in overlaps(manifest.silos).items():
        yield f"writer {writer} stands in the silos {', '.join(names)}, expected each writer in one silo"


def _silo_faults(silo: SiloInfo, classes: int) -> Iterator[str]:
    if silo.file in {"", ".", ".."} or "/" in silo.file or "\0" in silo.file:
        yield f"file: found {silo.file!r}, expected a file name without a folder"
    if not silo.writers or len(set(silo.writers)) != len(silo.writers):
        yield f"writers: found {list(silo.writers)}, expected at least one, each once"
    if silo.train.examples < 1:
        yield f"train: examples: found {silo.train.examples}, expected at least 1"
    for split, info in (("train", silo.train), ("test", silo.test)):
        if len(info.histogram) != classes or min(info.histogram, default=0) < 0:
            yield f"{split}: histogram: found {list(info.histogram)}, expected {classes} counts"
        elif sum(info.histogram) != info.examples:
            yield f"{split}: histogram: found a sum of {sum(info.histogram)}, expected {info.examples} examples"
        if len(info.sha256) != 64 or not set(info.sha256) <= set("0123456789abcdef"):
            yield f"{split}: sha256: found {info.sha256!r}, expected 64 hex digits"


def _twice(key: str, values: list[str]) -> Iterator[str]:
    for value, times in sorted(Counter(values).items()):
        if times > 1:
            yield f"{key}: found {value!r} {times} times, expected it once"


def overlaps(silos: Iterable[SiloInfo]) -> dict[str, tuple[str, ...]]:
    """Name the silos of each writer who stands in more than one."""
    homes: dict[str, list[str]] = {}
    for silo in silos:
        for writer in dict.fromkeys(silo.writers):
            homes.setdefault(writer, []).append(silo.name)
    return {writer: tuple(names) for writer, names in homes.items() if len(names) > 1}


# ----------------------------------------------------------------------------------------------------------- reading


def read_split(folder: Path, silo: SiloInfo, split: SplitName, manifest: Manifest) -> Split:
    """Read one split of a silo whole and check it against the manifest.

    Raises
    ------
    SchemaError
        The file is missing, damaged, of another schema, or not the one that the manifest tells of.
    """
    path = folder / silo.file
    info = getattr(silo, split)
    try:
        with _open(path) as file:
            parts = _parts(file, split)
            fault = next(_header_faults(file, parts, split, silo, manifest), None)
            if fault is not None:
                raise SchemaError("data-header", f"{path}: {fault}")
            tally = _Tally(len(manifest.classes))
            images = _read_images(parts["images"], tally)
            labels, writer = (parts[name][...] for name in ("labels", "writer"))
    except _READ_FAULTS as error:
        raise SchemaError("data-read", f"{path}: {_one_line(error)}") from error
    tally.see_labels(labels, writer)
    fault = next(tally.faults(info, len(silo.writers)), None)
    if fault is not None:
        raise SchemaError("data-digest", f"{path}: {split}: {fault}")
    return Split(images, labels.astype(np.int64), writer)


def _read_images(dataset: h5py.Dataset, tally: _Tally) -> NDArray[np.uint8]:
    """Read the pictures of a split; what is there is hashed while more is read, by another thread where it is worth one."""
    images = np.empty(dataset.shape, np.uint8)
    spans = list(_spans(dataset))
    if len(spans) == 1:
        dataset.read_direct(images)
        tally.see_images(images)
        return images
    with ThreadPoolExecutor(1) as hasher:
        for span in spans:
            dataset.read_direct(images, span, span)
            hasher.submit(tally.see_images, images[span])
    return images


def folder_faults(folder: Path) -> list[str]:
    """Tell every fault of a folder of silos at once; none means that a run can start on it.

    Memory is bounded: a file is read in blocks.
    """
    path = folder / MANIFEST
    try:
        manifest = _decode_manifest(_manifest_bytes(folder), path)
    except SchemaError as error:
        return [str(error)]
    faults = [f"{path}: {fault}" for fault in _manifest_faults(manifest)]
    for silo in manifest.silos:
        faults += [f"{folder / silo.file}: {fault}" for fault in _file_faults(folder / silo.file, silo, manifest)]
    known = {MANIFEST, *(silo.file for silo in manifest.silos)}
    extra = sorted(entry.name for entry in folder.iterdir() if entry.name not in known)
    return faults + [f"{folder / name}: extra, expected only {MANIFEST} and the files it names" for name in extra]


def image_keys(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Give each picture (M, ...) a number (M,) that equal pixels share; two others collide once in 2^64 pairs."""
    keys = b"".join(hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest() for image in images)
    return np.frombuffer(keys, "<u8").astype(np.uint64)


def split_keys(folder: Path, silo: SiloInfo, split: SplitName) -> NDArray[np.uint64]:
    """Compute `image_keys` of a split that lies on disk, in bounded memory.

    Raises
    ------
    SchemaError
        The file cannot be read.
    """
    try:
        with _open(folder / silo.file) as file:
            keys = [image_keys(block) for block in _blocks(file[split]["images"])]
    except _READ_FAULTS as error:
        raise SchemaError("data-read", f"{folder / silo.file}: {_one_line(error)}") from error
    return np.concatenate([np.empty(0, np.uint64), *keys])


def check_presence(path: Path) -> None:
    """Find out whether a silo file is there, without a look at what it holds.

    Raises
    ------
    SchemaError
        It is not.
    """
    if not path.exists():
        raise SchemaError("data-missing", f"{path}: no such file, expected the silo file that {MANIFEST} names")


def _open(path: Path) -> h5py.File:
    """Open for reading alone and without a lock, which network file systems refuse."""
    check_presence(path)
    return h5py.File(path, "r", locking=False)


def _parts(file: h5py.File, split: SplitName) -> dict[str, h5py.Dataset]:
    """Open the datasets of a split, each once: that is much of what a small one takes to read. What is missing is None."""
    return {name: file.get(f"{split}/{name}") for name in _DTYPES}


def _header_faults(
    file: h5py.File, parts: dict[str, h5py.Dataset], split: SplitName, silo: SiloInfo, manifest: Manifest
) -> Iterator[str]:
    """Compare attributes, shapes and dtypes with the manifest, before anything large is read."""
    info: SplitInfo = getattr(silo, split)
    expected = _attributes(silo.name, silo.writers, manifest.layout, {split: info})
    for key, value in expected.items():
        found = file.attrs.get(key)
        if found is None:
            yield f"attribute {key}: missing, expected {_shorten(value)}"
        elif np.shape(found) != np.shape(value) or not np.all(found == np.asarray(value)):
            yield f"attribute {key}: found {_shorten(found)}, expected {_shorten(value)}"
    for name, dtype in _DTYPES.items():
        dataset = parts[name]
        shape = (info.examples, *(manifest.image_shape if name == "images" else ()))
        if not isinstance(dataset, h5py.Dataset):
            yield f"{split}/{name}: missing, expected a dataset {shape} of {dtype}"
        elif dataset.shape != shape or dataset.dtype != dtype:
            yield f"{split}/{name}: found {dataset.shape} of {dataset.dtype}, expected {shape} of {dtype}"
        elif dataset.chunks is not None:
            yield f"{split}/{name}: found chunks of {dataset.chunks}, expected one contiguous block"


def _file_faults(path: Path, silo: SiloInfo, manifest: Manifest) -> list[str]:
    """Tell every fault of one silo file."""
    if not path.is_file():
        return ["no such file"]
    faults: list[str] = []
    try:
        with _open(path) as file:
            for split in SPLITS:
                parts = _parts(file, split)
                headers = list(_header_faults(file, parts, split, silo, manifest))
                faults += headers
                if any(fault.startswith(f"{split}/") for fault in headers):
                    continue
                tally = _Tally(len(manifest.classes))
                for block in _blocks(parts["images"]):
                    tally.see_images(block)
                tally.see_labels(parts["labels"][...], parts["writer"][...])
                faults += [f"{split}: {fault}" for fault in tally.faults(getattr(silo, split), len(silo.writers))]
    except _READ_FAULTS as error:
        faults.append(_one_line(error))
    return list(dict.fromkeys(faults))


def _blocks(images: h5py.Dataset) -> Iterator[NDArray[np.uint8]]:
    return (images[span] for span in _spans(images))


def _spans(images: h5py.Dataset) -> Iterator[slice]:
    rows = max(1, _BLOCK_BYTES // max(1, int(np.prod(images.shape[1:]))))
    return (slice(start, min(start + rows, len(images))) for start in range(0, len(images), rows))


class _Tally:
    """Digest, histogram and writer range of a split, from its pieces."""

    def __init__(self, classes: int) -> None:
        self._digest = hashlib.sha256()
        self._classes = classes
        self._labels = np.empty(0, np.int32)
        self._writer = np.empty(0, np.int32)

    def see_images(self, images: NDArray[np.uint8]) -> None:
        """Take the next piece (B, H, W[, C]) of the pictures."""
        self._digest.update(np.ascontiguousarray(images, "u1").data)

    def see_labels(self, labels: NDArray[np.int32], writer: NDArray[np.int32]) -> None:
        """Take all labels (M,) and writer indices (M,), once, after the pictures."""
        self._labels, self._writer = labels, writer
        self._digest.update(np.ascontiguousarray(labels, "<i4").data)
        self._digest.update(np.ascontiguousarray(writer, "<i4").data)

    def range_faults(self, writers: int) -> Iterator[str]:
        """Tell labels that are no class and writer indices that are no writer."""
        for name, values, count in (("labels", self._labels, self._classes), ("writer", self._writer, writers)):
            low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
            if low < 0 or high >= count:
                yield f"{name}: found values from {low} to {high}, expected 0 to {count - 1}"

    def info(self) -> SplitInfo:
        """Return what the manifest will say of the split; labels must be in range."""
        histogram = np.bincount(self._labels, minlength=self._classes).tolist()
        return SplitInfo(len(self._labels), self._digest.hexdigest(), tuple(histogram))

    def faults(self, expected: SplitInfo, writers: int) -> Iterator[str]:
        """Compare with what the manifest says."""
        ranges = list(self.range_faults(writers))
        yield from ranges
        if self._digest.hexdigest() != expected.sha256:
            yield f"sha256 of the data: found {self._digest.hexdigest()}, expected {expected.sha256}"
        elif not ranges and self.info().histogram != expected.histogram:
            yield f"histogram: found {list(self.info().histogram)}, expected {list(expected.histogram)}"


# ----------------------------------------------------------------------------------------------------------- writing


def write_silo(
    path: Path, name: str, writers: tuple[str, ...], layout: Layout, splits: Mapping[SplitName, SplitStream]
) -> SiloInfo:
    """Write one silo file, piece by piece, and return what the manifest shall say of it.

    The file appears under its name when it is whole and on disk, and never before.

    Parameters
    ----------
    splits
        Train and test; each is read once, in this order.

    Raises
    ------
    SchemaError
        The file cannot be written, the train split is empty, or the pieces do not fit the layout.
    """
    if splits["train"].examples < 1:
        raise SchemaError("data-empty", f"{path}: empty silo {name}: found no train picture, expected at least 1")
    infos: dict[SplitName, SplitInfo] = {}
    with replacing(path) as partial:
        _reserve(partial, _most_bytes(writers, layout, splits), path)
        with h5py.File(partial, "r+", libver="earliest", locking=False) as file:
            for split in SPLITS:
                group, where = file.create_group(split), f"{path}: {split}"
                infos[split] = _write_split(group, where, splits[split], layout, len(writers))
            for key, value in _attributes(name, writers, layout, infos).items():
                file.attrs[key] = value
    return SiloInfo(name, path.name, writers, infos["train"], infos["test"])


def _reserve(path: Path, size: int, whole: Path) -> None:
    """Make an empty HDF5 file that owns `size` bytes of disk; closing it as HDF5 gives back what it did not need.

    HDF5 ends the process, or prints pages, when the disk fills up while it holds data back. So the system must say no
    before HDF5 begins. `whole` is the name that the file will have.
    """
    with h5py.File("empty", "w", driver="core", backing_store=False, libver="earliest") as file:
        file.flush()
        empty = file.id.get_file_image()
    with space.one_at_a_time(path.parent):
        space.check(path.parent, size, whole)
        with path.open("wb") as raw:
            raw.write(empty)
            raw.flush()
            os.posix_fallocate(raw.fileno(), 0, size)


def _most_bytes(writers: tuple[str, ...], layout: Layout, splits: Mapping[SplitName, SplitStream]) -> int:
    """Bound the size of a silo file from above."""
    picture = int(np.prod(layout.image_shape)) + _DTYPES["labels"].itemsize + _DTYPES["writer"].itemsize
    text = json.dumps([writers, asdict(layout)], ensure_ascii=False).encode()
    return sum(split.examples for split in splits.values()) * picture + 16 * len(layout.classes) + 2 * len(text) + 65536


def _write_split(group: h5py.Group, where: str, stream: SplitStream, layout: Layout, writers: int) -> SplitInfo:
    size = stream.examples
    images = group.create_dataset("images", (size, *layout.image_shape), _DTYPES["images"], track_times=False)
    labels, writer = (np.empty(size, np.int32) for _ in range(2))
    tally = _Tally(len(layout.classes))
    start = 0
    for pictures, batch_labels, batch_writer in stream.batches:
        stop = start + len(pictures)
        if stop > size or pictures.shape[1:] != layout.image_shape or pictures.dtype != np.uint8:
            raise SchemaError(
                "data-shape",
                f"{where}: found pictures {start} to {stop} of shape {pictures.shape[1:]} and {pictures.dtype}, "
                f"expected {size} of {layout.image_shape} and uint8",
            )
        images[start:stop] = pictures
        labels[start:stop], writer[start:stop] = batch_labels, batch_writer
        tally.see_images(pictures)
        start = stop
    if start != size:
        raise SchemaError("data-shape", f"{where}: found {start} pictures, expected {size}")
    tally.see_labels(labels, writer)
    fault = next(tally.range_faults(writers), None)
    if fault is not None:
        raise SchemaError("data-labels", f"{where}: {fault}")
    for name, values in (("labels", labels), ("writer", writer)):
        group.create_dataset(name, data=values.astype("<i4"), track_times=False)
    return tally.info()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Lend a temporary name beside `path`; what is written there takes the name `path` on success, whole and on disk.

    Raises
    ------
    SchemaError
        Writing failed; the temporary file is removed.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise SchemaError("data-write", f"{path}: cannot be written: {error.strerror or _one_line(error)}") from error
    finally:
        partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _attributes(
    name: str, writers: tuple[str, ...], layout: Layout, infos: Mapping[SplitName, SplitInfo]
) -> dict[str, int | str | NDArray[np.int64]]:
    """List the root attributes of a silo file.

    Lists of words are one JSON text: an HDF5 attribute holds at most 64 KiB itself, but a text lies outside it.
    """
    attributes: dict[str, int | str | NDArray[np.int64]] = {
        "schema": SCHEMA,
        "name": name,
        "classes": json.dumps(layout.classes, ensure_ascii=False),
        "image_shape": np.array(layout.image_shape, np.int64),
        "interpolation": layout.interpolation,
        "source": layout.source,
        "writers": json.dumps(writers, ensure_ascii=False),
    }
    for split, info in infos.items():
        attributes[f"{split}_sha256"] = info.sha256
        attributes[f"{split}_histogram"] = np.array(info.histogram, np.int64)
    return attributes


def _shorten(value: object) -> str:
    text = " ".join(str(value.tolist() if isinstance(value, np.ndarray | np.generic) else value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
