"""Comparing what a silo file holds with what the manifest says of it, before any of its bytes is read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from silofold.core import guarded
from silofold.data.inspection import Facts, Other
from silofold.data.schema import Manifest, SiloInfo, SplitInfo, SplitName, attributes_of, datasets_of, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from silofold.data.inspection import Dataset


LISTS: Final = ("classes", "writers", "groups")
"""Attributes that are a list in JSON."""


class Fault(NamedTuple):
    """What is wrong with a silo file: the id of the error, and its words."""

    id: str
    text: str


def file_faults(facts: Facts, silo: SiloInfo, manifest: Manifest, size: int) -> tuple[list[Fault], tuple[int, ...]]:
    """Tell every fault of a silo file of so many bytes, and where the bytes of its datasets begin if there is none."""
    if facts.fault:
        return [Fault("data-read", facts.fault)], ()
    found = [fault for split in manifest.splits for fault in split_faults(facts, split, silo, manifest, size)]
    if found:
        return list(dict.fromkeys(found)), ()
    names = datasets_of(manifest.schema)
    return [], tuple(facts.datasets[f"{split}/{name}"].offset or 0 for split in manifest.splits for name in names)


def split_faults(facts: Facts, split: SplitName, silo: SiloInfo, manifest: Manifest, size: int) -> Iterator[Fault]:
    """Tell the faults of one split, and of the attributes that all of the file has."""
    info: SplitInfo = getattr(silo, split)
    for key, value in attributes_of(silo.name, silo.writers, manifest.layout, {split: info}, silo.role).items():
        expected = value.tolist() if isinstance(value, np.ndarray) else value
        found = facts.attributes.get(key)
        if found is None:
            yield Fault("data-header", f"attribute {key}: missing, expected {shortened(value)}")
        elif found != expected and not (key in LISTS and isinstance(found, str) and _same_list(found, str(expected))):
            shown = found.other if isinstance(found, Other) else found
            if str(shown) == str(expected):
                shown = repr(shown)  # a text of digits is no number
            yield Fault("data-header", f"attribute {key}: found {shortened(shown)}, expected {shortened(value)}")
    for name, dtype in datasets_of(manifest.schema).items():
        shape = (info.examples, *(manifest.image_shape if name == "images" else ()))
        dataset = facts.datasets.get(f"{split}/{name}")
        fault = dataset_fault(dataset, dtype, shape, size)
        if fault:
            yield Fault(fault.id, f"{split}/{name}: {fault.text}")


def _same_list(found: str, expected: str) -> bool:
    """Whether two texts are the same list in JSON, which can be spelled in several ways."""
    try:
        return bool(guarded.decode(found.encode(), list[str]) == guarded.decode(expected.encode(), list[str]))
    except guarded.UnfitError:
        return False


def dataset_fault(dataset: Dataset | None, dtype: np.dtype[Any], shape: tuple[int, ...], size: int) -> Fault | None:
    """Tell what is wrong with a dataset that must have a type and shape, and lie in a file of so many bytes."""
    if dataset is None or dataset.fault == "missing":
        return Fault("data-header", f"missing, expected a dataset {shape} of {dtype}")
    if dataset.fault:
        return Fault("data-layout", f"found {dataset.fault}, expected one contiguous block of this file")
    if dataset.shape != shape or dataset.dtype != str(dtype):
        return Fault("data-header", f"found {dataset.shape} of {dataset.dtype}, expected {shape} of {dtype}")
    count = math.prod(shape) * dtype.itemsize
    if count and dataset.offset is None:
        return Fault("data-layout", "found no bytes, expected one contiguous block of this file")
    if count and not 0 < (dataset.offset or 0) <= size - count:
        return Fault(
            "data-layout", f"found {count} bytes at {dataset.offset}, beyond the file's own {size}: truncated, or damaged"
        )
    return None
