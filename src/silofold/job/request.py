"""What the user asks for, and the settings that follow from it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from silofold.core import recipes
from silofold.record.rundir import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

    from silofold import config


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes
    ----------
    recipe
        The TOML file of the settings; none when a run is resumed or replayed.
    overrides
        ``key=value`` each.
    data
        Folder of silos; none where the settings name it.
    out
        The run folder.
    resume
        Whether `out` must hold a run to go on with.
    replay
        Folder of a run whose rounds are played again.
    rehearse
        Whether all is done that comes before the first round, and no more.
    """

    recipe: Path | None
    overrides: tuple[str, ...]
    data: Path | None
    out: Path
    resume: bool = False
    replay: Path | None = None
    rehearse: bool = False

    @functools.cached_property
    def folder(self) -> RunFolder:
        """The run folder, as this job holds it."""
        return RunFolder(self.out)


def read_settings(request: Request) -> config.Settings:
    """Resolve the settings: those of the run that is resumed or replayed, else those of the recipe."""
    overrides = list(request.overrides)
    if request.data:
        overrides.append(recipes.set_text("data.folder", str(request.data.resolve())))
    source = request.replay or (request.out if request.resume else None)
    if source is None and request.recipe:
        return recipes.load(request.recipe, overrides)
    if source is None:
        return recipes.parse("", "no settings", overrides)
    if request.replay:
        # who took part is on record: a slower machine must not turn it into another run
        overrides += ["rounds.start_quorum=1.0", "rounds.start_window=300.0", "rounds.update_window=86400.0"]
        overrides += ["rounds.checkpoint_every=0", "rounds.worker_checkpoints=false"]
    record = RunFolder(source)
    return recipes.assemble(record.read_record().settings, str(record.record), overrides)
