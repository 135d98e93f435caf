"""The process that looks at silo files with HDF5's own library, which is no parser for bytes of others.

It is started by its path, in an environment of its own, and imports nothing of ours: it may die by what it reads, or never
come to an end, and who started it tells that. A request is a line of JSON: the path of a file, as Latin-1, and its size. The
answer is a line of JSON that `silofold.data.inspection` decodes. It tells where bytes lie, and reads none of them.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 1.0
"""Processor time for one file; most take a thousandth of it."""
MEMORY = 2**26
"""Bytes that one file may take, beyond twice its size."""
SPLITS = ("train", "validation", "test")
DATASETS = ("images", "labels", "writer", "group")
ATTRIBUTES = (
    "schema", "name", "classes", "image_shape", "interpolation", "source", "writers", "groups", "group", "role",
    *(f"{split}_{what}" for split in SPLITS for what in ("sha256", "histogram", "sums", "squares")),
)  # fmt: skip


def attribute(h5py: Any, root: Any, name: str) -> Any:
    """Return a number, a text or a list of numbers, {"other": what it is} of anything else, or none where it is missing."""
    if not h5py.h5a.exists(root, name.encode()):
        return None
    found = h5py.h5a.open(root, name.encode())
    dtype, shape = found.dtype, found.shape
    words = h5py.check_string_dtype(dtype)
    text = words is not None and shape == ()
    if not text and (dtype.kind not in "iu" or len(shape) > 1):
        return {"other": f"{dtype} of shape {shape}"}
    import numpy as np  # noqa: PLC0415  (found only when the process has been told where)

    values = np.empty(shape, dtype)
    found.read(values)
    if not text:
        return values.tolist()
    value = values.item()
    if not isinstance(value, bytes):
        return {"other": "no text"}
    if words.length is not None:
        spaces = found.get_type().get_strpad() == h5py.h5t.STR_SPACEPAD
        value = value.split(b"\0")[0].rstrip(b" " if spaces else b"\0")
    return value.decode()


def members(h5py: Any, group: Any, names: tuple[str, ...], kind: type) -> Iterator[tuple[str, Any]]:
    """Open members of a group that hang on hard links: each with its name, or with what it is instead."""
    links = {h5py.h5l.TYPE_SOFT: "a soft link", h5py.h5l.TYPE_EXTERNAL: "a link to another file"}
    for name in names:
        if not group.links.exists(name.encode()):
            yield name, "missing"
            continue
        link = group.links.get_info(name.encode()).type
        if link != h5py.h5l.TYPE_HARD:
            yield name, links.get(link, f"a link of kind {link}")
            continue
        member = h5py.h5o.open(group, name.encode())
        yield name, member if isinstance(member, kind) else "an object of another kind"


def dataset(h5py: Any, found: Any) -> dict[str, Any]:
    """Tell dtype, shape, and where the bytes lie; a fault where they are no one block of this file."""
    told = {"dtype": str(found.dtype), "shape": list(found.shape or ()), "offset": None, "fault": ""}
    made = found.get_create_plist()
    layouts = {h5py.h5d.COMPACT: "a compact dataset", h5py.h5d.CHUNKED: "chunks", h5py.h5d.VIRTUAL: "a virtual dataset"}
    if made.get_layout() != h5py.h5d.CONTIGUOUS:
        told["fault"] = layouts.get(made.get_layout(), "a dataset of unknown layout")
    elif made.get_external_count():
        told["fault"] = "a dataset whose bytes lie in another file"
    elif found.get_space().get_simple_extent_type() != h5py.h5s.SIMPLE:
        told["fault"] = "a dataset without a shape"
    else:
        told["offset"] = found.get_offset()
    return told


def look(h5py: Any, path: bytes) -> dict[str, Any]:
    """Tell what a file holds under the names of a silo file."""
    file = h5py.h5f.open(path, h5py.h5f.ACC_RDONLY)
    root = h5py.h5o.open(file, b"/")
    datasets: dict[str, Any] = {}
    for split, group in members(h5py, root, SPLITS, h5py.h5g.GroupID):
        if isinstance(group, str):
            datasets |= {f"{split}/{name}": {"fault": f"{split} is {group}"} for name in DATASETS}
            continue
        for name, found in members(h5py, group, DATASETS, h5py.h5d.DatasetID):
            datasets[f"{split}/{name}"] = {"fault": found} if isinstance(found, str) else dataset(h5py, found)
    return {"attributes": {name: attribute(h5py, root, name) for name in ATTRIBUTES}, "datasets": datasets}


def confine(size: int, base: int) -> None:
    """Bound what the next file may take: processor time, whose end ends the process, and memory."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    if base:
        resource.setrlimit(resource.RLIMIT_AS, (base + MEMORY + 2 * size, resource.RLIM_INFINITY))


def occupied() -> int:
    """Bytes of addresses that this process has by now; 0 where nobody tells."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123  (one import less)
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def main() -> None:
    """Answer requests until there are no more."""
    sys.path += sys.argv[1:]  # after the standard library's: no file of a user's stands in for one of those
    out = sys.stdout.buffer
    try:
        import h5py  # noqa: PLC0415  (found only now)
    except Exception as fault:  # noqa: BLE001  (whatever an import may raise: who started this tells it)
        out.write(json.dumps({"fault": f"{type(fault).__name__}: {fault}"}).encode() + b"\n")
        return
    out.write(b"{}\n")
    out.flush()
    base = occupied()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        path, size = json.loads(line)
        confine(size, base)
        try:
            told = look(h5py, path.encode("latin-1"))
        except Exception as fault:  # noqa: BLE001  (h5py raises nearly anything on a damaged file)
            told = {"fault": " ".join(str(fault).split()) or type(fault).__name__}
        out.write(json.dumps(told).encode() + b"\n")
        out.flush()


if __name__ == "__main__":
    main()
