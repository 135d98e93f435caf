"""Arrays of pictures and labels: ``.npz``, a pair of ``.npy`` files, or datasets of ``.h5``; nothing is ever unpickled."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from silofold.core.errors import SchemaError
from silofold.data.picture import pixels
from silofold.data.samples import CODES, NO_SPLIT, Samples, few, of_texts
from silofold.data.sources import array_files, raw_array
from silofold.data.sources.columns import Columns, check_column, folds_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from silofold.data.fitting import Fitting
    from silofold.data.samples import Picture
    from silofold.data.schema import SplitName
    from silofold.data.sources.raw_array import RawArray

_USUAL: Final[tuple[dict[tuple[str, str], SplitName | None], ...]] = (
    {("images", "labels"): None},
    {("x_train", "y_train"): "train", ("x_val", "y_val"): "validation", ("x_test", "y_test"): "test"},
    {
        ("train_images", "train_labels"): "train",
        ("val_images", "val_labels"): "validation",
        ("test_images", "test_labels"): "test",
    },
)
"""Names that others give to pictures and labels, by split; what is there is taken."""


@dataclass(frozen=True)
class Part:
    """Pictures of one array, with their labels and what else is known of them."""

    images: RawArray
    labels: RawArray
    split: SplitName | None
    others: Mapping[str, RawArray] = field(default_factory=dict)


@dataclass(frozen=True)
class Arrays:
    """Pictures in arrays. Pictures of several arrays are numbered on, from one array to the next."""

    path: Path
    parts: tuple[Part, ...]
    silo: str
    classes: tuple[str, ...]
    renames: Mapping[str, str]
    shape: tuple[int, ...]
    span: tuple[float, float] | None

    @property
    def words(self) -> str:
        """What it is, for the record."""
        return f"arrays: {self.path.name}"

    def samples(self) -> Samples:
        """Read what is known of every picture.

        Raises
        ------
        SchemaError
            Arrays are of different lengths, or labels are neither whole numbers nor texts.
        """
        columns: dict[str, list[str]] = {"label": [], "silo": [], "group": []}
        splits, paths, places = [], [], []
        for number, part in enumerate(self.parts):
            size = part.images.shape[0]
            labels = _texts(part.labels, size, f"{self.path}: labels")
            columns["label"] += [self.renames.get(label, label) for label in labels]
            for name in ("silo", "group"):
                if name in part.others:
                    columns[name] += _texts(part.others[name], size, f"{self.path}: {name}")
            fold = part.others.get("fold")
            given = CODES[part.split] if part.split else NO_SPLIT
            splits.append(
                np.full(size, given, np.int32)
                if fold is None
                else folds_of(_texts(fold, size, f"{self.path}: fold"), str(self.path), range(1, size + 1))
            )
            paths += [str(number)] * (size if len(self.parts) > 1 else 1)
            places.append(np.arange(size))
        size = len(columns["label"])
        if not size:
            raise SchemaError("data-empty", f"{self.path}: found no picture, expected some")
        for name in ("label", "silo", "group"):
            if any(not value.strip() for value in columns[name]):
                raise SchemaError("table-cell", f"{self.path}: {name}: found an empty text, expected a name")
        silos = columns["silo"] or [self.silo] * size
        groups = columns["group"] or None
        place = np.concatenate(places).astype(np.int64)
        split = np.concatenate(splits).astype(np.int32)
        return of_texts(columns["label"], silos, groups, split, np.arange(size), paths, place, self.classes)

    def many(self, images: NDArray[np.uint8], pictures: Sequence[Picture], fitting: Fitting) -> bool:
        """Read pictures all at once, where they have the shape already."""
        if self.shape != fitting.shape:
            return False
        if len(self.parts) == 1:
            places = np.fromiter((picture.place for picture in pictures), np.int64, len(pictures))
            images[:] = raw_array.rows(self.parts[0].images, places, fitting)
            return True
        at = 0
        for number, group in itertools.groupby(pictures, key=lambda picture: picture.path):
            places = np.array([picture.place for picture in group], np.int64)
            images[at : at + len(places)] = raw_array.rows(self.parts[int(number)].images, places, fitting)
            at += len(places)
        return True

    def image(self, path: str, place: int, fitting: Fitting) -> NDArray[np.uint8]:
        """Read one picture as (H, W) or (H, W, 3) uint8."""
        found = raw_array.rows(self.parts[int(path)].images, np.array([place], np.int64), fitting)
        return pixels(Image.fromarray(found[0]), fitting.shape, fit=fitting.fit)


def open_arrays(
    path: Path,
    labels: Path | None,
    columns: Columns,
    spool: Path,
    silo: str,
    classes: tuple[str, ...],
    renames: Mapping[str, str],
    span: tuple[float, float] | None,
) -> Arrays:
    """Find the arrays of pictures and labels.

    Parameters
    ----------
    labels
        File of the labels, of a pair of ``.npy`` files.
    columns
        Names of the arrays, where they have other names than usual.
    spool
        Folder for what does not lie in its file as one block.

    Raises
    ------
    SchemaError
        An array is missing, is damaged, or holds no pictures.
    """
    parts = _pair(path, labels) if path.suffix.lower() == ".npy" else _named(path, columns, spool)
    shapes = {raw_array.check_pictures(part.images, str(path), span) for part in parts}
    if len(shapes) > 1:
        raise SchemaError("array-shape", f"{path}: found pictures of the sizes {sorted(shapes)}, expected one")
    return Arrays(path, parts, silo, classes, renames, shapes.pop(), span)


def _pair(path: Path, labels: Path | None) -> tuple[Part, ...]:
    if labels is None or labels.suffix.lower() != ".npy":
        raise SchemaError("tool-option", f"{path}: expected its labels too: --labels LABELS.npy")
    nowhere = Path()
    return (Part(array_files.take(path, [""], nowhere)[""], array_files.take(labels, [""], nowhere)[""], None),)


def _named(path: Path, columns: Columns, spool: Path) -> tuple[Part, ...]:
    names = array_files.names_of(path)
    others = {what: name for what in ("silo", "group", "fold") if (name := getattr(columns, what))}
    pairs: dict[tuple[str, str], SplitName | None]
    if columns.image or columns.label:
        pairs = {(columns.image or "images", columns.label or "labels"): None}
    else:
        pairs = next(
            (
                found
                for usual in _USUAL
                if (found := {both: split for both, split in usual.items() if set(both) <= set(names)})
            ),
            {},
        )
        if not pairs:
            raise SchemaError(
                "table-column",
                f"{path}: found the arrays {few(names) or 'none'}, expected images, labels; --image and --label name them",
            )
    for name in [*itertools.chain.from_iterable(pairs), *others.values()]:
        check_column(name, names, path)
    if others and len(pairs) > 1:
        raise SchemaError(
            "tool-option", f"{path}: --silo, --group and --fold need one array of pictures, found {len(pairs)}"
        )
    wanted = [*itertools.chain.from_iterable(pairs), *others.values()]
    taken = array_files.take(path, list(dict.fromkeys(wanted)), spool)
    more = {what: taken[name] for what, name in others.items()}
    return tuple(Part(taken[image], taken[label], split, more) for (image, label), split in pairs.items())


def _texts(array: RawArray, size: int, where: str) -> list[str]:
    """Read labels, silos or groups as texts."""
    shape = array.shape[:1] if array.shape[1:] == (1,) else array.shape
    if shape != (size,):
        raise SchemaError("array-shape", f"{where}: found the shape {array.shape}, expected ({size},), one a picture")
    values: NDArray[Any] = raw_array.whole(array).reshape(-1)
    if values.dtype.kind == "S":
        try:
            values = np.char.decode(values, "utf-8")
        except UnicodeDecodeError:
            raise SchemaError("array-shape", f"{where}: found a text that is not UTF-8") from None
    if values.dtype.kind == "f" and not ((np.abs(values) < 2**53).all() and (values == np.rint(values)).all()):
        raise SchemaError("array-shape", f"{where}: found {values.dtype} with fractions, expected whole numbers or texts")
    if values.dtype.kind in "fb":
        values = values.astype(np.int64)
    try:
        return [str(value) for value in values.tolist()]
    except ValueError:
        raise SchemaError("array-shape", f"{where}: found a text with what is no letter") from None
