"""Tell every fault of a folder of silo files at once.

Faults go to stdout, one a line, and end the tool with exit code 1; a folder without faults gives one line and 0.
Test pictures that also stand in a train split are a warning on stderr: real data has some.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import console
from silofold.data.silo import Manifest, folder_faults, read_manifest, split_keys


def duplicate_faults(folder: Path, manifest: Manifest) -> list[str]:
    """Recount the test pictures that also stand in a train split, and compare with what the manifest says."""
    train = np.unique(np.concatenate([split_keys(folder, silo, "train", manifest) for silo in manifest.silos]))
    faults = []
    for silo in manifest.silos:
        found = int(np.isin(split_keys(folder, silo, "test", manifest), train).sum())
        if found:
            console.warn(f"{folder / silo.file}: {found} test pictures also stand in a train split")
        if found != silo.duplicates:
            faults.append(f"{folder / silo.file}: duplicates: found {found}, expected {silo.duplicates}")
    return faults


def main() -> int:
    """Run the tool."""
    parser = console.Parser(__doc__)
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder of silo files and silos.json")
    folder = parser.parse_args().folder
    faults = folder_faults(folder)
    if not faults:
        manifest = read_manifest(folder)
        faults = duplicate_faults(folder, manifest)
    for fault in faults:
        console.tell(fault)
    if faults:
        return 1
    examples = [silo.train.examples + silo.test.examples for silo in manifest.silos]
    console.tell(f"{folder}: {len(examples)} silos, {sum(examples)} pictures, no fault; digest {manifest.digest}")
    return 0


if __name__ == "__main__":
    console.run(main)
