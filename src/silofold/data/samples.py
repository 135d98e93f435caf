"""What is known of the pictures of a set before any pixel is read: class, silo, group and split of each.

It is kept in columns: a set has millions of pictures.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import numpy as np

from silofold.core.errors import SchemaError
from silofold.data.naming import natural

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from silofold.data.fitting import Fitting
    from silofold.data.schema import SplitName

NO_SPLIT: Final = -1
MOST_LETTERS: Final = 1000
"""Of a name, as the manifest has it."""
CODES: Final[dict[SplitName, int]] = {"train": 0, "validation": 1, "test": 2}


class Picture(NamedTuple):
    """One picture: who made it, its class, the file that holds it and its place in that file."""

    writer: str
    label: int
    path: str
    place: int = 0


class Source(Protocol):
    """Where pictures come from. It is sent to other processes, so that it keeps no pixels."""

    @property
    def words(self) -> str:
        """What it is, for the record."""

    def samples(self) -> Samples:
        """Read what is known of every picture."""

    def image(self, path: str, place: int, fitting: Fitting) -> NDArray[np.uint8]:
        """Read one picture as (H, W) or (H, W, 3) uint8."""


@dataclass(frozen=True)
class Samples:
    """The pictures of a set, in columns of N.

    Parameters
    ----------
    classes, silos, groups
        Names, groups sorted by code points.
    label, silo, group
        (N,) int32, index into these.
    split
        (N,) int32, a value of `CODES` or `NO_SPLIT`.
    order
        (N,) int64: pictures of one silo, split, group and class lie in this order.
    paths
        Of the file that holds each picture: N of them, or one for all.
    place
        (N,) int64: the picture's place in that file.
    grouped
        Whether groups are known: else each silo counts as one.
    external
        Names of the silos that are for testing only.
    group_word
        What a group is.
    """

    classes: tuple[str, ...]
    silos: tuple[str, ...]
    groups: tuple[str, ...]
    label: NDArray[np.int32]
    silo: NDArray[np.int32]
    group: NDArray[np.int32]
    split: NDArray[np.int32]
    order: NDArray[np.int64]
    paths: Sequence[str]
    place: NDArray[np.int64]
    grouped: bool = True
    external: frozenset[str] = frozenset()
    group_word: str = "writer"

    def __len__(self) -> int:
        return len(self.label)

    def path(self, row: int) -> str:
        """Return the file that holds a picture."""
        return self.paths[row if len(self.paths) > 1 else 0]

    def part(self, silo: int, split: SplitName) -> NDArray[np.int64]:
        """Return the rows of a silo's split in their order: groups by name, then classes, then `order`."""
        rows = np.flatnonzero((self.silo == silo) & (self.split == CODES[split]))
        return rows[np.lexsort((self.order[rows], self.label[rows], self.group[rows]))]


def of_texts(
    labels: Sequence[str],
    silos: Sequence[str],
    groups: Sequence[str] | None,
    splits: NDArray[np.int32],
    order: NDArray[np.int64],
    paths: Sequence[str],
    place: NDArray[np.int64],
    classes: tuple[str, ...] = (),
) -> Samples:
    """Make samples of texts, one a picture. Classes that are not named are those that occur, numbers in them as numbers.

    Raises
    ------
    SchemaError
        A label is none of the classes that are named.
    """
    known = classes or tuple(sorted(set(labels), key=natural))
    try:
        label = _codes(labels, known)
    except KeyError as fault:
        row = labels.index(fault.args[0])
        raise SchemaError(
            "table-label",
            f"picture {row + 1}: found the class {fault.args[0]!r}, expected one of the {len(known)}: {few(known)}",
        ) from None
    names = tuple(sorted(set(silos)))
    of_groups = [all_of(silo) for silo in silos] if groups is None else groups
    group_names = tuple(sorted(set(of_groups)))
    return Samples(
        known,
        names,
        group_names,
        label,
        _codes(silos, names),
        _codes(of_groups, group_names),
        splits,
        order,
        paths,
        place,
        grouped=groups is not None,
        group_word="writer" if groups is None else "group",
    )


def all_of(silo: str) -> str:
    """Name the one group of a silo of whose groups nothing is known."""
    return f"all of {silo}"


def _codes(values: Sequence[str], names: Sequence[str]) -> NDArray[np.int32]:
    places = {name: place for place, name in enumerate(names)}
    return np.fromiter((places[value] for value in values), np.int32, len(values))


def natural_order(names: Sequence[str]) -> NDArray[np.int64]:
    """Rank file names: by the last part of the path with numbers as numbers, then by all of it."""
    rows = sorted(range(len(names)), key=lambda row: (natural(names[row].rpartition("/")[2]), names[row]))
    ranks = np.empty(len(names), np.int64)
    ranks[rows] = np.arange(len(names))
    return ranks


def with_external(samples: Samples, names: Iterable[str]) -> Samples:
    """Make silos external: all of their pictures are for testing.

    Raises
    ------
    SchemaError
        There is no such silo, or no other one would be left.
    """
    wanted = frozenset(names)
    strange = sorted(wanted - set(samples.silos))
    if strange:
        raise SchemaError(
            "tool-option",
            f"--external {strange[0]}: found no such silo, expected one of the {len(samples.silos)}: {few(samples.silos)}",
        )
    if wanted and len(wanted) == len(samples.silos):
        raise SchemaError("tool-option", f"--external: found all {len(wanted)} silos, expected at least one to train on")
    codes = [place for place, name in enumerate(samples.silos) if name in wanted]
    split = np.where(np.isin(samples.silo, codes), CODES["test"], samples.split).astype(np.int32)
    return replace(samples, split=split, external=samples.external | wanted)


def check(samples: Samples) -> None:
    """Refuse groups that stand in two silos, names that cannot be written down, or pictures of no split.

    Raises
    ------
    SchemaError
        There is such a group or name; or the source tells of no split and none was asked for.
    """
    pairs = np.unique(np.stack([samples.group, samples.silo]), axis=1)
    twice = [code for code, number in Counter(pairs[0].tolist()).items() if number > 1]
    if twice:
        homes = [samples.silos[silo] for group, silo in pairs.T if group == twice[0]]
        more = f" ({len(twice)} such groups)" if len(twice) > 1 else ""
        raise SchemaError(
            "table-group",
            f"the group {samples.groups[twice[0]]!r} stands in the silos {few(homes)}, expected each in one silo{more}",
        )
    for what, names in (("class", samples.classes), ("silo", samples.silos), ("group", samples.groups)):
        bad = next((name for name in names if not is_name(name)), None)
        if bad is not None:
            raise SchemaError(
                "table-cell", f"found the {what} {bad[:50]!a} of {len(bad)} letters, expected 1 to {MOST_LETTERS}, of UTF-8"
            )
    if (samples.split == NO_SPLIT).any():
        raise SchemaError(
            "split-none", "found pictures that are in no split, expected train and test: --split 0.8,0,0.2 draws them"
        )


def is_name(text: str) -> bool:
    """Tell whether a silo file can hold a name."""
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a letter of UTF-16
        return False
    return 0 < len(text) <= MOST_LETTERS and "\0" not in text


def few(names: Iterable[str]) -> str:
    """Name the first five."""
    found = list(names)
    return ", ".join(found[:5]) + (", …" if len(found) > 5 else "")
