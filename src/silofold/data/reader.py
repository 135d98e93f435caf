"""Reading silos: what was looked at is read by plain reads of the file, and checked against the manifest."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import stat
import threading
import time
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from silofold.core.errors import SchemaError
from silofold.data.cache import Cache, Stamp, Verdict, one_a_node, stamp_of
from silofold.data.inspection import Inspector
from silofold.data.layout import file_faults
from silofold.data.schema import DTYPES, Manifest, SiloInfo, Split, SplitInfo, SplitName
from silofold.data.silo_bytes import check_size, missing, opened, read_images, read_into, read_pieces
from silofold.data.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

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
            images = read_images(file, where["images"], (info.examples, *self.manifest.image_shape), tally, path)
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
            raise missing(path) from None
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
