"""``silos.json``: what a folder of silos says of itself, read, checked and written."""

from __future__ import annotations

import json
import math
import stat
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from silofold.core import guarded
from silofold.data.reader import check_size
from silofold.data.schema import (
    MANIFEST,
    SCHEMA,
    SCHEMA_2,
    Layout,
    Manifest,
    Role,
    SiloInfo,
    SplitInfo,
    channels_of,
    shortened,
)
from silofold.data.writer import replacing
from silofold.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

MOST_BYTES: Final = 2**28
MOST_LETTERS: Final = 1000
"""Of a name."""
MOST_WORDS: Final = 100_000
"""Letters of what is said of the source."""
MOST_PICTURE_BYTES: Final = 2**28
MOST_EXAMPLES: Final = 2**40
"""Of a split: sums over all silos stay exact in every type that they pass through."""


class _Head(msgspec.Struct):
    schema: int


class _Text(msgspec.Struct):
    """The keys of ``silos.json``."""

    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    interpolation: str
    source: str
    digest: str
    silos: tuple[SiloInfo, ...]


_Sum = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
"""What an attribute of a silo file can hold."""


class _Split2(msgspec.Struct):
    examples: int
    sha256: str
    histogram: tuple[int, ...]
    sums: tuple[_Sum, ...]
    squares: tuple[_Sum, ...]

    def info(self) -> SplitInfo:
        return SplitInfo(self.examples, self.sha256, self.histogram, self.sums, self.squares)


class _Silo2(msgspec.Struct):
    name: str
    file: str
    role: Role
    groups: tuple[str, ...]
    train: _Split2
    validation: _Split2
    test: _Split2
    duplicates: int

    def info(self) -> SiloInfo:
        train, validation, test = (split.info() for split in (self.train, self.validation, self.test))
        return SiloInfo(self.name, self.file, self.groups, train, test, self.duplicates, validation, self.role)


class _Text2(msgspec.Struct):
    """The keys of ``silos.json`` of schema 2."""

    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    interpolation: str
    source: str
    group: str
    digest: str
    silos: tuple[_Silo2, ...]


def parse_manifest(text: bytes, path: Path, *, external: bool = False) -> Manifest:
    """Read a manifest out of the bytes of ``silos.json``.

    Parameters
    ----------
    path
        Where the bytes came from, for messages alone.
    external
        Whether silos for testing only may be among them: a run does not know what to do with them.

    Raises
    ------
    SchemaError
        The text is no JSON, a key is missing or of the wrong type, the schema is another one, values contradict each
        other, a writer stands in two silos, or there are external silos where none may be.
    """
    manifest = decoded(text, path)
    fault = next(manifest_faults(manifest), None)
    if fault is not None:
        raise SchemaError("manifest-values", f"{path}: {fault}")
    apart = [] if external else [silo.name for silo in manifest.silos if silo.role == "external"]
    if apart:
        raise SchemaError(
            "data-external",
            f"{path}: found the external silo {shortened(apart[0])} ({len(apart)} in all), expected silos to train on; "
            "this version cannot run on a folder with silos for testing only: pack it without --external",
        )
    return manifest


def read_manifest(folder: Path, *, external: bool = False) -> Manifest:
    """Read the manifest of a folder of silos.

    Raises
    ------
    SchemaError
        The folder or its manifest is missing or unreadable, pictures are larger than a file that lies there, or as for
        `parse_manifest`.
    """
    manifest = parse_manifest(manifest_bytes(folder), folder / MANIFEST, external=external)
    for (
        silo
    ) in manifest.silos:  # one is enough to bound the shape of pictures, which a model is built for; others may be away
        try:
            status = (folder / silo.file).stat()
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            check_size(folder / silo.file, status.st_size, silo, manifest.image_shape)
            break
    return manifest


def write_manifest(folder: Path, layout: Layout, silos: Iterable[SiloInfo]) -> Manifest:
    """Write ``silos.json`` for silo files that `write_silo` wrote, and return what it says.

    Raises
    ------
    SchemaError
        It cannot be written.
    """
    manifest = Manifest(**asdict(layout), silos=tuple(silos))
    keys = ["schema", "classes", "image_shape", "interpolation", "source", *(["group"] if layout.schema == SCHEMA_2 else [])]
    head = {key: getattr(manifest, key) for key in keys} | {"digest": manifest.digest}
    lines = [f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}," for key, value in head.items()]
    rows = ",\n".join(f"  {json.dumps(_row(silo, layout.schema), ensure_ascii=False)}" for silo in manifest.silos)
    text = "\n".join(["{", *lines, ' "silos": [', rows, " ]", "}", ""])
    with replacing(folder / MANIFEST) as partial:
        partial.write_text(text, encoding="utf-8")
    return manifest


