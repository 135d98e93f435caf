"""TensorBoard event files in ``tensorboard/`` of the run folder, by the package `tensorboard` alone (no torch)."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary as Values
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from silofold.config import Section

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from silofold.core.summary import Summary


class TensorBoardSettings(Section, frozen=True):
    """Settings of the sink ``tensorboard``: none of its own."""

    name: str = "tensorboard"


class TensorBoard:
    """Writes one event a round: accuracy, losses, each silo, seconds by phase."""

    Settings = TensorBoardSettings

    def __init__(self, settings: TensorBoardSettings) -> None:
        del settings

    def open(self, folder: Path, earlier: Sequence[Summary]) -> None:
        """Begin anew with the earlier rounds: a file that was cut short by a crash would hide what follows."""
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self._writer = EventFileWriter(str(folder / "tensorboard"))
        for summary in earlier:
            self.write(summary)

    def write(self, summary: Summary) -> None:
        """Write one round, at the step of its number."""
        values = [Values.Value(tag=key, simple_value=value) for key, value in summary.curves().items()]
        self._writer.add_event(Event(wall_time=time.time(), step=summary.round, summary=Values(value=values)))
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


plugin = TensorBoard
