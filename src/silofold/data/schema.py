"""The schema of a silo folder, in words and types: what a silo file and ``silos.json`` hold.

This module owns schemas 1 and 2, whose specification is ``data_tools/README.md``. It opens no file.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SCHEMA: Final = 1
"""What is written unless something of schema 2 is asked for."""
SCHEMA_2: Final = 2
MANIFEST: Final = "silos.json"
SplitName = Literal["train", "validation", "test"]
SPLITS: Final[tuple[SplitName, ...]] = ("train", "test")
"""Of schema 1."""
ALL_SPLITS: Final[tuple[SplitName, ...]] = ("train", "validation", "test")
Role = Literal["train", "external"]
"""Of a silo: external ones are for testing only."""

Batch: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.int32]]
"""Pictures (B, H, W[, C]), labels (B,) and writer indices (B,) of a piece of a split."""

DTYPES: Final[dict[str, np.dtype[np.uint8] | np.dtype[np.int32]]] = {
    "images": np.dtype("u1"),
    "labels": np.dtype("<i4"),
    "writer": np.dtype("<i4"),
}
"""Datasets of a split, in the order of its digest; in schema 2 the last one is called `GROUP`."""
GROUP: Final = "group"


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
    sums, squares
        In schema 2, of the pixels of each channel and of their squares.
    """

    examples: int
    sha256: str
    histogram: tuple[int, ...]
    sums: tuple[int, ...] = ()
    squares: tuple[int, ...] = ()


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
    validation
        In schema 2; none means that there is no such split.
    """

    name: str
    file: str
    writers: tuple[str, ...]
    train: SplitInfo
    test: SplitInfo
    duplicates: int = 0
    validation: SplitInfo | None = None
    role: Role = "train"

    def split(self, name: SplitName) -> SplitInfo | None:
        """Return what is said of a split; none of one that the schema does not have."""
        found: SplitInfo | None = getattr(self, name)
        return found

    @property
    def examples(self) -> int:
        """Pictures of all splits."""
        return sum(info.examples for name in ALL_SPLITS if (info := self.split(name)))


@dataclass(frozen=True)
class Layout:
    """What all silo files of a folder have in common; the fields are those of `Manifest`."""

    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    interpolation: str
    source: str
    schema: int = SCHEMA
    group: str = "writer"

    @property
    def splits(self) -> tuple[SplitName, ...]:
        """The splits of each silo file."""
        return splits_of(self.schema)


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
    group
        What a group of pictures is that must not be torn apart, in one word: in schema 1 a writer.
    """

    schema: int
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    interpolation: str
    source: str
    silos: tuple[SiloInfo, ...]
    group: str = "writer"

    @property
    def splits(self) -> tuple[SplitName, ...]:
        """The splits of each silo file."""
        return splits_of(self.schema)

    @property
    def layout(self) -> Layout:
        """What every silo file of the folder repeats."""
        return Layout(self.classes, self.image_shape, self.interpolation, self.source, self.schema, self.group)

    @property
    def digest(self) -> str:
        """Sha256, in hex, of what determines training: classes, shape, and each silo's name and split digests."""
        if any(silo.role != "train" or (silo.validation and silo.validation.examples) for silo in self.silos):
            splits = [[info.sha256 for name in ALL_SPLITS if (info := silo.split(name))] for silo in self.silos]
            silos = [[silo.name, silo.role, *digests] for silo, digests in zip(self.silos, splits, strict=True)]
        else:
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


def splits_of(schema: int) -> tuple[SplitName, ...]:
    """Name the splits of a silo file of a schema."""
    return ALL_SPLITS if schema == SCHEMA_2 else SPLITS


def datasets_of(schema: int) -> dict[str, np.dtype[np.uint8] | np.dtype[np.int32]]:
    """Name the datasets of a split of a schema, in the order of its digest, each with its dtype."""
    return DTYPES if schema == SCHEMA else {GROUP if name == "writer" else name: dtype for name, dtype in DTYPES.items()}


def channels_of(image_shape: tuple[int, ...]) -> int:
    """Tell how many colours a picture has."""
    return image_shape[2] if len(image_shape) == 3 else 1


def size_of(examples: int, image_shape: tuple[int, ...]) -> int:
    """Bytes that so many pictures take in a file, with their labels and writer indices."""
    return examples * (math.prod(image_shape) + DTYPES["labels"].itemsize + DTYPES["writer"].itemsize)


def attributes_of(
    name: str, writers: tuple[str, ...], layout: Layout, infos: Mapping[SplitName, SplitInfo], role: Role = "train"
) -> dict[str, int | str | NDArray[np.int64]]:
    """List the root attributes of a silo file.

    Lists of words are one JSON text: an HDF5 attribute holds at most 64 KiB itself, but a text lies outside it.
    """
    second = layout.schema == SCHEMA_2
    attributes: dict[str, int | str | NDArray[np.int64]] = {
        "schema": layout.schema,
        "name": name,
        "classes": json.dumps(layout.classes, ensure_ascii=False),
        "image_shape": np.array(layout.image_shape, np.int64),
        "interpolation": layout.interpolation,
        "source": layout.source,
        "groups" if second else "writers": json.dumps(writers, ensure_ascii=False),
    }
    if second:
        attributes |= {"group": layout.group, "role": role}
    for split, info in infos.items():
        attributes[f"{split}_sha256"] = info.sha256
        attributes[f"{split}_histogram"] = np.array(info.histogram, np.int64)
        if second:
            attributes[f"{split}_sums"] = np.array(info.sums, np.int64)
            attributes[f"{split}_squares"] = np.array(info.squares, np.int64)
    return attributes


def shortened(value: object) -> str:
    """Show a value in one line of at most 100 letters."""
    if isinstance(value, int) and value.bit_length() > 300:  # Python refuses to spell the largest
        return f"a number of {value.bit_length()} bits"
    text = " ".join(str(value.tolist() if isinstance(value, np.ndarray | np.generic) else value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def one_line(error: BaseException) -> str:
    """Say what an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