def _row(silo: SiloInfo, schema: int) -> dict[str, object]:
    """Spell a silo as ``silos.json`` of a schema does."""
    row = asdict(silo)
    if schema == SCHEMA:
        for split in ("train", "test"):
            row[split] = {key: row[split][key] for key in ("examples", "sha256", "histogram")}
        return {key: row[key] for key in ("name", "file", "writers", "train", "test", "duplicates")}
    row["groups"] = row["writers"]
    return {key: row[key] for key in ("name", "file", "role", "groups", "train", "validation", "test", "duplicates")}


def manifest_bytes(folder: Path) -> bytes:
    """Read ``silos.json`` without a look at what it says.

    Raises
    ------
    SchemaError
        It is missing, no regular file, too large, or cannot be read.
    """
    path = folder / MANIFEST
    try:
        return guarded.read(path, MOST_BYTES)
    except guarded.UnfitError as fault:
        raise SchemaError("manifest-values", f"{path}: {fault}") from None
    except (OSError, ValueError) as fault:
        reason = getattr(fault, "strerror", None) or fault
        where = "" if folder.is_dir() else ": there is no such folder"
        raise SchemaError("data-missing", f"{path}: {reason}{where}, expected the manifest that pack.py writes") from None


def decoded(text: bytes, path: Path) -> Manifest:
    """Decode a manifest whose digest is that of its values; whether they make sense is another question.

    Raises
    ------
    SchemaError
        It is no JSON of the schema, or was changed by hand.
    """
    try:
        schema = guarded.decode(text, _Head).schema
        if schema not in {SCHEMA, SCHEMA_2}:
            raise SchemaError("data-schema", f"{path}: schema: found {shortened(schema)}, expected {SCHEMA} or {SCHEMA_2}")
        found: _Text | _Text2 = guarded.decode(text, _Text) if schema == SCHEMA else guarded.decode(text, _Text2)
    except guarded.UnfitError as error:
        raise SchemaError("manifest-values", f"{path}: {error}") from None
    if isinstance(found, _Text):
        silos, group = found.silos, "writer"
        strange = next((silo.name for silo in silos if silo.role != "train" or silo.validation), None)
        if strange is not None:
            raise SchemaError("manifest-values", f"{path}: silo {shortened(strange)}: found keys of schema 2, expected none")
    else:
        silos, group = tuple(silo.info() for silo in found.silos), found.group
    manifest = Manifest(schema, found.classes, found.image_shape, found.interpolation, found.source, silos, group)
    if found.digest != manifest.digest:
        raise SchemaError(
            "manifest-digest",
            f"{path}: digest: found {shortened(found.digest)}, expected {manifest.digest}; the file was changed by hand",
        )
    return manifest


def manifest_faults(manifest: Manifest) -> Iterator[str]:
    """Tell what values of a manifest contradict each other, or cannot be."""
    shape = manifest.image_shape
    if len(shape) not in {2, 3} or min(shape, default=0) < 1:
        yield f"image_shape: found {shortened(list(shape))}, expected [H, W] or [H, W, C], each at least 1"
    elif math.prod(shape) > MOST_PICTURE_BYTES:
        yield f"image_shape: found {shortened(list(shape))}, expected at most {MOST_PICTURE_BYTES} bytes a picture"
    if not manifest.classes or len(set(manifest.classes)) != len(manifest.classes):
        yield f"classes: found {shortened(list(manifest.classes))}, expected at least one, each once"
    yield from _lengths("classes", manifest.classes)
    yield from _lengths("group", [manifest.group])
    for key in ("interpolation", "source"):
        yield from _lengths(key, [getattr(manifest, key)], MOST_WORDS, least=0)
    if not manifest.silos:
        yield "silos: found none, expected at least one"
    for key in ("name", "file"):
        yield from _twice(f"silos: {key}", [getattr(silo, key) for silo in manifest.silos])
    for number, silo in enumerate(manifest.silos):
        for fault in _silo_faults(silo, len(manifest.classes), manifest):
            yield f"silos[{number}] ({shortened(silo.name)}): {fault}"
    for writer, names in overlaps(manifest.silos).items():
        where = shortened(", ".join(names))
        yield f"writer {shortened(writer)} stands in the silos {where}, expected each writer in one silo"


