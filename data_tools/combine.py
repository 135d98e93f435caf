"""Merge the raw users of a tree into fewer datasets: consecutive users, in name order.

IN holds <user>/{train,test}/<class>/<picture>. The first --users users in name order are merged into --silos folders
dataset_0, dataset_1, …; a picture is named <user>_<picture>. When the users do not divide evenly, the first datasets
take one user more. OUT/combine.json tells which users went where, and how many pictures each brought.
"""

from __future__ import annotations

import shutil
from collections import Counter
from itertools import accumulate, pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

import console
from silofold.core.errors import SchemaError
from silofold.data import space
from silofold.data.silo import SPLITS, replacing
from tree import COMBINED, Combined, entries, kind_of, subfolders, writers_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")


def spread(users: tuple[T, ...], silos: int) -> list[tuple[T, ...]]:
    """Cut users into consecutive groups whose sizes differ by at most one, the larger ones first.

    Raises
    ------
    SchemaError
        There are more silos than users.
    """
    if silos > len(users):
        raise SchemaError("tool-option", f"found {len(users)} users for {silos} silos, expected at least one user a silo")
    each, more = divmod(len(users), silos)
    ends = accumulate((each + (silo < more) for silo in range(silos)), initial=0)
    return [users[start:stop] for start, stop in pairwise(ends)]


def first(users: tuple[str, ...], number: int | None, where: Path) -> tuple[str, ...]:
    """Take the first users in order, all of them when no number is given.

    Raises
    ------
    SchemaError
        There are not that many.
    """
    if number is not None and number > len(users):
        raise SchemaError("tool-option", f"{where}: found {len(users)} users, expected at least {number} (--users)")
    return users[:number]


def _merge(task: tuple[Path, tuple[str, ...], Path]) -> dict[str, dict[str, int]]:
    """Copy some users into one dataset and count their pictures by split."""
    source, users, dataset = task
    counts: dict[str, dict[str, int]] = {}
    for user in users:
        found: Counter[str] = Counter()
        for split in SPLITS:
            (dataset / split).mkdir(parents=True, exist_ok=True)
            home = source / user / split
            for label in subfolders(home) if home.exists() else ():
                target = dataset / split / label
                target.mkdir(exist_ok=True)
                for picture in entries(home / label):
                    if not picture.is_file():  # a FIFO would wait for ever, and a device has no end
                        raise SchemaError("picture-read", f"{picture.path}: found no regular file, expected a picture")
                    shutil.copyfile(picture.path, target / f"{user}_{picture.name}")
                    found[split] += 1
        counts[user] = {split: found[split] for split in SPLITS}
    return counts


def _sizes(source: Path, users: Iterable[str]) -> Iterator[int]:
    """Tell the size of every file that is to be copied."""
    for user, split in product(users, SPLITS):
        home = source / user / split
        for label in subfolders(home) if home.exists() else ():
            yield from (picture.stat().st_size for picture in entries(home / label) if picture.is_file())


def _check_names(users: tuple[str, ...]) -> None:
    """Refuse users of whom ``<user>_<picture>`` could not be told apart."""
    known = set(users)
    for user in users:
        parts = user.split("_")
        prefix = next(("_".join(parts[:end]) for end in range(1, len(parts)) if "_".join(parts[:end]) in known), None)
        if prefix is not None:
            raise SchemaError(
                "tree-names", f"users {prefix} and {user}: their pictures <user>_<picture> could not be told apart"
            )


def main() -> int:
    """Run the tool."""
    parser = console.Parser(__doc__)
    parser.add_argument("folder", metavar="IN", type=Path, help="tree of raw users")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make; must be new or empty")
    parser.add_argument("--users", type=console.count, help="how many users to take, in name order (default: all)")
    parser.add_argument("--silos", type=console.count, required=True, help="how many datasets to make")
    parser.add_jobs()
    arguments = parser.parse_args()
    kind = kind_of(arguments.folder)
    if kind != "raw":
        raise SchemaError("tree-kind", f"{arguments.folder}: found {kind} data, expected a tree of raw users")
    users = first(writers_of(arguments.folder), arguments.users, arguments.folder)
    _check_names(users)
    groups = spread(users, arguments.silos)
    with console.new_folder(arguments.out) as partial:
        space.check(partial, space.of_files(partial, _sizes(arguments.folder, users)), arguments.out)
        tasks = [(arguments.folder, group, partial / f"dataset_{silo}") for silo, group in enumerate(groups)]
        counts = list(console.each(_merge, tasks, arguments.jobs, "dataset"))
        datasets = {f"dataset_{silo}": found for silo, found in enumerate(counts)}
        with replacing(partial / COMBINED) as path:
            text = msgspec.json.encode(Combined(arguments.folder.name, "name", datasets))
            path.write_bytes(msgspec.json.format(text, indent=1))
    for name, found in datasets.items():
        train, test = (sum(row[split] for row in found.values()) for split in SPLITS)
        console.tell(f"{name}: {len(found)} users ({next(iter(found))} to {list(found)[-1]}), {train} train, {test} test")
    sizes = [len(group) for group in groups]
    if sizes[0] != sizes[-1]:
        console.tell(
            f"{len(users)} users do not divide by {arguments.silos}: {sizes.count(sizes[0])} datasets have one more"
        )
    return 0


if __name__ == "__main__":
    console.run(main)
