"""What a terminal shows while a job runs: the ranks' lines and, below them, how it goes."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

from silofold.commands.launching.start import stamp
from silofold.core.errors import SilofoldError
from silofold.record import control, history
from silofold.view import live

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from silofold.record.rundir import RunFolder


def show(lines: Iterable[str], rounds: int, folder: RunFolder) -> None:
    """Print a run's lines and, below them, how it goes; the numbers are those of its record."""
    terminal = Console()
    began, born = time.monotonic(), time.time()
    state = live.State((), rounds, 0.0, 0.0)
    seen, shown = 0.0, _size(folder.metrics)

    def view() -> Text:
        now = time.monotonic()
        words = "" if state.rounds else beginning(folder, born)
        current = state._replace(elapsed=now - began, since=now - max(seen, began), late=late_ranks(folder), now=words)
        return Text("\n".join(live.lines(current, terminal.width - 1)), no_wrap=True)

    with Live(console=terminal, get_renderable=view, refresh_per_second=2, transient=True) as area:
        for line in lines:
            # nobody may look any more, and the record may be damaged: the ranks must not wait for their lines to be read
            with contextlib.suppress(OSError, SilofoldError):
                terminal.print(Text(line.rstrip("\r\n")), soft_wrap=True)
                if (size := _size(folder.metrics)) != shown:
                    state, seen, shown = state._replace(rounds=history.read(folder.metrics)), time.monotonic(), size
                    area.refresh()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def beginning(folder: RunFolder, since: float) -> str:
    """Say what the ranks are about before the first round is recorded, as far as the run folder tells."""
    with contextlib.suppress(SilofoldError):  # a status that is damaged: the view goes on without it
        status = control.read_status(folder)
        if status and status.written >= since:
            waits = f", waiting for {', '.join(status.waiting_for)}" if status.waiting_for else ""
            return f"round {status.round}: {status.phase}{waits}"
    if stamp(folder.record) > since * 1e9:
        return "the ranks are ready, the first round begins"
    logs = sum(stamp(log) > since * 1e9 for log in folder.path.glob("*/*.log"))
    return f"the ranks start: they load their libraries and read the silos (logs opened: {logs})"


def late_ranks(folder: RunFolder) -> list[str]:
    """Name the ranks that a round waits for longer than a round takes."""
    try:
        status = control.read_status(folder)
    except SilofoldError:  # being written by an older version, say: the view goes on without it
        return []
    if status is None or not status.usual_seconds or status.round_seconds < 1.5 * status.usual_seconds:
        return []
    return [*status.waiting_for, *(f"{rank} (dead)" for rank in status.dead)]
