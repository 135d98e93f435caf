"""The part of HDF5 that our own files are made of, read without HDF5's library: hostile bytes can neither crash nor hang it.

What h5py writes by default (superblock 0, groups as symbol tables) and what our writers use of it: contiguous datasets of
little-endian numbers in groups, and attributes of the root that are integers, lists of them or texts. Everything else
(chunks, filters, external files, links, other types) is refused. No offset is believed: each is compared with the size of
the file, nothing is visited twice, and what is read beside the arrays is bounded. This module knows nothing of runs.
"""

from __future__ import annotations

import math
import os
import struct
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from silofold.core import guarded
from silofold.core.hdf5_codes import FIXED, SPACES, TEXT, TYPES, Array, decoded, refuse, shape_of, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
NOWHERE: Final = 2**64 - 1
DEEPEST: Final = 4
"""Groups within groups."""
MOST_OBJECTS: Final = 10_000
MOST_BYTES: Final = 64 * guarded.MIB
"""Of everything but the arrays."""
_DATASPACE, _DATATYPE, _LAYOUT, _ATTRIBUTE, _CONTINUATION, _GROUP = 0x01, 0x03, 0x08, 0x0C, 0x10, 0x11
_SHARED: Final = 2
_HARMLESS: Final = {0x00, 0x04, 0x05, 0x12, _ATTRIBUTE}
"""Nil, fill values, time of change; attributes of a dataset, which nobody reads."""


