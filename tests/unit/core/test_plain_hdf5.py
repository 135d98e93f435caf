from __future__ import annotations

import random
import struct
import time
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from silofold.core import guarded, plain_hdf5

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TYPES = ["<f4", "<f8", *(f"<{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8))]
SHAPES: list[tuple[int, ...]] = [(), (1,), (7,), (0,), (3, 2), (2, 0, 4), (5, 4, 3, 2)]


ATTRIBUTES = {"schema": 1, "minus": -5, "text": "é" * 999, "empty": "", "list": [3, -4, 5], "nothing": [0]}


def write(path: Path) -> dict[str, np.ndarray]:
    """Write arrays of every type and shape, in groups of many, and attributes, as h5py does by default."""
    rng = np.random.default_rng(1)
    arrays = {
        f"{group}a{index}{dtype[1:]}": rng.integers(0, 100, shape).astype(dtype)
        for group in ("", "group/", "group/in/")
        for dtype in TYPES
        for index, shape in enumerate(SHAPES)
    }
    with h5py.File(path, "w") as file:
        for name, value in ATTRIBUTES.items():
            file.attrs[name] = value
        file.attrs["fixed"] = np.bytes_("text")
        for name, array in arrays.items():
            file.create_dataset(name, data=array, track_times=False)
    return arrays


def test_what_h5py_writes_is_read(tmp_path: Path) -> None:
    arrays = write(tmp_path / "a.h5")
    with plain_hdf5.File(tmp_path / "a.h5") as file:
        assert file.attributes == {**ATTRIBUTES, "fixed": "text"}
        assert set(file.arrays) == set(arrays)
        for name, array in arrays.items():
            found = file.read(name)
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
            assert found.tobytes() == array.tobytes()
            if array.shape:
                assert file.read(name, slice(1, 3)).tobytes() == array[1:3].tobytes()


def external(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (10,), "u1", external=[("/etc/passwd", 0, 10)])


def chunked(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.zeros(10), chunks=(5,))


def packed(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.zeros(10), compression="gzip")


def soft(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)
        file["y"] = h5py.SoftLink("/x")


def twice(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)
        file["y"] = file["x"]


def circle(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("g")["up"] = file["/"]


def virtual(path: Path) -> None:
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout((3,), "f4")
        layout[:] = h5py.VirtualSource("/etc/passwd", "x", (3,))
        file.create_virtual_dataset("x", layout)


def compact(path: Path) -> None:
    with h5py.File(path, "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((3,)), plist)


def latest(path: Path) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        file["x"] = np.zeros(3)


def others(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3, ">f4")


def texts(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = ["a", "b"]


def deep(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["/".join("abcdefgh")] = np.zeros(3)


def outside(path: Path) -> None:
    """Shift an array's offset behind the end of the file."""
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(300, dtype="u1")
        offset = file["x"].id.get_offset()
    data = path.read_bytes()
    assert data.count(struct.pack("<QQ", offset, 300)) == 1
    path.write_bytes(data.replace(struct.pack("<QQ", offset, 300), struct.pack("<QQ", 2**62, 300)))


def huge(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(300, dtype="u1")
    path.write_bytes(path.read_bytes().replace(struct.pack("<Q", 300), struct.pack("<Q", 2**40)))


def cut(path: Path) -> None:
    write(path)
    path.write_bytes(path.read_bytes()[:-1])


KINDS: list[Callable[[Path], None]] = [
    external, chunked, packed, soft, twice, circle, virtual, compact, latest, others, texts, deep, outside, huge, cut,
]  # fmt: skip


@pytest.mark.parametrize("make", KINDS)
def test_what_our_writers_do_not_make_is_refused(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "a.h5")
    with pytest.raises(guarded.UnfitError):
        plain_hdf5.File(tmp_path / "a.h5")


def test_any_bytes_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path)
    source = path.read_bytes()
    rng, began, refused = random.Random(1), time.monotonic(), 0  # noqa: S311  (no secret)
    for _ in range(100):
        data = bytearray(source)
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.choice((0, 1, 255, rng.randrange(256)))
        path.write_bytes(data)
        try:
            with plain_hdf5.File(path) as file:
                assert sum(file.read(name).nbytes for name in file.arrays) <= len(data)
        except guarded.UnfitError:
            refused += 1
    assert refused > 10
    assert time.monotonic() - began < 100
