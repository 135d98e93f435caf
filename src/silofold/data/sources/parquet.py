"""Parquet: tables of labels, and pictures whose bytes stand in a column, as Hugging Face lays them out. Needs pyarrow."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from silofold.core.errors import SchemaError
from silofold.data import space, work
from silofold.data.picture import decoded
from silofold.data.samples import CODES, NO_SPLIT, Samples, natural_order, of_texts
from silofold.data.sources.columns import FOLDS, Columns, check_column, folds_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from silofold.data.fitting import Fitting


@dataclass(frozen=True)
class Spooled:
    """The pictures of one file: their bytes one behind the other, where each begins, and what is known of them."""

    path: str
    ends: str
    names: list[str]
    columns: dict[str, list[str]]


@dataclass(frozen=True)
class Parquet:
    """Parquet files of pictures."""

    path: Path
    files: tuple[Spooled, ...]
    splits: tuple[int, ...]
    columns: Columns
    silo: str
    classes: tuple[str, ...]
    renames: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """What it is, for the record."""
        return f"Parquet: {self.path.resolve().name}"

    def __getstate__(self) -> dict[str, Any]:
        """Send to another process what it needs to read pictures, no names."""
        return {"path": self.path}

    def samples(self) -> Samples:
        """Read what is known of every picture.

        Raises
        ------
        SchemaError
            A value is missing.
        """
        texts: dict[str, list[str]] = {"label": [], "silo": [], "group": []}
        names: list[str] = []
        paths: list[str] = []
        splits, places = [], []
        for file, code in zip(self.files, self.splits, strict=True):
            size = len(file.names)
            for what, values in texts.items():
                if name := getattr(self.columns, what) or ("label" if what == "label" else None):
                    values.extend(file.columns[name])
                    empty = next((row for row, value in enumerate(file.columns[name]) if not value.strip()), None)
                    if empty is not None:
                        raise SchemaError("table-cell", f"{self.path}, row {empty + 1}: found nothing in {name!r}")
            names += file.names
            paths += [file.path] * size
            places.append(np.arange(size))
            fold = self.columns.fold
            splits.append(
                folds_of(file.columns[fold], str(self.path), range(1, size + 1)) if fold else np.full(size, code, np.int32)
            )
        if not names:
            raise SchemaError("data-empty", f"{self.path}: found no picture, expected some")
        labels = [self.renames.get(label, label) for label in texts["label"]]
        silos, groups = texts["silo"] or [self.silo] * len(names), texts["group"] or None
        order = natural_order(names) if all(names) else np.arange(len(names))
        split, place = (np.concatenate(each) for each in (splits, places))
        return of_texts(labels, silos, groups, split.astype(np.int32), order, paths, place.astype(np.int64), self.classes)

    def image(self, path: str, place: int, fitting: Fitting) -> NDArray[np.uint8]:
        """Read one picture as (H, W) or (H, W, 3) uint8."""
        ends = _ends(path)
        start = int(ends[place - 1]) if place else 0
        with open(path, "rb") as file:  # noqa: PTH123  (a text)
            file.seek(start)
            data = file.read(int(ends[place]) - start)
        return decoded(data, f"{self.path}, picture {place + 1}", fitting)


@lru_cache(maxsize=64)
def _ends(path: str) -> NDArray[np.int64]:
    return np.fromfile(f"{path}.ends", np.int64)


def open_parquet(
    path: Path, columns: Columns, spool: Path, silo: str, classes: tuple[str, ...], renames: Mapping[str, str]
) -> Parquet:
    """Spool the pictures of a Parquet file, or of all of a folder.

    Raises
    ------
    SchemaError
        A file is damaged or lacks a column, or pyarrow is not installed.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    spooled, splits = [], []
    for number, file in enumerate(files):
        spooled.append(work.apart(_spooled, (file, columns, str(spool / f"{number}.pictures"))))
        word = file.name.partition("-")[0].removesuffix(".parquet").casefold()
        splits.append(CODES[FOLDS[word]] if word in FOLDS else NO_SPLIT)  # type: ignore[index]
    return Parquet(path, tuple(spooled), tuple(splits), columns, silo, classes, renames)


