"""A trained model as it lies on disk: found by a run folder or a checkpoint, checked, and built again.

A run of silos that train alone has as many models as silos, one after the other in its vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from silofold.core import console, plugins, recipes
from silofold.core.errors import CheckpointError, RunFolderError, SchemaError
from silofold.data import silo as silos
from silofold.record import checkpoint
from silofold.record.rundir import RunFolder
from silofold.training import build, device, module_state

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from silofold import config
    from silofold.record.run_record import Record
    from silofold.training.flat import FlatModel


@dataclass(frozen=True)
class Trained:
    """A checkpoint that was read.

    Attributes
    ----------
    run
        The run folder that it lies in; its files may be missing where a checkpoint was copied elsewhere.
    settings
        Settings of the run.
    manifest
        What the checkpoint says of itself.
    vector
        (N × P,) float32: N models of P parameters each.
    """

    run: RunFolder
    settings: config.Settings
    manifest: checkpoint.Manifest
    vector: NDArray[np.float32]

    def record(self) -> Record | None:
        """Read the run's ``run.json``; none where there is none, as beside a checkpoint that was copied elsewhere."""
        return self.run.read_record() if self.run.record.exists() else None

    def _structures(self) -> set[str]:
        """Digests of the model's structure on the workers of the run; none where it was not recorded."""
        record = self.record()
        found = [rank.get("model_structure") for rank in record.ranks] if record else []
        return {one for one in found if isinstance(one, str)}

    def build(self, classes: tuple[str, ...], image_shape: tuple[int, ...]) -> tuple[FlatModel, NDArray[np.float32]]:
        """Build the model and return it with its (N, P) saved vectors.

        Raises
        ------
        CheckpointError
            The checkpoint is not of a model of such classes and images.
        """
        for line in plugins.strangers(self.settings, ["model"]):
            console.say(line)
        place = device.choose(self.settings.device, 0, self.settings.local.threads)
        if size := build.weigh(self.settings.model, len(classes), image_shape):  # a false record asks for any memory
            self._fit(size, classes, image_shape)
        name = self.settings.model["name"]
        model = build.build(self.settings.model, classes, image_shape, self.settings.seed, place)
        recorded = self._structures()
        if recorded and module_state.structure(model) not in recorded:
            raise CheckpointError(
                "model-fit",
                f"{self.run.path}: {name} is built with other names, shapes or order of parameters than in the run: is its "
                "code another one, or does it go through a set, whose order PYTHONHASHSEED decides?",
            )
        self._fit(model.size, classes, image_shape)
        return model, self.vector.reshape(-1, model.size)

    def _fit(self, size: int, classes: tuple[str, ...], image_shape: tuple[int, ...]) -> None:
        if len(self.vector) % size:
            raise CheckpointError(
                "model-fit",
                f"{self.run.path}: holds {len(self.vector)} parameters, but {self.settings.model['name']} for "
                f"{len(classes)} classes and images of {image_shape} has {size}: these are other classes or images",
            )


def find(path: Path) -> Trained:
    """Read a checkpoint, or the newest sound one of a run folder.

    Raises
    ------
    RunFolderError
        The folder is neither.
    CheckpointError
        The checkpoint is damaged, or the run has none that is sound.
    """
    if (path / checkpoint.MANIFEST).exists():
        return _read(path.resolve())
    folder = RunFolder(path)
    if not folder.record.exists():
        raise RunFolderError(
            "run-folder",
            f"{path}: found neither {folder.record.name} nor {checkpoint.MANIFEST}, expected the folder of a run or one of "
            "its checkpoints",
        )
    names = checkpoint.found(folder.checkpoints)
    for candidate in names:
        try:
            return _read(candidate)
        except CheckpointError as fault:
            console.say(f"{fault}; trying the checkpoint before")
    raise CheckpointError("checkpoint-none", f"{folder.checkpoints}: none of {len(names)} checkpoints can be used")


def manifest_of(trained: Trained, data: Path | None) -> tuple[Path, silos.Manifest]:
    """Read the manifest of the silos to evaluate on: the given folder, or the one that the run was trained on.

    Raises
    ------
    SchemaError
        The folder is no folder of silos, or its classes are not those of the run.
    """
    folder = data or Path(trained.settings.data.folder)
    manifest = silos.read_manifest(folder)
    record = trained.record()
    known = record.classes if record else manifest.classes
    if known != manifest.classes:
        raise SchemaError(
            "model-fit",
            f"{folder}: has {len(manifest.classes)} classes, {', '.join(manifest.classes[:5])}…; the run was trained on "
            f"{len(known)}: {', '.join(known[:5])}…",
        )
    return folder, manifest


def _read(path: Path) -> Trained:
    manifest = checkpoint.read_manifest(path)
    checkpoint.check_files(path, manifest, manifest.files)
    settings = recipes.resolve(manifest.settings, str(path / checkpoint.MANIFEST))
    vector = checkpoint.read_vector(path, manifest)
    return Trained(RunFolder(path.parent.parent), settings, manifest, vector)
