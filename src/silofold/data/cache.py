"""Verdicts on silo files that are remembered: where the bytes of a file lie that did not change since it was looked at.

They lie in the user's cache folder, or in the folder of the run, and never beside the data; neither is needed. A verdict
holds for one file (device, inode, size and times) and for one manifest. Nothing rests on its truth: it says at most where to
read in a silo file, and the digest of what is read is checked each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from silofold.core import guarded

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION: Final = 1
MOST_BYTES: Final = 2**28
KEPT_A_SILO: Final = 4
"""Verdicts that are kept for each silo of a folder: a file has another device on another node, or was replaced."""
NAME: Final = "silo_files.json"
"""The file in the folder of a run."""

Stamp: TypeAlias = tuple[int, int, int, int, int]
"""Device, inode, size, and times of the last change of content and of inode, in nanoseconds."""


class Verdict(msgspec.Struct, frozen=True, array_like=True):
    """What is known of a sound file.

    Attributes
    ----------
    stamp
        The file that was looked at.
    expected
        Digest of what the manifest says of it.
    offsets
        First byte of images, labels and groups of each split, in their order; 0 where a split is empty.
    """

    stamp: Stamp
    expected: str
    offsets: tuple[int, ...]


class _File(msgspec.Struct):
    version: int
    verdicts: dict[str, Verdict]


def stamp_of(status: os.stat_result) -> Stamp:
    """Return what tells a file from others, and from itself after a change."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class Cache:
    """The verdicts on the files of one folder of silos.

    Parameters
    ----------
    folder
        The silos.
    run
        Folder of the run, if there is one: where verdicts lie when the user has no cache folder that can be written.
    """

    def __init__(self, folder: Path, run: Path | None) -> None:
        self.key = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
        own = _user_folder()
        self.places = [*([own / f"{self.key}.json"] if own else []), *([run / NAME] if run else [])]
        self.verdicts: dict[str, Verdict] = {}

    def load(self) -> None:
        """Read what is remembered; what cannot be read is made anew."""
        for place in self.places:
            with contextlib.suppress(OSError, guarded.UnfitError):
                found = guarded.decode(guarded.read(place, MOST_BYTES), _File)
                if found.version == VERSION:
                    self.verdicts = found.verdicts | self.verdicts

    def get(self, stamp: Stamp, expected: str) -> Verdict | None:
        """Return the verdict on a file and what is expected of it, if it is known."""
        found = self.verdicts.get(_key(stamp))
        return found if found and found.stamp == stamp and found.expected == expected else None

    def put(self, verdict: Verdict) -> None:
        """Remember a verdict in this process."""
        self.verdicts.pop(_key(verdict.stamp), None)  # the newest come last
        self.verdicts[_key(verdict.stamp)] = verdict

    def save(self, silos: int) -> None:
        """Write the newest verdicts of a folder of so many silos to the first place that takes them."""
        newest = dict(list(self.verdicts.items())[-KEPT_A_SILO * silos :])
        text = msgspec.json.encode(_File(VERSION, newest))
        for place in self.places:
            with contextlib.suppress(OSError):
                _write(place, text)
                return


def _key(stamp: Stamp) -> str:
    return f"{stamp[0]}:{stamp[1]}"


def _user_folder() -> Path | None:
    """Name the folder of the user's that may be lost; none where the surroundings name none."""
    named, home = os.environ.get("XDG_CACHE_HOME", ""), os.environ.get("HOME", "")
    if os.path.isabs(named):  # noqa: PTH117  (the base directory specification: others are no names)
        return Path(named) / "silofold" / "silos"
    return Path(home) / ".cache" / "silofold" / "silos" if os.path.isabs(home) else None  # noqa: PTH117


def _write(place: Path, text: bytes) -> None:
    if place.name != NAME:  # a run's folder is made by the run
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = place.with_name(f".{place.name}.{socket.gethostname()}.{os.getpid()}.partial")
    try:
        partial.write_bytes(text)
        partial.replace(place)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def one_a_node(key: str, seconds: float) -> Iterator[bool]:
    """Wait until no other process of this user on this node does the same, for so many seconds at most; tell whether so.

    The lock is a name among the node's sockets: it needs no folder, and goes with the process that holds it.
    """
    name, deadline = f"\0silofold-silos-{os.getuid()}-{key}", time.monotonic() + seconds
    with socket.socket(socket.AF_UNIX) as lock:
        held = _bound(lock, name)
        while not held and time.monotonic() < deadline:
            time.sleep(0.01)
            held = _bound(lock, name)
        yield held


def _bound(lock: socket.socket, name: str) -> bool:
    try:
        lock.bind(name)
    except OSError:
        return False
    return True
