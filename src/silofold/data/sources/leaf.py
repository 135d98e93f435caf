"""LEAF's JSON shards of FEMNIST, read without loss.

A folder holds train/*.json and test/*.json, each with users, num_samples and
user_data (x: 784 numbers u8/255, y: the class).
A writer whose pictures lie in several shards comes together, shards in the order of their names.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

import msgspec
import numpy as np

from silofold.core import guarded
from silofold.core.errors import SchemaError
from silofold.data import work
from silofold.data.leftovers import names_a_folder
from silofold.data.silo import SPLITS, SplitName
from silofold.data.sources.tree import FEMNIST, foreign_splits, shard_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

SIDE: Final = 28
MOST_BYTES: Final = 4096 * guarded.MIB
# Gray values are multiples of 1/255; float32 text strays from them by at most 3e-5 of a step.
_STEP_ERROR: Final = 1e-3
_ROW: Final = struct.Struct(f"{SIDE * SIDE}d")
_BLOCK_BYTES: Final = 2**19
"""Of text that are decoded at once; a picture takes some 12,000."""
_NAME_BYTES: Final = 200


class _User(msgspec.Struct):
    x: msgspec.Raw  # decoded one user at a time: as Python floats a whole shard takes thirty times its pixels
    y: list[int]


class _Shard(msgspec.Struct):
    users: list[str]
    num_samples: list[int]
    user_data: dict[str, _User]


@dataclass(frozen=True)
class Shard:
    """One JSON file: where it is, its split, how many pictures each user has in it, and how many earlier shards hold."""

    path: Path
    split: SplitName
    counts: dict[str, int]
    offsets: dict[str, int]


class _Part(NamedTuple):
    """A user's pictures in one shard: how many, and what their text is told from others by."""

    pictures: int
    length: int
    checksum: int


def shards(folder: Path, jobs: int) -> list[Shard]:
    """Read which users every shard holds; shards come by split, then by name with numbers as numbers.

    Raises
    ------
    SchemaError
        A shard is unreadable or contradicts itself, a user's pictures stand in two, or a user has none.
    """
    foreign_splits(folder)
    found: list[Shard] = []
    homes: dict[tuple[str, _Part], Path] = {}
    for split in SPLITS:
        paths = shard_files(folder / split)
        seen: Counter[str] = Counter()
        for path, parts in zip(paths, work.each(_parts, paths, jobs, "shard"), strict=True):
            for user, part in parts.items():
                other = homes.setdefault((user, part), path)
                if part.pictures and other != path:
                    raise SchemaError(
                        "leaf-shard", f"{path}: user {user}: found the same pictures as in {other}, expected them once"
                    )
            counts = {user: part.pictures for user, part in parts.items()}
            found.append(Shard(path, split, counts, {user: seen[user] for user in counts}))
            seen.update(counts)
    _check_users(folder, found)
    return found


def _check_users(folder: Path, found: list[Shard]) -> None:
    total: Counter[str] = Counter()
    for shard in found:
        total.update(shard.counts)
    if not total:
        raise SchemaError("leaf-user", f"{folder}: found no user in {len(found)} shards, expected at least 1")
    empty = next((user for user, count in total.items() if not count), None)
    if empty is not None:
        where = next(shard.path for shard in found if empty in shard.counts)
        raise SchemaError("leaf-user", f"{where}: user {empty}: found no picture in any shard, expected at least 1")


def read_shard(path: Path) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.int32]]]:
    """Yield user, pictures (N, 28, 28) and labels (N,) of a shard, holding the file's text and some pictures' numbers.

    Raises
    ------
    SchemaError
        The text is damaged, or a number is not what FEMNIST has there.
    """
    for user, data in _decode(path).user_data.items():
        where, size = f"{path}: user {user}: x", len(data.y)
        if 2 * SIDE * SIDE * size > memoryview(data.x).nbytes:  # before space is taken for what cannot be there
            raise SchemaError("leaf-shard", f"{where}: found fewer pictures than {size} labels, expected as many")
        images = np.empty((size, SIDE * SIDE), np.uint8)
        done = 0
        for block in _blocks(where, memoryview(data.x)):
            if done + len(block) > size:
                raise SchemaError("leaf-shard", f"{where}: found more pictures than {size} labels, expected as many")
            images[done : done + len(block)] = block
            done += len(block)
        if done != size:
            raise SchemaError("leaf-shard", f"{where}: found {done} pictures, expected {size}, as many as labels")
        yield user, images.reshape(-1, SIDE, SIDE), np.array(data.y, np.int32)


