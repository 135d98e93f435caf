"""Reading silos: what was looked at is read by plain reads of the file, and checked against the manifest."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import msgspec
import numpy as np

from silofold.core import guarded
from silofold.data.cache import Cache, Stamp, Verdict, one_a_node, stamp_of
from silofold.data.inspection import Inspector
from silofold.data.layout import file_faults
from silofold.data.schema import DTYPES, MANIFEST, Manifest, SiloInfo, Split, SplitInfo, SplitName, size_of
from silofold.data.tally import Tally
from silofold.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

BLOCK_BYTES: Final = 2**24
AHEAD_SECONDS: Final = 0.3
"""For files of the folder that nobody has asked for yet, when another must be looked at."""
GENTLE_SECONDS: Final = 1.5
"""The same where nobody waits."""
PATIENCE: Final = 3.0
"""Seconds to wait for another process of the node that is looking at the folder."""


class Reader:
    """Silos of a folder, for a process that reads some of them.

    Parameters
    ----------
    folder
        Where they lie.
    manifest
        What they must hold.
    mine
        Silos that this process is going to read, all of them: they are looked at first, however long it takes.
    run
        Folder of the run, if there is one; it remembers what was seen where the user's cache folder cannot.
    """

    def __init__(self, folder: Path, manifest: Manifest, mine: Sequence[SiloInfo] = (), run: Path | None = None) -> None:
        self.folder, self.manifest, self._mine = folder, manifest, mine
        self._cache = Cache(folder, run)
        self._layout = hashlib.sha256(msgspec.json.encode(manifest.layout))
        self._refused: set[str] = set()
        self._lock = threading.Lock()
        self._loaded = False

    def read(self, silo: SiloInfo, split: SplitName) -> Split:
        """Read one split of a silo whole and check it against the manifest.

        Raises
        ------
        SchemaError
            The file is missing, damaged, of another schema, or not the one that the manifest tells of.
        """
        path = self.folder / silo.file
        info: SplitInfo = getattr(silo, split)
        with opened(path) as file:
            status = os.fstat(file.fileno())
            check_size(path, status.st_size, silo, self.manifest.image_shape)
            where = dict(zip(DTYPES, self._offsets(silo, split, status), strict=True))
            tally = Tally(len(self.manifest.classes))
            images = _read_images(file, where["images"], (info.examples, *self.manifest.image_shape), tally, path)
            labels, writer = (np.empty(info.examples, DTYPES[name]) for name in ("labels", "writer"))
            read_into(file, where["labels"], labels, path)
            read_into(file, where["writer"], writer, path)
        tally.see_labels(labels, writer)
        fault = next(tally.faults(info, len(silo.writers)), None)
        if fault is not None:
            raise SchemaError("data-digest", f"{path}: {split}: {fault}")
        return Split(images, labels.astype(np.int64), writer)

    def pieces(self, silo: SiloInfo, split: SplitName) -> Iterator[NDArray[np.uint8]]:
        """Read the pictures of a split in pieces (B, H, W[, C]), unchecked.

        Raises
        ------
        SchemaError
            As for `read`, but for the bytes themselves.
        """
        path = self.folder / silo.file
        with opened(path) as file:
            status = os.fstat(file.fileno())
            check_size(path, status.st_size, silo, self.manifest.image_shape)
            offset = self._offsets(silo, split, status)[0]
            yield from read_pieces(file, path, offset, (getattr(silo, split).examples, *self.manifest.image_shape))

    def place(self, silo: SiloInfo, split: SplitName) -> int:
        """Tell at which byte of its file the pictures of a split begin.

        Raises
        ------
        SchemaError
            As for `read`, but for the bytes themselves.
        """
        path = self.folder / silo.file
        with opened(path) as file:
            status = os.fstat(file.fileno())
            check_size(path, status.st_size, silo, self.manifest.image_shape)
            return self._offsets(silo, split, status)[0]

    def check(self, silo: SiloInfo) -> None:
        """Find out whether a silo's file can hold what the manifest says, without a look at what it holds.

        Raises
        ------
        SchemaError
            It is missing, no regular file, or too small.
        """
        path = self.folder / silo.file
        try:
            status = path.stat()
        except FileNotFoundError:
            raise _missing(path) from None
        except (OSError, ValueError) as fault:
            raise SchemaError("data-read", f"{path}: {getattr(fault, 'strerror', None) or fault}") from None
        if not stat.S_ISREG(status.st_mode):
            raise SchemaError("data-read", f"{path}: found no regular file, expected one")
        check_size(path, status.st_size, silo, self.manifest.image_shape)

    def look_ahead(self) -> None:
        """Look at files that will be read some time, for a moment and where no other process does; nobody waits for it."""
        with self._lock, one_a_node(self._cache.key, 0) as mine:
            if mine:
                self._cache.load()
                self._look_at([], GENTLE_SECONDS, gently=True)

    def _offsets(self, silo: SiloInfo, split: SplitName, status: os.stat_result) -> tuple[int, ...]:
        """Tell where images, labels and groups of a split begin."""
        offsets = self._verdict(silo, stamp_of(status)).offsets
        at = 3 * self.manifest.splits.index(split)
        return offsets[at : at + 3]

    def _verdict(self, silo: SiloInfo, stamp: Stamp) -> Verdict:
        """Know where the bytes of a file lie, by what is remembered or by a look.

        Raises
        ------
        SchemaError
            It is no silo file, or not the one that the manifest tells of.
        """
        expected = self._expected(silo)
        with self._lock:
            if not self._loaded:
                self._loaded = True
                self._cache.load()
            found = self._known(stamp, expected)
            if found is None:
                with one_a_node(self._cache.key, PATIENCE if self._cache.places else 0):
                    self._cache.load()  # another process may have looked meanwhile
                    if self._known(stamp, expected) is None:
                        self._look_at([silo, *self._mine], AHEAD_SECONDS)
                found = self._known(stamp, expected)
        if found is None:
            raise SchemaError("data-read", f"{self.folder / silo.file}: it was changed while it was looked at")
        return found

    def _known(self, stamp: Stamp, expected: str) -> Verdict | None:
        """Find a verdict that is of this schema: the cache is a file that anybody may have written."""
        found = self._cache.get(stamp, expected)
        return found if found and len(found.offsets) == len(DTYPES) * len(self.manifest.splits) else None

    def _look_at(self, wanted: Sequence[SiloInfo], seconds: float, *, gently: bool = False) -> None:
        """Look at those of these files that are not known, and at others of the folder for so many seconds.

        Raises
        ------
        SchemaError
            The first is no file that may be read.
        """
        names = {silo.file for silo in wanted}
        rest = [silo for silo in self.manifest.silos if silo.file not in names and silo.file not in self._refused]
        unknown = list(self._unknown([*wanted, *rest]))
        if not unknown:
            return
        try:
            with Inspector(gently=gently) as inspector:
                began, until = time.monotonic(), math.inf
                for silo, stamp in unknown:
                    if silo.file not in names and time.monotonic() > until:
                        break
                    path = self.folder / silo.file
                    fault, offsets = file_faults(inspector.look(path, stamp[2]), silo, self.manifest, stamp[2])
                    if until == math.inf:  # where a start takes long, it must pay: few files a start would be slow for ever
                        until = time.monotonic() + max(seconds, 2 * (time.monotonic() - began))
                    if not fault:
                        self._cache.put(Verdict(stamp, self._expected(silo), offsets))
                    elif wanted and silo is wanted[0]:
                        raise SchemaError(fault[0].id, f"{path}: {fault[0].text}")
                    else:  # told when it is asked for
                        self._refused.add(silo.file)
        finally:
            self._cache.save(len(self.manifest.silos))

    def _unknown(self, silos: Sequence[SiloInfo]) -> Iterator[tuple[SiloInfo, Stamp]]:
        """Find the regular files on which there is no verdict, each once."""
        seen = set()
        for silo in silos:
            with contextlib.suppress(OSError):
                status = (self.folder / silo.file).stat()
                known = silo.file in seen or self._known(stamp_of(status), self._expected(silo))
                seen.add(silo.file)
                if not known and stat.S_ISREG(status.st_mode):
                    yield silo, stamp_of(status)

    def _expected(self, silo: SiloInfo) -> str:
        """Digest what the manifest says of a file."""
        digest = self._layout.copy()
        digest.update(msgspec.json.encode([silo.name, silo.writers, silo.train, silo.test, silo.validation, silo.role]))
        return digest.hexdigest()


_last: Reader | None = None


def read_split(folder: Path, silo: SiloInfo, split: SplitName, manifest: Manifest) -> Split:
    """Read one split of a silo whole and check it against the manifest; `Reader.read` of the folder that is read.

    Raises
    ------
    SchemaError
        As for `Reader.read`.
    """
    return reader_of(folder, manifest).read(silo, split)


def reader_of(folder: Path, manifest: Manifest) -> Reader:
    """Return the reader of the folder that was read last, or of another one: files are looked at many at a time."""
    global _last  # noqa: PLW0603  (what is known of a folder, from one call to the next)
    reader = _last
    if reader is None or reader.folder != folder or reader.manifest is not manifest:
        reader = _last = Reader(folder, manifest)
    return reader


def opened(path: Path) -> BinaryIO:
    """Open a silo file for reading alone, and without a lock, which network file systems refuse.

    Raises
    ------
    SchemaError
        It is missing, no regular file, or may not be read.
    """
    try:
        return guarded.opened(path)
    except FileNotFoundError:
        raise _missing(path) from None
    except guarded.UnfitError as fault:
        raise SchemaError("data-read", f"{path}: {fault}") from None
    except (OSError, ValueError) as fault:
        raise SchemaError("data-read", f"{path}: {getattr(fault, 'strerror', None) or fault}") from None


def check_size(path: Path, size: int, silo: SiloInfo, image_shape: tuple[int, ...]) -> None:
    """Refuse a file that is too small for what the manifest says of it.

    Raises
    ------
    SchemaError
        It is.
    """
    least = size_of(silo.examples, image_shape)
    if size < least:
        raise SchemaError(
            "data-read",
            f"{path}: found {size} bytes, expected at least the {least} that its pictures take by {MANIFEST}: truncated?",
        )


def _missing(path: Path) -> SchemaError:
    return SchemaError("data-missing", f"{path}: no such file, expected the silo file that {MANIFEST} names")


def read_into(file: BinaryIO, offset: int, values: NDArray[Any], path: Path) -> None:
    """Fill an array with the bytes that begin at an offset.

    Raises
    ------
    SchemaError
        The file ends before, or cannot be read.
    """
    left = memoryview(values.reshape(-1).view(np.uint8).data)
    while left:
        try:
            got = os.preadv(file.fileno(), [left[: 2**30]], offset)
        except (OSError, OverflowError) as fault:
            raise SchemaError("data-read", f"{path}: {fault}") from None
        if not got:
            raise SchemaError("data-read", f"{path}: found its end at byte {offset}, expected {len(left)} more: truncated")
        left, offset = left[got:], offset + got


def read_pieces(file: BinaryIO, path: Path, offset: int, shape: tuple[int, ...]) -> Iterator[NDArray[np.uint8]]:
    """Read pictures (M, ...) that begin at an offset, some megabytes at a time."""
    for piece in _spans(shape):
        block = np.empty((piece.stop - piece.start, *shape[1:]), np.uint8)
        read_into(file, offset + piece.start * math.prod(shape[1:]), block, path)
        yield block


def _spans(shape: tuple[int, ...]) -> Iterator[slice]:
    """Cut pictures (M, ...) into pieces of some megabytes."""
    rows = max(1, BLOCK_BYTES // max(1, math.prod(shape[1:])))
    return (slice(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows))


def _read_images(file: BinaryIO, offset: int, shape: tuple[int, ...], tally: Tally, path: Path) -> NDArray[np.uint8]:
    """Read the pictures of a split; what is there is hashed while more is read, by another thread where it is worth one."""
    images = np.empty(shape, np.uint8)
    pieces, each = list(_spans(shape)), math.prod(shape[1:])
    if len(pieces) <= 1:
        read_into(file, offset, images, path)
        tally.see_images(images)
        return images
    with ThreadPoolExecutor(1) as hasher:
        for piece in pieces:
            read_into(file, offset + piece.start * each, images[piece], path)
            hasher.submit(tally.see_images, images[piece])
    return images