class File:
    """A file that was opened for reading.

    Parameters
    ----------
    path
        A regular file.

    Attributes
    ----------
    arrays
        By name, ``group/dataset``.
    attributes
        Of the root: integers, lists of them, and texts.

    Raises
    ------
    UnfitError
        It is no file that our writers make.
    OSError
        It cannot be opened or read.
    """

    def __init__(self, path: Path) -> None:
        self._file = guarded.opened(path)
        self._size = os.fstat(self._file.fileno()).st_size
        self._seen: set[int] = set()
        self._left, self._arrays = MOST_BYTES, 0
        self.arrays: dict[str, Array] = {}
        self.attributes: dict[str, int | str | list[int]] = {}
        try:
            self._read_root()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()

    def read(self, name: str, part: slice = slice(None)) -> NDArray[Any]:
        """Read an array, or the rows `part` of it.

        Raises
        ------
        UnfitError
            The file was cut meanwhile.
        OSError
            It cannot be read.
        """
        dtype, shape, offset = self.arrays[name]
        start, stop, _ = part.indices(shape[0]) if shape else (0, 1, 1)
        row = math.prod(shape[1:]) * dtype.itemsize
        raw = np.empty(max(0, stop - start) * row, np.uint8)
        self._file.seek(offset + start * row)
        if self._file.readinto(raw.data) != len(raw):
            refuse("found fewer bytes than before")
        return raw.view(dtype).reshape((max(0, stop - start), *shape[1:]) if shape else ())

    # --- structure -------------------------------------------------------------------------------------------------------

    def _at(self, offset: int, size: int) -> bytes:
        """Read a piece of structure."""
        if offset > self._size or size > self._size - offset:
            refuse(f"found an offset of {offset} beyond the end, {self._size}")
        self._left -= size
        if self._left < 0:
            refuse("found too much structure for its arrays")
        self._file.seek(offset)
        data = self._file.read(size)
        if len(data) != size:
            refuse("found fewer bytes than its size")
        return data

    def _once(self, offset: int) -> int:
        """Take note of an object: two names of one, or a circle, our writers do not make."""
        if offset in self._seen or len(self._seen) >= MOST_OBJECTS:
            refuse("found an object twice, or too many")
        self._seen.add(offset)
        return offset

    def _read_root(self) -> None:
        head = self._at(0, min(96, self._size))
        if len(head) < 96 or head[:8] != SIGNATURE:
            refuse("found no HDF5 file that silofold writes")
        if head[8:16] != bytes([0, 0, 0, 0, 0, 8, 8, 0]):
            refuse("found another version of HDF5's format than silofold writes")
        base, _, end, _ = struct.unpack_from("<4Q", head, 24)
        if base or end != self._size:
            refuse(f"found {self._size} bytes, expected {end}: cut short or padded")
        self._group("", dict(self._messages(struct.unpack_from("<Q", head, 64)[0], root=True)), 0)

    def _group(self, path: str, group: dict[int, bytes], depth: int) -> None:
        if depth > DEEPEST:
            refuse("found groups nested too deeply")
        for name, header in self._links(group):
            messages = dict(self._messages(header))
            if _GROUP in messages:
                self._group(f"{path}{name}/", messages, depth + 1)
            else:
                self.arrays[f"{path}{name}"] = self._array(messages)

    def _messages(self, header: int, *, root: bool = False) -> Iterator[tuple[int, bytes]]:
        """Read the messages of an object; the root's attributes are kept on the way."""
        version, _, _, _, size = struct.unpack("<BBHII", self._at(self._once(header), 12))
        if version != 1:
            refuse(f"found an object header of version {version}")
        blocks = [(header + 16, size)]
        while blocks:
            block = self._at(*blocks.pop(0))
            at = 0
            while at + 8 <= len(block):
                kind, length, flags = struct.unpack_from("<HHB", block, at)
                body = block[at + 8 : at + 8 + length]
                at += 8 + length
                if len(body) != length or flags & _SHARED:
                    refuse("found a message that is cut short or lies elsewhere")
                if kind == _CONTINUATION:
                    offset, more = unpack("<QQ", body)
                    blocks.append((self._once(offset), more))
                elif kind in {_DATASPACE, _DATATYPE, _LAYOUT, _GROUP}:
                    yield kind, body
                elif kind not in _HARMLESS:
                    refuse(f"found a message of kind {kind}, which silofold does not write")
                if kind == _ATTRIBUTE and root:
                    self._attribute(body)

    def _links(self, group: dict[int, bytes]) -> Iterator[tuple[str, int]]:
        if set(group) != {_GROUP}:
            refuse("found no group where one is expected")
        tree, heap = unpack("<QQ", group[_GROUP])
        names = self._heap(self._once(heap))
        for node in self._nodes(tree, 0):
            head = self._at(self._once(node), 8)
            if head[:6] != b"SNOD\x01\x00":
                refuse("found no symbol table where one is expected")
            count = struct.unpack_from("<H", head, 6)[0]
            for offset, header, cache in struct.iter_unpack("<QQI20x", self._at(node + 8, 40 * count)):
                name = names[offset:].partition(b"\0")[0]
                if cache not in {0, 1} or not name or b"/" in name or not name.isascii():
                    refuse("found a link that silofold does not write")
                yield name.decode(), header

    def _nodes(self, tree: int, depth: int) -> Iterator[int]:
        """Walk a tree down to its symbol tables."""
        head = self._at(self._once(tree), 24)
        if head[:5] != b"TREE\x00" or depth > DEEPEST:
            refuse("found no tree where one is expected")
        level, used = head[5], struct.unpack_from("<H", head, 6)[0]
        for _, child in struct.iter_unpack("<QQ", self._at(tree + 24, 16 * used)):
            if level:
                yield from self._nodes(child, depth + 1)
            else:
                yield child

    def _heap(self, heap: int) -> bytes:
        head = self._at(heap, 32)
        if head[:5] != b"HEAP\x00":
            refuse("found no heap where one is expected")
        size, _, data = struct.unpack_from("<3Q", head, 8)
        return self._at(data, size)

    def _array(self, messages: dict[int, bytes]) -> Array:
        if set(messages) != {_DATASPACE, _DATATYPE, _LAYOUT}:
            refuse("found an object that is neither group nor array")
        shape = shape_of(messages[_DATASPACE])
        dtype = next((found for form, found in TYPES.items() if messages[_DATATYPE].startswith(form)), None)
        if dtype is None:
            refuse("found an array of another type than numbers")
        layout = messages[_LAYOUT]
        if layout[:2] != b"\x03\x01":
            refuse("found an array that is not one contiguous block")
        offset, size = unpack("<QQ", layout[2:])
        count = math.prod(shape)
        if not count and math.prod(filter(None, shape)) < 2**40:
            return Array(dtype, shape, 0)
        self._arrays += size
        if size != count * dtype.itemsize or offset > self._size - size or self._arrays > self._size:
            refuse(f"found an array of {size} bytes at {offset}, expected {count * dtype.itemsize} within {self._size}")
        return Array(dtype, shape, offset)

    def _attribute(self, body: bytes) -> None:
        version, name_size, type_size, space_size = unpack("<BxHHH", body)
        if version != 1:
            refuse(f"found an attribute of version {version}")
        at, parts = 8, []
        for size in (name_size, type_size, space_size):
            parts.append(body[at : at + size])
            at += (size + 7) // 8 * 8
        name, kind, space = parts
        self.attributes[decoded(name.rstrip(b"\0"))] = self._value(kind, shape_of(space), body[at:])

    def _value(self, kind: bytes, shape: tuple[int, ...], data: bytes) -> int | str | list[int]:
        """Read the value of an attribute, or the values of a list."""
        dtype = next((found for form, found in TYPES.items() if kind.startswith(form) and found.kind in "iu"), None)
        if dtype is not None and len(shape) <= 1:
            size = math.prod(shape) * dtype.itemsize
            if len(data) < size:
                refuse("found an attribute that is cut short")
            found: int | list[int] = np.frombuffer(data[:size], dtype).reshape(shape).tolist()
            return found
        if shape or kind[:1] not in {bytes([TEXT]), bytes([FIXED])} or len(kind) < 8:
            refuse("found an attribute that is neither an integer, nor a list of some, nor a text")
        if kind[0] == TEXT:
            return self._text(data[:16])
        text = data[: struct.unpack_from("<I", kind, 4)[0]].split(b"\0")[0]
        return decoded(text.rstrip(b" ") if kind[1] & 15 == SPACES else text)

    def _text(self, reference: bytes) -> str:
        """Read a text out of a global heap."""
        length, heap, index = unpack("<IQI", reference)
        head = self._at(heap, 16)
        if head[:5] != b"GCOL\x01":
            refuse("found no heap where one is expected")
        block = self._at(heap, struct.unpack_from("<Q", head, 8)[0])
        at = 16
        while at + 16 <= len(block):
            number, size = struct.unpack_from("<H6xQ", block, at)
            if number == index and length <= size:
                return decoded(block[at + 16 : at + 16 + length])
            if not number:
                break
            at += 16 + (size + 7) // 8 * 8
        raise guarded.UnfitError("found a text that lies nowhere")
