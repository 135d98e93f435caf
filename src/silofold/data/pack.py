"""From whatever holds pictures to a folder of silos: what IN is, what is wished, and one call that does it.

``silofold pack``, ``silofold partition`` and programs of one's own come through here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from silofold.core import guarded
from silofold.core.errors import SchemaError
from silofold.data import fitting as fittings
from silofold.data import splitting, work
from silofold.data.combining import first, spread
from silofold.data.fitting import Fitting
from silofold.data.manifest import read_manifest
from silofold.data.naming import natural, readable
from silofold.data.packing import Job, jobs_of, schema_of, write_folder
from silofold.data.samples import check, few, with_external
from silofold.data.schema import Layout, Manifest
from silofold.data.sources.arrays import Arrays, open_arrays
from silofold.data.sources.class_folders import ClassFolders
from silofold.data.sources.columns import Columns
from silofold.data.sources.folders import FolderPictures, ListedFolders
from silofold.data.sources.leaf_spool import leaf_source
from silofold.data.sources.silo_folder import SiloFolder, open_silos
from silofold.data.sources.table import Table, read_renames
from silofold.data.sources.tree import FEMNIST, Tree, class_names, read_combined, writers_of
from silofold.data.wishes import FOLDERS, FOUND, Wishes, kind_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from silofold.data.samples import Samples, Source

__all__ = ["Columns", "Opened", "Wishes", "open_source", "pack"]
MOST_CLASSES: Final = 8000
"""An attribute of HDF5 holds 64 KiB, and the histogram of a split is one."""


def pack(folder: Path, out: Path, wishes: Wishes = Wishes(), jobs: int = 1) -> tuple[Manifest, list[str]]:  # noqa: B008  (frozen)
    """Pack pictures into a new folder of silos.

    Parameters
    ----------
    folder
        A tree, LEAF's JSON, class folders, a folder of pictures with a table of labels, arrays, Parquet, or silos.
    out
        The folder to make.
    jobs
        Processes; their number does not change a byte.

    Returns
    -------
    tuple
        What ``silos.json`` says, and what there is to warn of.

    Raises
    ------
    SchemaError
        Something in the input is not as it should be; nothing is left behind.
    """
    kind = kind_in(folder, wishes)
    with work.new_folder(out) as partial, TemporaryDirectory(prefix="spool", dir=partial) as spool:
        found = open_source(folder, kind, wishes, Path(spool), jobs)
        return write_folder(partial, *found.jobs(partial), jobs)


@dataclass(frozen=True)
class Opened:
    """A source that was looked into.

    Parameters
    ----------
    samples
        What is known of every picture; none while folders of writers are packed as they are.
    """

    wishes: Wishes
    source: Source
    samples: Samples | None
    groups: Sequence[tuple[str, tuple[str, ...]]]
    classes: tuple[str, ...]
    fitting: Fitting
    words: str

    def jobs(self, partial: Path) -> tuple[Layout, list[Job]]:
        """Make a job for each silo, to be packed into a folder, and say what their files have in common."""
        interpolation, empty = self.fitting.words, self.wishes.allow_empty_test
        if self.samples is not None:
            schema = schema_of(self.samples)
            group = self.samples.group_word if schema > 1 else "writer"
            layout = Layout(self.classes, self.fitting.shape, interpolation, self.words, schema, group)
            return layout, jobs_of(self.source, self.samples, partial, layout, self.fitting, allow_empty_test=empty)
        layout = Layout(self.classes, self.fitting.shape, interpolation, self.words)
        jobs = []
        for number, (name, folders) in enumerate(self.groups):
            pictures = FolderPictures(self.source.source, folders)  # type: ignore[attr-defined]
            path = partial / f"silo_{number:04d}.h5"
            jobs.append(Job(pictures, name, pictures.words, path, layout, self.fitting, empty))
        return layout, jobs


def open_source(
    folder: Path, kind: str, wishes: Wishes, spool: Path, jobs: int, again: Callable[[Samples], Samples] | None = None
) -> Opened:
    """Look into a source, and do to its samples what is wished.

    Parameters
    ----------
    spool
        Folder for what must be laid out anew to be read picture by picture.
    again
        Cuts the samples into other silos.

    Raises
    ------
    SchemaError
        Something in it is not as it should be.
    """
    shares = splitting.shares_of(wishes.split) if wishes.split else None
    groups: Sequence[tuple[str, tuple[str, ...]]] = ()
    source: Source
    if kind in FOLDERS:
        source, groups = _folders(folder, kind, wishes, spool, jobs)
    else:
        source = _source(folder, kind, wishes, spool)
    fitting = _fitting(wishes, source)
    if wishes.like and isinstance(source, ListedFolders | SiloFolder):
        _check_like(source.classes if isinstance(source, ListedFolders) else source.manifest.classes, wishes.like, folder)
    words = readable(wishes.source or (source.words if kind == "silos" else f"{FOUND[kind]}: {folder.resolve().name}"))
    if isinstance(source, ListedFolders) and not (shares or wishes.external or again):
        return Opened(wishes, source, None, groups, source.classes, fitting, words)
    samples = source.samples()
    if again:
        samples = again(samples)
    samples = with_external(samples, wishes.external)
    if shares:
        samples = splitting.split(samples, shares, wishes.seed)
    check(samples)
    _check_classes(samples.classes)
    return Opened(wishes, source, samples, groups, samples.classes, fitting, words)


def _folders(
    folder: Path, kind: str, wishes: Wishes, spool: Path, jobs: int
) -> tuple[ListedFolders, Sequence[tuple[str, tuple[str, ...]]]]:
    words = f"{FOUND[kind]}: {folder.resolve().name}"
    if kind == "leaf":
        spooled, folders = leaf_source(folder, spool, jobs)
        if wishes.classes is not None:
            raise SchemaError(
                "tool-option", f"--classes {wishes.classes}: LEAF's JSON always has the {len(FEMNIST)} classes of FEMNIST"
            )
        groups = _groups(wishes, kind, folders, folder)
        return ListedFolders(spooled, groups, FEMNIST, words), groups
    folders = writers_of(folder)
    named = _named_classes(wishes)
    names, class_folder_names = named or FEMNIST, named or tuple(str(label) for label in range(len(FEMNIST)))
    if wishes.classes == "auto":
        names = class_folder_names = class_names(folder, folders)
    _check_classes(names)
    labels = {name: label for label, name in enumerate(class_folder_names)}
    users = read_combined(folder) if kind == "combined" else {}
    groups = _groups(wishes, kind, folders, folder)
    return ListedFolders(Tree(folder, labels, kind == "combined", users), groups, names, words), groups


def _groups(wishes: Wishes, kind: str, folders: tuple[str, ...], root: Path) -> Sequence[tuple[str, tuple[str, ...]]]:
    """Return name and folders of each silo."""
    if kind == "combined":
        if wishes.users or wishes.silos:
            raise SchemaError("tool-option", f"{root}: already combined; --users and --silos are for raw users")
        return [(folder, (folder,)) for folder in sorted(folders, key=natural)]
    users = first(folders, wishes.users, root)
    if wishes.silos is None:
        return [(user, (user,)) for user in users]
    return [(f"dataset_{silo}", group) for silo, group in enumerate(spread(users, wishes.silos))]


def _source(folder: Path, kind: str, wishes: Wishes, spool: Path) -> Source:
    renames = read_renames(wishes.map) if wishes.map else {}
    name = readable(wishes.name or folder.resolve().stem)
    classes = _named_classes(wishes)
    if kind == "silos":
        if classes or wishes.classes:
            raise SchemaError(
                "tool-option", f"{folder}: found a folder of silos, which has its classes; leave --classes out"
            )
        return open_silos(folder)
    if kind == "classes":
        return ClassFolders(folder, name, classes)
    if kind == "table":
        assert wishes.labels is not None  # noqa: S101  (that makes it a table)
        return Table(folder, wishes.labels, wishes.columns, name, classes, renames, wishes.suffix)
    if kind == "parquet":
        from silofold.data.sources.parquet import open_parquet  # noqa: PLC0415  (an extra)

        return open_parquet(folder, wishes.columns, spool, name, classes, renames)
    span = fittings.range_of(wishes.range) if wishes.range else None
    return open_arrays(folder, wishes.labels, wishes.columns, spool, name, classes, renames, span)


def _fitting(wishes: Wishes, source: Source) -> Fitting:
    """Tell how pictures are brought to size: as wished, as another folder has them, or as arrays are."""
    if wishes.like:
        other = read_manifest(wishes.like, external=True)
        return fittings.of_words(other.interpolation, other.image_shape)
    span = fittings.range_of(wishes.range) if wishes.range else None
    own: tuple[int, ...] | None = None
    if isinstance(source, Arrays):
        own = source.shape
    elif isinstance(source, SiloFolder):
        own = source.manifest.image_shape
    if own and not wishes.size and wishes.mode is None:
        return Fitting(own, wishes.fit, span)
    size = fittings.size_of(wishes.size) if wishes.size else own[:2] if own else (32, 32)
    mode = wishes.mode or ("RGB" if own and len(own) == 3 else "L")
    return Fitting((*size, 3) if mode == "RGB" else tuple(size), wishes.fit, span)


def _named_classes(wishes: Wishes) -> tuple[str, ...]:
    """Return the classes that are named: with commas, by a file with one a line, or by another folder of silos."""
    if wishes.like:
        return read_manifest(wishes.like, external=True).classes
    if wishes.classes in {None, "auto"}:
        return ()
    text = str(wishes.classes)
    names = tuple(text.split(","))
    if len(names) == 1 and Path(text).is_file():
        try:
            lines = guarded.read(Path(text), 16 * guarded.MIB).decode("utf-8-sig").splitlines()
        except (OSError, guarded.UnfitError, UnicodeDecodeError) as fault:
            raise SchemaError("tool-option", f"--classes {text}: {fault}, expected a class a line") from None
        names = tuple(line.strip() for line in lines if line.strip())
    if "" in names or len(set(names)) != len(names) or not names:
        raise SchemaError("tool-option", f"--classes {text}: found an empty or a repeated name")
    return names


def _check_like(classes: tuple[str, ...], like: Path, folder: Path) -> None:
    """Refuse a source whose classes are given and are not those of the other folder."""
    other = read_manifest(like, external=True).classes
    if classes != other:
        raise SchemaError("tool-option", f"--like {like}: found the classes {few(other)}, but {folder} has {few(classes)}")


def _check_classes(names: tuple[str, ...]) -> None:
    if len(names) > MOST_CLASSES:
        raise SchemaError("tool-option", f"--classes: found {len(names)} classes, expected at most {MOST_CLASSES}")
