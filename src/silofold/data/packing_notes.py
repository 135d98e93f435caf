"""What there is to say of silos that were packed: pictures that stand twice, names that may be one person's."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from silofold.data.manifest_faults import overlaps
from silofold.data.naming import alike

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from silofold.data.schema import Manifest, SiloInfo


@dataclass(frozen=True)
class Packed:
    """A silo that was packed, and of each picture its key and its writer: 12 bytes, to find duplicates by.

    Parameters
    ----------
    train, test, keys
        Keys of the pictures of these splits, and of all.
    writers
        Place of each picture's writer among the silo's.
    notes
        Pictures that were read though something was found in them, one line each.
    """

    info: SiloInfo
    train: NDArray[np.uint64]
    test: NDArray[np.uint64]
    keys: NDArray[np.uint64]
    writers: NDArray[np.int32]
    notes: tuple[str, ...]


def all_of(manifest: Manifest, packed: Sequence[Packed]) -> list[str]:
    """Tell what there is to warn of."""
    return [*_duplicates(manifest), *_alike_writers(manifest), *_in_several_silos(packed), *_notes(packed)]


def count_duplicates(packed: Sequence[Packed]) -> Iterator[SiloInfo]:
    """Count the test pictures of each silo that also stand in a train split of any silo."""
    train = np.unique(np.concatenate([silo.train for silo in packed]))
    for silo in packed:
        yield replace(silo.info, duplicates=int(np.isin(silo.test, train).sum()))


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
    keys = [silo.keys for silo in packed]
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
