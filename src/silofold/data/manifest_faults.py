"""What values of a manifest contradict each other, or cannot be."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Final

from silofold.data.schema import MANIFEST, SCHEMA_2, Manifest, SiloInfo, SplitInfo, channels_of, shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MOST_LETTERS: Final = 1000
"""Of a name."""
MOST_WORDS: Final = 100_000
"""Letters of what is said of the source."""
MOST_PICTURE_BYTES: Final = 2**28
MOST_EXAMPLES: Final = 2**40
"""Of a split: sums over all silos stay exact in every type that they pass through."""


def manifest_faults(manifest: Manifest) -> Iterator[str]:
    """Tell what values of a manifest contradict each other, or cannot be."""
    shape = manifest.image_shape
    if len(shape) not in {2, 3} or min(shape, default=0) < 1:
        yield f"image_shape: found {shortened(list(shape))}, expected [H, W] or [H, W, C], each at least 1"
    elif math.prod(shape) > MOST_PICTURE_BYTES:
        yield f"image_shape: found {shortened(list(shape))}, expected at most {MOST_PICTURE_BYTES} bytes a picture"
    if not manifest.classes or len(set(manifest.classes)) != len(manifest.classes):
        yield f"classes: found {shortened(list(manifest.classes))}, expected at least one, each once"
    yield from _lengths("classes", manifest.classes)
    yield from _lengths("group", [manifest.group])
    for key in ("interpolation", "source"):
        yield from _lengths(key, [getattr(manifest, key)], MOST_WORDS, least=0)
    if not manifest.silos:
        yield "silos: found none, expected at least one"
    for key in ("name", "file"):
        yield from _twice(f"silos: {key}", [getattr(silo, key) for silo in manifest.silos])
    for number, silo in enumerate(manifest.silos):
        for fault in _silo_faults(silo, len(manifest.classes), manifest):
            yield f"silos[{number}] ({shortened(silo.name)}): {fault}"
    for writer, names in overlaps(manifest.silos).items():
        where = shortened(", ".join(names))
        yield f"writer {shortened(writer)} stands in the silos {where}, expected each writer in one silo"


def _silo_faults(silo: SiloInfo, classes: int, manifest: Manifest) -> Iterator[str]:
    yield from _lengths("name", [silo.name])
    if silo.file in {"", ".", "..", MANIFEST} or "/" in silo.file or "\0" in silo.file or len(silo.file.encode()) > 255:
        yield f"file: found {shortened(repr(silo.file))}, expected a file name without a folder"
    if not silo.writers or len(set(silo.writers)) != len(silo.writers):
        yield f"writers: found {shortened(list(silo.writers))}, expected at least one, each once"
    yield from _lengths("writers", silo.writers, least=0)
    if silo.role == "external":
        if silo.train.examples or (silo.validation and silo.validation.examples) or silo.test.examples < 1:
            yield "role: found external, expected test pictures and no others"
    elif silo.train.examples < 1:
        yield f"train: examples: found {shortened(silo.train.examples)}, expected at least 1"
    for split in manifest.splits:
        info = silo.split(split)
        if info is not None:
            yield from (f"{split}: {fault}" for fault in _split_faults(info, classes))
            if manifest.schema == SCHEMA_2:
                yield from (f"{split}: {fault}" for fault in _sum_faults(info, manifest.image_shape))
    if not 0 <= silo.duplicates <= max(0, silo.test.examples):
        yield f"duplicates: found {shortened(silo.duplicates)}, expected 0 to {shortened(silo.test.examples)} test pictures"


def _split_faults(info: SplitInfo, classes: int) -> Iterator[str]:
    if not 0 <= info.examples <= MOST_EXAMPLES:
        yield f"examples: found {shortened(info.examples)}, expected 0 to {MOST_EXAMPLES}"
    if len(info.histogram) != classes or min(info.histogram, default=0) < 0:
        yield f"histogram: found {shortened(list(info.histogram))}, expected {classes} counts"
    elif sum(info.histogram) != info.examples:
        found, expected = shortened(sum(info.histogram)), shortened(info.examples)
        yield f"histogram: found a sum of {found}, expected {expected} examples"
    if len(info.sha256) != 64 or not set(info.sha256) <= set("0123456789abcdef"):
        yield f"sha256: found {shortened(repr(info.sha256))}, expected 64 hex digits"


def _sum_faults(info: SplitInfo, shape: tuple[int, ...]) -> Iterator[str]:
    """Tell sums of pixels that no pictures of that number and shape can have."""
    channels = channels_of(shape)
    pixels = max(0, info.examples) * math.prod(shape) // max(1, channels)
    for key, most in (("sums", 255), ("squares", 255**2)):
        values = getattr(info, key)
        if len(values) != channels or min(values, default=0) < 0 or max(values, default=0) > most * pixels:
            yield f"{key}: found {shortened(list(values))}, expected {channels} numbers from 0 to {shortened(most * pixels)}"


def _lengths(key: str, names: Sequence[str], most: int = MOST_LETTERS, *, least: int = 1) -> Iterator[str]:
    """Tell the first name that is empty or too long."""
    bad = next((name for name in names if not least <= len(name) <= most), None)
    if bad is not None:
        yield f"{key}: found {shortened(repr(bad))} of {len(bad)} letters, expected {least} to {most}"


def _twice(key: str, values: list[str]) -> Iterator[str]:
    for value, times in sorted(Counter(values).items()):
        if times > 1:
            yield f"{key}: found {shortened(repr(value))} {times} times, expected it once"


def overlaps(silos: Iterable[SiloInfo]) -> dict[str, tuple[str, ...]]:
    """Name the silos of each writer who stands in more than one."""
    homes: dict[str, list[str]] = {}
    for silo in silos:
        for writer in dict.fromkeys(silo.writers):
            homes.setdefault(writer, []).append(silo.name)
    return {writer: tuple(names) for writer, names in homes.items() if len(names) > 1}
