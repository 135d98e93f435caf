"""``silos.json``: what a folder of silos says of itself, read, checked and written."""

from __future__ import annotations

import json
import stat
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from silofold.core import guarded
from silofold.core.errors import SchemaError
from silofold.data.manifest_faults import manifest_faults
from silofold.data.schema import (
    MANIFEST,
    SCHEMA,
    SCHEMA_2,
    Layout,
    Manifest,
    Role,
    SiloInfo,
    SplitInfo,
    shortened,
)
from silofold.data.silo_bytes import check_size
from silofold.data.writer import replacing

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MOST_BYTES: Final = 2**28


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
