"""Measure packing pictures and reading silos against what the libraries alone need for it.

Packing: ``data_tools/pack.py`` with one process against Pillow alone, which opens, turns gray and resizes the same pictures
and keeps nothing; processor time, without start-up. Reading: a silo's splits by `silofold.data.silo.read_split` against the
raw bytes of the same files, both without and with the sha256 that the manifest asks for. By turns, medians, warm page cache.
Prints images and megabytes of pixels a second, ratios, and one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import h5py
import numpy as np
from PIL import Image

from silofold.data import pack as packing
from silofold.data import silo as silos

if TYPE_CHECKING:
    from collections.abc import Callable


SIDE: Final = 32


def pillow(pictures: list[Path]) -> int:
    """Decode and resize, and return how many."""
    for path in pictures:
        with Image.open(path) as image:
            np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return len(pictures)


def pack(tree: Path, users: int) -> None:
    """Pack the first writers of a tree in this process."""
    with tempfile.TemporaryDirectory() as folder:
        packing.pack(tree, Path(folder, "silos"), packing.Wishes(users=users, silos=7))


def turns(works: dict[str, Callable[[], Any]], repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """Do the works by turns and return the median seconds of each."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            begin = clock()
            work()
            found[name].append(clock() - begin)
    return {name: median(each) for name, each in found.items()}


def large(folder: Path, examples: int) -> silos.Manifest:
    """Write one large silo of made-up pictures."""
    rng = np.random.default_rng(1)
    layout = silos.Layout(("a", "b"), (SIDE, SIDE), "none", "made up")
    splits: dict[silos.SplitName, silos.SplitStream] = {}
    for split, size in zip(silos.SPLITS, (examples, 10), strict=True):
        images = rng.integers(0, 256, (size, SIDE, SIDE), np.uint8)
        splits[split] = silos.SplitStream(size, [(images, np.zeros(size, np.int32), np.zeros(size, np.int32))])
    info = silos.write_silo(folder / "silo_0000.h5", "silo_0000", ("writer",), layout, splits)
    return silos.write_manifest(folder, layout, [info])


def plain(path: Path) -> bytes:
    """Read the bytes of the pixels where they lie in the file."""
    with h5py.File(path, "r", locking=False) as file:
        data = file["train/images"]
        offset, size = data.id.get_offset(), data.id.get_storage_size()
    with path.open("rb") as raw:
        raw.seek(offset)
        return raw.read(size)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", metavar="TREE", type=Path, help="raw tree of pictures, one folder a writer")
    parser.add_argument("--users", type=int, default=70, help="writers to pack (default: 70)")
    parser.add_argument("--examples", type=int, default=200_000, help="pictures of the silo that is read (default: 200000)")
    parser.add_argument("--repeats", type=int, default=5, help="turns (default: 5)")
    given = parser.parse_args()
    writers = sorted(path for path in given.tree.iterdir() if path.is_dir())[: given.users]
    pictures = [path for writer in writers for path in sorted(writer.rglob("*.png"))]
    works: dict[str, Callable[[], Any]] = {
        "pillow": lambda: pillow(pictures),
        "pack": lambda: pack(given.tree, len(writers)),
    }
    took = turns(works, given.repeats, time.process_time)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = large(folder, given.examples)
        path = folder / "silo_0000.h5"
        read = turns(
            {
                "raw": lambda: plain(path),
                "raw_hashed": lambda: hashlib.sha256(plain(path)).hexdigest(),
                "silo": lambda: silos.read_split(folder, manifest.silos[0], "train", manifest),
            },
            3 * given.repeats,
            time.perf_counter,
        )
    size = given.examples * SIDE * SIDE / 1e6
    row = {
        "pictures": len(pictures),
        "pillow_images_a_second": len(pictures) / took["pillow"],
        "pack_images_a_second": len(pictures) / took["pack"],
        "pack_megabytes_a_second": len(pictures) * SIDE * SIDE / 1e6 / took["pack"],
        "pack_over_pillow": took["pillow"] / took["pack"],
        "raw_megabytes_a_second": size / read["raw"],
        "raw_hashed_megabytes_a_second": size / read["raw_hashed"],
        "silo_megabytes_a_second": size / read["silo"],
        "silo_over_raw": read["raw"] / read["silo"],
        "silo_over_raw_hashed": read["raw_hashed"] / read["silo"],
    }
    print("\n".join(f"{key:32} {value:10.4g}" for key, value in row.items()))
    print(json.dumps(row))


if __name__ == "__main__":
    main()
