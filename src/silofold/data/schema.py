"""The schema of a silo folder, in words and types: what a silo file and ``silos.json`` hold.

This module owns schema 1, whose specification is ``data_tools/README.md``. It opens no file.
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
MANIFEST: Final = "silos.json"
SplitName = Literal["train", "test"]
SPLITS: Final[tuple[SplitName, ...]] = ("train", "test")

Batch: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.int32]]
"""Pictures (B, H, W[, C]), labels (B,) and writer indices (B,) of a piece of a split."""

DTYPES: Final[dict[str, np.dtype[np.uint8] | np.dtype[np.int32]]] = {
    "images": np.dtype("u1"),
    "labels": np.dtype("<i4"),
    "writer": np.dtype("<i4"),
}
"""Datasets of a split, in the order of its digest."""


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


def size_of(examples: int, image_shape: tuple[int, ...]) -> int:
    """Bytes that so many pictures take in a file, with their labels and writer indices."""
    return examples * (math.prod(image_shape) + DTYPES["labels"].itemsize + DTYPES["writer"].itemsize)


def attributes_of(
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


def shortened(value: object) -> str:
    """Show a value in one line of at most 100 letters."""
    if isinstance(value, int) and value.bit_length() > 300:  # Python refuses to spell the largest
        return f"a number of {value.bit_length()} bits"
    text = " ".join(str(value.tolist() if isinstance(value, np.ndarray | np.generic) else value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def one_line(error: BaseException) -> str:
    """Say what an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
