"""From whatever holds pictures to a folder of silos that are cut on purpose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from silofold.data import work
from silofold.data.pack import open_source
from silofold.data.packing import Noise, write_folder
from silofold.data.partition import partition, refuse_unknown
from silofold.data.wishes import Wishes, kind_in

if TYPE_CHECKING:
    from silofold.data.cut import Cut
    from silofold.data.samples import Samples
    from silofold.data.schema import Manifest

TORN = "groups torn apart"
NOISE = 0x0015E


def recut(folder: Path, out: Path, cut: Cut, wishes: Wishes, jobs: int = 1) -> tuple[Manifest, list[str]]:
    """Cut a set into a new folder of silos; each picture stays in its split unless shares are wished.

    Returns
    -------
    tuple
        What ``silos.json`` says, and what there is to warn of: groups that were torn apart among it.

    Raises
    ------
    SchemaError
        The set cannot be read, or not be cut in that way; nothing is left behind.
    """
    refuse_unknown(cut.by)
    kind = kind_in(folder, replace(wishes, seed=0))
    told: list[bool] = []

    def again(samples: Samples) -> Samples:
        found, torn = partition(samples, cut)
        told.append(torn)
        return found

    with work.new_folder(out) as partial, TemporaryDirectory(prefix="spool", dir=partial) as spool:
        found = open_source(folder, kind, wishes, Path(spool), jobs, again)
        torn = any(told)
        words = f"{found.words}; {cut.words}" + (f", {TORN}" if torn else "")
        layout, tasks = replace(found, words=words).jobs(partial)
        if cut.noise:
            last = max(1, len(tasks) - 1)
            tasks = [
                replace(task, noise=Noise(cut.noise * number / last, (cut.seed, NOISE, number)))
                for number, task in enumerate(tasks)
            ]
        manifest, notes = write_folder(partial, layout, tasks, jobs)
    if torn:
        told_of = f"{found.samples.group_word}s" if found.samples else "groups"
        notes.insert(0, f"{told_of} were torn apart: pictures of one stand in several silos, so that these are no strangers")
    return manifest, notes