def _silo_faults(silo: SiloInfo, classes: int, manifest: Manifest) -> Iterator[str]:
    yield from _lengths("name", [silo.name])
    if silo.file in {"", ".", "..", MANIFEST} or "/" in silo.file or "\0" in silo.file or len(silo.file.encode()) > 255:
        yield f"file: found {shortened(repr(silo.file))}, expected a file name without a folder"
    if not silo.writers or len(set(silo.writers)) != len(silo.writers):
        yield f"writers: found {shortened(list(silo.writers))}, expected at least one, each once"
    yield from _lengths("writers", silo.writers, least=0)
    if silo.role == "external":
        if silo.train.examples or (silo.validation and silo.validation.examples) or silo.test.examples < 1:
            yield "role: found external, expected test pictures and no others"
    elif silo.train.examples < 1:
        yield f"train: examples: found {shortened(silo.train.examples)}, expected at least 1"
    for split in manifest.splits:
        info = silo.split(split)
        if info is not None:
            yield from (f"{split}: {fault}" for fault in _split_faults(info, classes))
            if manifest.schema == SCHEMA_2:
                yield from (f"{split}: {fault}" for fault in _sum_faults(info, manifest.image_shape))
    if not 0 <= silo.duplicates <= max(0, silo.test.examples):
        yield f"duplicates: found {shortened(silo.duplicates)}, expected 0 to {shortened(silo.test.examples)} test pictures"


def _split_faults(info: SplitInfo, classes: int) -> Iterator[str]:
    if not 0 <= info.examples <= MOST_EXAMPLES:
        yield f"examples: found {shortened(info.examples)}, expected 0 to {MOST_EXAMPLES}"
    if len(info.histogram) != classes or min(info.histogram, default=0) < 0:
        yield f"histogram: found {shortened(list(info.histogram))}, expected {classes} counts"
    elif sum(info.histogram) != info.examples:
        found, expected = shortened(sum(info.histogram)), shortened(info.examples)
        yield f"histogram: found a sum of {found}, expected {expected} examples"
    if len(info.sha256) != 64 or not set(info.sha256) <= set("0123456789abcdef"):
        yield f"sha256: found {shortened(repr(info.sha256))}, expected 64 hex digits"


def _sum_faults(info: SplitInfo, shape: tuple[int, ...]) -> Iterator[str]:
    """Tell sums of pixels that no pictures of that number and shape can have."""
    channels = channels_of(shape)
    pixels = max(0, info.examples) * math.prod(shape) // max(1, channels)
    for key, most in (("sums", 255), ("squares", 255**2)):
        values = getattr(info, key)
        if len(values) != channels or min(values, default=0) < 0 or max(values, default=0) > most * pixels:
            yield f"{key}: found {shortened(list(values))}, expected {channels} numbers from 0 to {shortened(most * pixels)}"


def _lengths(key: str, names: Sequence[str], most: int = MOST_LETTERS, *, least: int = 1) -> Iterator[str]:
    """Tell the first name that is empty or too long."""
    bad = next((name for name in names if not least <= len(name) <= most), None)
    if bad is not None:
        yield f"{key}: found {shortened(repr(bad))} of {len(bad)} letters, expected {least} to {most}"


def _twice(key: str, values: list[str]) -> Iterator[str]:
    for value, times in sorted(Counter(values).items()):
        if times > 1:
            yield f"{key}: found {shortened(repr(value))} {times} times, expected it once"


def overlaps(silos: Iterable[SiloInfo]) -> dict[str, tuple[str, ...]]:
    """Name the silos of each writer who stands in more than one."""
    homes: dict[str, list[str]] = {}
    for silo in silos:
        for writer in dict.fromkeys(silo.writers):
            homes.setdefault(writer, []).append(silo.name)
    return {writer: tuple(names) for writer, names in homes.items() if len(names) > 1}
