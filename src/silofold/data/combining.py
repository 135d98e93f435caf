"""Merge the raw users of a tree into fewer datasets: consecutive users, in name order.

IN holds <user>/{train,test}/<class>/<picture>. The first --users users in name order are merged into --silos folders
dataset_0, dataset_1, …; a picture is named <user>_<picture>. When the users do not divide evenly, the first datasets
take one user more. OUT/combine.json tells which users went where, and how many pictures each brought.
"""

from __future__ import annotations

import shutil
from collections import Counter
from itertools import accumulate, pairwise, product
from typing import TYPE_CHECKING, TypeVar

import msgspec

from silofold.core.errors import SchemaError
from silofold.data import space, work
from silofold.data.silo import SPLITS, replacing
from silofold.data.sources.tree import COMBINED, Combined, entries, kind_of, subfolders, writers_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

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


def combine(folder: Path, out: Path, users: int | None, silos: int, jobs: int) -> dict[str, dict[str, dict[str, int]]]:
    """Make a tree of `silos` datasets out of the first `users` of a raw tree; return the users of each and their pictures.

    Raises
    ------
    SchemaError
        The tree is no raw one, there are too few users, or the new one cannot be written.
    """
    kind = kind_of(folder)
    if kind != "raw":
        raise SchemaError("tree-kind", f"{folder}: found {kind} data, expected a tree of raw users")
    names = first(writers_of(folder), users, folder)
    _check_names(names)
    groups = spread(names, silos)
    with work.new_folder(out) as partial:
        space.check(partial, space.of_files(partial, _sizes(folder, names)), out)
        tasks = [(folder, group, partial / f"dataset_{silo}") for silo, group in enumerate(groups)]
        counts = list(work.each(_merge, tasks, jobs, "dataset"))
        datasets = {f"dataset_{silo}": found for silo, found in enumerate(counts)}
        with replacing(partial / COMBINED) as path:
            text = msgspec.json.encode(Combined(folder.name, "name", datasets))
            path.write_bytes(msgspec.json.format(text, indent=1))
    return datasets
