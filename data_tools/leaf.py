"""Turn LEAF's JSON shards of FEMNIST into a tree of pictures, without loss.

IN holds train/*.json and test/*.json, each with users, num_samples and user_data (x: 784 numbers u8/255, y: the class).
OUT gets <writer>/{train,test}/<class>/<class>_<character>_<i>.png; i is the place of the picture among the writer's.
A writer whose pictures lie in several shards comes together, shards in the order of their names.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from PIL import Image

import console
from silofold.data.silo import SPLITS, SplitName
from silofold.errors import SchemaError
from tree import FEMNIST, natural

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SIDE = 28
# Gray values are multiples of 1/255; float32 text strays from them by at most 3e-5 of a step.
_STEP_ERROR = 1e-3


class _User(msgspec.Struct):
    x: msgspec.Raw  # decoded one user at a time: as Python floats a whole shard takes thirty times its pixels
    y: list[int]


class _Shard(msgspec.Struct):
    users: list[str]
    num_samples: list[int]
    user_data: dict[str, _User]


@dataclass(frozen=True)
class Shard:
    """One JSON file: where it is, its split, and how many pictures of each of its users earlier shards hold."""

    path: Path
    split: SplitName
    offsets: dict[str, int]


def shards(folder: Path, jobs: int) -> list[Shard]:
    """Read which users every shard holds; shards come by split, then by name with numbers as numbers.

    Raises
    ------
    SchemaError
        A shard is unreadable or contradicts itself.
    """
    found: list[Shard] = []
    for split in SPLITS:
        paths = sorted((folder / split).glob("*.json"), key=lambda path: natural(path.name))
        seen: Counter[str] = Counter()
        for path, sizes in zip(paths, console.each(_sizes, paths, jobs, "shard"), strict=True):
            found.append(Shard(path, split, {user: seen[user] for user in sizes}))
            seen.update(sizes)
    return found


def read_shard(path: Path) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.int32]]]:
    """Yield user, pictures (N, 28, 28) and labels (N,) of a shard, holding the file's text and one user's numbers.

    Raises
    ------
    SchemaError
        The text is damaged, or a number is not what FEMNIST has there.
    """
    for user, data in _decode(path).user_data.items():
        where = f"{path}: user {user}"
        try:
            steps = np.array(msgspec.json.decode(data.x, type=list[list[float]]), np.float64).reshape(len(data.y), -1)
        except (msgspec.DecodeError, ValueError) as error:
            raise SchemaError(
                "leaf-shard", f"{where}: x: {error}, expected {len(data.y)} lists of {SIDE * SIDE} numbers"
            ) from error
        if data.y and steps.shape[1] != SIDE * SIDE:
            raise SchemaError(
                "leaf-shard", f"{where}: x: found {steps.size} numbers, expected {len(data.y)} times {SIDE * SIDE}"
            )
        steps *= 255
        pixels = np.rint(steps)
        good = (np.abs(steps - pixels) <= _STEP_ERROR) & (pixels >= 0) & (pixels <= 255)
        if not good.all():
            raise SchemaError("leaf-shard", f"{where}: x: found {steps[~good][0] / 255!r}, expected u8/255")
        yield user, pixels.astype(np.uint8).reshape(-1, SIDE, SIDE), np.array(data.y, np.int32)


def _decode(path: Path) -> _Shard:
    try:
        shard = msgspec.json.decode(path.read_bytes(), type=_Shard)
    except OSError as error:
        raise SchemaError("leaf-shard", console.os_reason(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SchemaError(
            "leaf-shard", f"{path}: {error}, expected a LEAF shard with users, num_samples and user_data"
        ) from error
    if sorted(shard.users) != sorted(shard.user_data):
        raise SchemaError("leaf-shard", f"{path}: users and user_data name different users")
    for user, size in zip(shard.users, shard.num_samples, strict=False):
        labels = shard.user_data[user].y
        if len(labels) != size:
            raise SchemaError(
                "leaf-shard", f"{path}: user {user}: found {len(labels)} labels, expected {size} (num_samples)"
            )
        strange = next((label for label in labels if not 0 <= label < len(FEMNIST)), None)
        if strange is not None:
            raise SchemaError("leaf-shard", f"{path}: user {user}: found label {strange}, expected 0 to {len(FEMNIST) - 1}")
        if user in {"", ".", ".."} or "/" in user or "\0" in user:
            raise SchemaError("leaf-user", f"{path}: found user {user!r}, expected a name that can name a folder")
    if len(shard.num_samples) != len(shard.users):
        raise SchemaError("leaf-shard", f"{path}: found {len(shard.num_samples)} num_samples, expected {len(shard.users)}")
    return shard


def _sizes(path: Path) -> dict[str, int]:
    return {user: len(data.y) for user, data in _decode(path).user_data.items()}


def _export(task: tuple[Shard, Path]) -> int:
    shard, out = task
    pictures = 0
    for user, images, labels in read_shard(shard.path):
        home = out / user / shard.split
        for label in np.unique(labels):
            (home / str(label)).mkdir(parents=True, exist_ok=True)
        for place, image, label in zip(itertools.count(shard.offsets[user]), images, labels, strict=False):
            path = home / str(label) / f"{label}_{FEMNIST[label]}_{place}.png"
            try:
                Image.fromarray(image).save(path)
            except OSError as error:
                raise SchemaError("data-write", f"{path}: cannot be written: {error.strerror or error}") from error
        pictures += len(labels)
    return pictures


def main() -> int:
    """Run the tool."""
    parser = console.Parser(__doc__)
    parser.add_argument("folder", metavar="IN", type=Path, help="folder with LEAF's train/*.json and test/*.json")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make; must be new or empty")
    parser.add_jobs()
    arguments = parser.parse_args()
    for split in SPLITS:
        if not any((arguments.folder / split).glob("*.json")):
            raise SchemaError("leaf-shard", f"{arguments.folder / split}: found no *.json, expected LEAF's shards")
    with console.new_folder(arguments.out) as partial:
        plan = shards(arguments.folder, arguments.jobs)
        pictures = sum(console.each(_export, [(shard, partial) for shard in plan], arguments.jobs, "shard"))
    users = {user for shard in plan for user in shard.offsets}
    print(f"{arguments.out}: {len(users)} writers, {pictures} pictures from {len(plan)} shards")
    return 0


if __name__ == "__main__":
    console.run(main)