def _blocks(where: str, text: memoryview) -> Iterator[NDArray[np.uint8]]:
    """Decode a list of pictures, some at a time: as Python floats, all at once would take thirty times their pixels.

    A block ends behind a closing bracket and the next one begins with a comma. So the blocks are all of the list, and what
    stands between two pictures is decoded with them.
    """
    if text[0] != ord("["):
        raise SchemaError("leaf-shard", f"{where}: found no list of pictures, expected lists of {SIDE * SIDE} numbers")
    at, number, last = 1, 0, text.nbytes - 1  # behind the bracket that opens the list, before the one that closes it
    while at < last:
        piece = bytes(text[at : min(at + _BLOCK_BYTES, last)])
        if at + len(piece) < last:
            piece = piece[: piece.rfind(b"]") + 1]
            if not piece:
                raise SchemaError(
                    "leaf-shard", f"{where}: picture {number}: found {_BLOCK_BYTES} bytes and more, expected 784 numbers"
                )
        at += len(piece)
        if number:
            piece = piece.lstrip()[1:]  # the comma: that the text is JSON is known by now
        try:
            rows = msgspec.json.decode(b"[%b]" % piece, type=list[list[float]])
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            raise SchemaError("leaf-shard", f"{where}: from picture {number} on: {error}, expected numbers") from error
        yield _gray(where, number, rows)
        number += len(rows)


def _gray(where: str, number: int, rows: list[list[float]]) -> NDArray[np.uint8]:
    """Turn numbers to gray values (N, 784); `number` is the place of the first picture."""
    strange = next((place for place, row in enumerate(rows) if len(row) != SIDE * SIDE), None)
    if strange is not None:
        raise SchemaError(
            "leaf-shard",
            f"{where}: picture {number + strange}: found {len(rows[strange])} numbers, expected {SIDE * SIDE}",
        )
    packed = b"".join(_ROW.pack(*row) for row in rows)  # a third of the time that numpy takes for floats of Python
    with np.errstate(all="ignore"):  # what is no gray value is refused below, whatever becomes of it here
        steps = 255 * np.frombuffer(packed).reshape(-1, SIDE * SIDE)
        pixels = np.rint(steps)
        steps -= pixels
    good = (np.abs(steps) <= _STEP_ERROR) & (pixels >= 0) & (pixels <= 255)
    if not good.all():
        row, column = divmod(int(np.flatnonzero(~good)[0]), SIDE * SIDE)
        raise SchemaError("leaf-shard", f"{where}: found {rows[row][column]!r}, expected u8/255")
    return pixels.astype(np.uint8)


def _decode(path: Path) -> _Shard:
    try:
        text = guarded.read(path, MOST_BYTES)
        shard = msgspec.json.decode(text, type=_Shard)
    except OSError as error:
        raise SchemaError("leaf-shard", work.os_reason(error)) from error
    except guarded.UnfitError as error:
        raise SchemaError("leaf-shard", f"{path}: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise SchemaError(
            "leaf-shard", f"{path}: {error}, expected a LEAF shard with users, num_samples and user_data"
        ) from error
    if sorted(shard.users) != sorted(shard.user_data):
        raise SchemaError("leaf-shard", f"{path}: users and user_data name different users")
    if _lists(text, shard) > len(shard.users) + 2 * ("x" in shard.user_data):  # JSON itself keeps the last one alone
        raise SchemaError("leaf-shard", f"{path}: found more lists x than users, expected each user once")
    if len(shard.num_samples) != len(shard.users):
        raise SchemaError("leaf-shard", f"{path}: found {len(shard.num_samples)} num_samples, expected {len(shard.users)}")
    for user, size in zip(shard.users, shard.num_samples, strict=True):
        _check_user(path, user, shard.user_data[user].y, size)
    return shard


def _lists(text: bytes, shard: _Shard) -> int:
    """Count the keys x of a text outside of the lists that were taken from it, which are nearly all of the text."""
    begin = _address(text)
    places = sorted((_address(data.x) - begin, memoryview(data.x).nbytes) for data in shard.user_data.values())
    ends = [0, *(place + size for place, size in places)]
    starts = [*(place for place, _ in places), len(text)]
    return sum(text.count(b'"x"', end, start) for end, start in zip(ends, starts, strict=True))


def _address(part: bytes | msgspec.Raw) -> int:
    return int(np.frombuffer(part, np.uint8).__array_interface__["data"][0])


def _check_user(path: Path, user: str, labels: list[int], size: int) -> None:
    if not names_a_folder(user) or len(user.encode()) > _NAME_BYTES:
        raise SchemaError(
            "leaf-user",
            f"{path}: found user {user[:50]!r}, expected a name that can name a folder: at most {_NAME_BYTES} bytes, no /, "
            "no dot in front, none that a system uses",
        )
    if len(labels) != size:
        raise SchemaError("leaf-shard", f"{path}: user {user}: found {len(labels)} labels, expected {size} (num_samples)")
    strange = next((label for label in labels if not 0 <= label < len(FEMNIST)), None)
    if strange is not None:
        raise SchemaError("leaf-shard", f"{path}: user {user}: found label {strange}, expected 0 to {len(FEMNIST) - 1}")


def _parts(path: Path) -> dict[str, _Part]:
    data = _decode(path).user_data
    return {user: _Part(len(each.y), memoryview(each.x).nbytes, crc32(memoryview(each.x))) for user, each in data.items()}
