"""``silofold verify``: is a run folder whole, and does it say what it is? Every fault at once, one a line."""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from silofold.core import endings, guarded, recipes
from silofold.core.console import shown
from silofold.core.errors import RunFolderError, SilofoldError
from silofold.data import silo as silos
from silofold.record import answers, checkpoint, control, history, silo_state, whole
from silofold.record.rundir import RunFolder

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from silofold.commands import options as shared
    from silofold.core.summary import Summary
    from silofold.record.run_record import Record


def add(subparsers: shared.Subparsers) -> None:
    """Add the command's options."""
    parser = subparsers.add_parser("verify")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a run folder, or a folder of silos")
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Look at a folder, tell what is wrong with it, and return the exit code."""
    path: Path = options.folder
    if (path / silos.MANIFEST).exists():
        faults, warnings, _ = silos.full_faults(path)
        notes = [*warnings, f"{path}: a folder of silos"]
    else:
        faults, notes = _run_folder(RunFolder(path))
    sys.stdout.writelines(f"{shown(line)}\n" for line in (*faults, *notes))
    sys.stdout.write(f"{len(faults)} faults\n" if faults else "no fault\n")
    return endings.BAD_INPUT.code if faults else endings.DONE.code


def _run_folder(folder: RunFolder) -> tuple[list[str], list[str]]:
    """Tell the faults of a run folder, and what could not be looked at or is worth knowing."""
    if not folder.record.exists():
        raise RunFolderError(
            "run-folder", f"{folder.path}: found neither {folder.record.name} nor {silos.MANIFEST}, expected one of them"
        )
    faults: list[str] = []
    notes: list[str] = []
    record: Record | None = None
    rounds: list[Summary] = []
    try:
        record = folder.read_record()
        recipes.resolve(record.settings, str(folder.record))
    except SilofoldError as fault:
        faults.append(str(fault))
    try:
        rounds = history.read(folder.metrics)
        if record:
            faults += [f"{folder.metrics}, {one}" for one in history.contradictions(rounds, [s.name for s in record.silos])]
        control.read_status(folder)
    except RunFolderError as fault:
        faults.append(str(fault))
    kept = {path: list(_checkpoint_faults(path, rounds, record)) for path in checkpoint.found(folder.checkpoints)}
    faults += [fault for found in kept.values() for fault in found]
    finished = folder.done.exists()
    if finished:
        faults += _finished_faults(folder, rounds, record)
    notes.append(
        f"{folder.path}: {record.baseline if record else 'unreadable'} run, "
        f"{'finished' if finished else 'not finished'}, rounds: {len(rounds)}, checkpoints: {len(kept)}"
    )
    if lacking := history.untested_last(rounds, len(record.silos) if record else 0):
        notes.append(f"{folder.metrics}: {lacking}")
    if control.is_running(folder):
        notes.append(f"{folder.path}: a job is at work in it: what it writes or removes meanwhile may be told as a fault")
    newest = next((path for path, found in kept.items() if not found), None)
    if record and newest:
        more, told = _model_faults(folder, record, newest)
        faults, notes = faults + more, notes + told
    return list(dict.fromkeys(faults)), notes


def _checkpoint_faults(path: Path, rounds: list[Summary], record: Record | None) -> Iterator[str]:
    """Tell the faults of one checkpoint, and where it contradicts the rounds."""
    try:
        manifest = checkpoint.read_manifest(path)
        recipes.resolve(manifest.settings, str(path / checkpoint.MANIFEST))
        checkpoint.check_files(path, manifest, manifest.files)
        checkpoint.check_model(path, manifest)
        silo_state.check(RunFolder(path.parents[1]).states, manifest.states, manifest.states)
    except SilofoldError as fault:
        yield str(fault)
        return
    told = rounds[manifest.round - 1].model_sha256 if 0 < manifest.round <= len(rounds) else None
    if told is None:
        yield f"{path}: metrics.jsonl does not tell of round {manifest.round}"
    elif told not in {"", manifest.model_sha256}:
        yield f"{path}: is of the model {manifest.model_sha256[:16]}…, metrics.jsonl tells of {told[:16]}…"
    if record and record.data_digest != manifest.data_digest:
        yield f"{path}: is of other data than run.json"
    if record and manifest.parameters % record.parameters:
        yield f"{path}: found {manifest.parameters} parameters, run.json tells of {record.parameters}"


def _finished_faults(folder: RunFolder, rounds: list[Summary], record: Record | None) -> list[str]:
    """Tell what a finished run lacks."""
    try:
        told = guarded.read(folder.done, 1000).decode("ascii", errors="replace").strip()
    except (OSError, guarded.UnfitError) as fault:
        return [f"{folder.done}: {fault}"]
    if not rounds:
        return [f"{folder.done}: is there, but no round is on record"]
    faults = whole.unkept(folder, rounds[-1], model=record is None or record.baseline != "local")
    if told != rounds[-1].model_sha256:
        faults.append(
            f"{folder.done}: found {told[:16]!r}, expected {rounds[-1].model_sha256[:16]}…, the last round's model"
        )
    return faults


def _model_faults(folder: RunFolder, record: Record, path: Path) -> tuple[list[str], list[str]]:
    """Build the model, and compare ``model.pt`` and ``predictions.h5`` with the newest checkpoint."""
    from silofold.commands.results import trained

    faults: list[str] = []
    notes: list[str] = []
    try:
        found = trained.find(path)
        if folder.model.exists() and not whole.archive_fault(folder.model) and record.baseline != "local":
            model, vectors = found.build(record.classes, record.image_shape)
            model.load(vectors[0])
            if fault := model.difference(io.BytesIO(guarded.read(folder.model, 2 * found.vector.nbytes + 64 * guarded.MIB))):
                faults.append(f"{folder.model}: {fault}")
            notes.append(f"{folder.model}: compared with {path.name}, sha256 {_digest(folder.model)[:16]}…")
    except (SilofoldError, guarded.UnfitError) as fault:
        notes.append(f"{folder.model}: not compared with a checkpoint, since the model cannot be built here: {fault}")
        return faults, notes
    if folder.predictions.exists():
        try:
            data = trained.manifest_of(found, None)[1]
            sizes = [silo.test.examples for silo in data.silos]
            kept = answers.read(folder.predictions, sizes, len(data.classes))
            if (kept.model_sha256, kept.round) != (found.manifest.model_sha256, found.manifest.round):
                notes.append(f"{folder.predictions}: of round {kept.round}; evaluate makes it anew")
        except RunFolderError as fault:
            faults.append(str(fault))
        except SilofoldError as fault:
            notes.append(f"{folder.predictions}: not looked at, since its silos are out of reach: {fault}")
    return faults, notes


def _digest(path: Path) -> str:
    with guarded.opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