def _opened(path: Path) -> Any:
    """Open a Parquet file with pyarrow."""
    try:
        from pyarrow import parquet  # noqa: PLC0415  (an extra, in a process of its own)
    except ImportError:
        raise SchemaError("extra-missing", f"{path}: Parquet needs pyarrow: pip install 'silofold[parquet]'") from None
    if not path.is_file():
        raise SchemaError("table-read", f"{path}: found no regular file, expected a Parquet file")
    try:
        return parquet.ParquetFile(path)
    except Exception as fault:  # noqa: BLE001  (whatever a damaged file makes of it)
        raise SchemaError("table-read", f"{path}: {_one_line(fault)}, expected a Parquet file") from None


def text_columns(task: tuple[Path, tuple[str, ...]]) -> dict[str, list[str]]:
    """Read columns as texts; what is missing is an empty one.

    Raises
    ------
    SchemaError
        The file is damaged, or lacks a column.
    """
    path, names = task
    file = _opened(path)
    for name in names:
        check_column(name, file.schema_arrow.names, path)
    found: dict[str, list[str]] = {name: [] for name in names}
    for batch in _batches(file, path, list(names)):
        for name in names:
            found[name] += _texts(batch.column(name).to_pylist(), file, name)
    return found


def _batches(file: Any, path: Path, names: list[str]) -> Iterator[Any]:
    try:
        yield from file.iter_batches(batch_size=256, columns=names)
    except SchemaError:
        raise
    except Exception as fault:  # noqa: BLE001  (whatever a damaged file makes of it)
        raise SchemaError("table-read", f"{path}: {_one_line(fault)}, expected a sound Parquet file") from None


def _texts(values: list[Any], file: Any, name: str) -> list[str]:
    """Turn cells to texts; numbers of classes that have names, as Hugging Face notes them, to these."""
    names = _class_names(file, name)
    texts = []
    for value in values:
        if value is None:
            texts.append("")
        elif isinstance(value, float) and value.is_integer():
            texts.append(str(int(value)))
        elif names and isinstance(value, int) and 0 <= value < len(names):
            texts.append(names[value])
        else:
            texts.append(str(value).strip())
    return texts


def _class_names(file: Any, name: str) -> list[str]:
    try:
        told = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        names = told["info"]["features"][name]["names"]
        return names if all(isinstance(each, str) for each in names) else []
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def _spooled(task: tuple[Path, Columns, str]) -> Spooled:
    """Write the bytes of all pictures of a file one behind the other."""
    path, columns, target = task
    file = _opened(path)
    image, label = columns.image or "image", columns.label or "label"
    wanted = [label, *(name for name in (columns.silo, columns.group, columns.fold) if name)]
    for name in (image, *wanted):
        check_column(name, file.schema_arrow.names, path)
    space.check(Path(target).parent, path.stat().st_size, Path(target))
    names: list[str] = []
    found: dict[str, list[str]] = {name: [] for name in wanted}
    ends: list[int] = []
    with open(target, "wb") as out:  # noqa: PTH123  (a text)
        for batch in _batches(file, path, [image, *dict.fromkeys(wanted)]):
            for value in batch.column(image).to_pylist():
                data = value.get("bytes") if isinstance(value, dict) else value
                if not isinstance(data, bytes):
                    raise SchemaError(
                        "table-image", f"{path}, row {len(names) + 1}: found no bytes of a picture in {image!r}"
                    )
                out.write(data)
                ends.append(out.tell())
                names.append(str(value.get("path") or "") if isinstance(value, dict) else "")
            for name in found:
                found[name] += _texts(batch.column(name).to_pylist(), file, name)
    np.array(ends, np.int64).tofile(f"{target}.ends")
    return Spooled(target, f"{target}.ends", names, found)


def _one_line(fault: Exception) -> str:
    return " ".join(str(fault).split())[:200] or type(fault).__name__
