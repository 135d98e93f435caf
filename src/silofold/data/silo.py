"""The silo folder as others use it: one HDF5 file a silo and ``silos.json``, written, read and checked.

`schema` says what is in them, `manifest` reads and writes ``silos.json``, `writer` and `reader` a silo's file. `inspection`
looks at files that others made, `cache` remembers what it saw, `verify` tells every fault of a folder. None of them knows of
training, of MPI, or of where pictures come from.
"""

from __future__ import annotations

from silofold.data.manifest import manifest_bytes, parse_manifest, read_manifest, write_manifest
from silofold.data.manifest_faults import overlaps
from silofold.data.reader import Reader, read_split
from silofold.data.schema import (
    ALL_SPLITS,
    MANIFEST,
    SCHEMA,
    SCHEMA_2,
    SPLITS,
    Batch,
    Layout,
    Manifest,
    SiloInfo,
    Split,
    SplitInfo,
    SplitName,
    SplitStream,
)
from silofold.data.verify import folder_faults, full_faults, image_keys, split_keys
from silofold.data.writer import replacing, write_silo

__all__ = [
    "ALL_SPLITS",
    "MANIFEST",
    "SCHEMA",
    "SCHEMA_2",
    "SPLITS",
    "Batch",
    "Layout",
    "Manifest",
    "Reader",
    "SiloInfo",
    "Split",
    "SplitInfo",
    "SplitName",
    "SplitStream",
    "folder_faults",
    "full_faults",
    "image_keys",
    "manifest_bytes",
    "overlaps",
    "parse_manifest",
    "read_manifest",
    "read_split",
    "replacing",
    "split_keys",
    "write_manifest",
    "write_silo",
]
