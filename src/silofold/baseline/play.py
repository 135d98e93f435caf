"""``silofold baseline local | central``: what federating is measured against, recorded like a run.

``local`` trains one model a silo, each on its own images alone. ``central`` trains one model on the images of all silos
together, in as many steps as the silos take together, with batches of the same sizes. Model, seed, local training and
rounds are those of the settings; cohort, strategy and server optimizer have no part in it. No MPI: the models are trained
in processes of this machine, by the code that trains silos in a run.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from silofold import config
from silofold.baseline import round as baseline_round
from silofold.baseline.process import Work, crew_of
from silofold.core import console, files, plugins, recipes
from silofold.core.endings import DONE, INTERRUPTED, RESUMABLE
from silofold.core.error_table import ERRORS
from silofold.core.errors import (
    CheckpointError,
    ConfigError,
    RunFolderError,
    SilofoldError,
)  # fmt: skip
from silofold.data import silo as silos
from silofold.job import tell
from silofold.job.request import Request, read_settings
from silofold.record import checkpoint, control, history, model_set, whole
from silofold.record.desk import Desk, StopNow
from silofold.record.rundir import RunFolder

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from silofold.baseline.process import Crew
    from silofold.core.endings import Ending
    from silofold.core.summary import Summary
    from silofold.protocols import Sink
    from silofold.record.model_set import State

PLAIN = ("cohort", "strategy", "server_optimizer")
"""Plug-ins of a federated round, which a baseline leaves at their defaults."""


def main(options: argparse.Namespace) -> int:
    """Train a baseline, or go on with one."""
    settings = _settings(options)
    folder = Path(settings.data.folder)
    data = silos.read_manifest(folder)
    everyone = tuple(range(len(data.silos)))
    groups = (everyone,) if options.kind == "central" else tuple((silo,) for silo in everyone)
    work = Work(settings, folder, data, groups)
    if options.workers is not None and options.workers < 1:
        raise ConfigError("topology-ranks", f"--workers {options.workers}: expected at least 1")
    sinks: list[Sink] = [plugins.load("sink", table) for table in settings.sinks]
    target = RunFolder(options.out)
    states, earlier = _begin(target, work, options.kind)
    workers = min(options.workers or len(os.sched_getaffinity(0)), len(groups))
    try:
        with _leaving_word(target), Desk(target, settings.rounds, len(earlier)) as desk, crew_of(work, workers) as crew:
            target.write_record(_record(work, options.kind, len(earlier) + 1, crew))
            sys.stdout.write(
                f"baseline {options.kind}: {len(groups)} model{'s' * (len(groups) > 1)} of {crew.parameters:,} parameters, "
                f"processes: {workers}; {sum(work.steps)} steps a round; training on {crew.places[0]['device']}\n"
            )
            sys.stdout.flush()
            last, ended = _play(target, work, crew, desk, _Told(target, sinks, earlier), states)
            if not ended and (faults := whole.unkept(target, last, model=len(groups) == 1)):
                raise RunFolderError(
                    "run-incomplete", f"{target.path}: all rounds are done, but not all is saved: {'; '.join(faults)}"
                )
    except StopNow:
        return _tell(target, RESUMABLE, "stopped at once, as asked; the same command goes on")
    story = f"{last.round} rounds, accuracy {tell.accuracy_told(last, data)}"
    if ended:
        return _tell(target, ended[0], f"{ended[1]}: {story}; the same command goes on")
    files.write_atomically(target.done, f"{last.model_sha256}\n".encode())
    return _tell(target, DONE, f"done: {story}; run folder {target.path}")


def _tell(target: RunFolder, ending: Ending, story: str) -> int:
    """Say how a baseline ended, here and in its folder, and return the exit code."""
    control.leave_word(target, ending, story)
    sys.stdout.write(f"{console.shown(story)}\n")
    return ending.code


@contextlib.contextmanager
def _leaving_word(target: RunFolder) -> Iterator[None]:
    """Leave word of the fault that ends a baseline, and none of an earlier one."""
    target.status.unlink(missing_ok=True)
    try:
        yield
    except OSError as fault:
        broken = RunFolderError("run-write", f"{fault.filename or target.path}: {fault.strerror}")
        control.leave_word(target, ERRORS[broken.id].ending, str(broken), broken.id)
        raise broken from None
    except SilofoldError as fault:
        control.leave_word(target, ERRORS[fault.id].ending, str(fault), fault.id)
        raise
    except KeyboardInterrupt:
        control.leave_word(target, INTERRUPTED, "was interrupted (SIGINT)")
        raise


class _Told:
    """Where summaries go: the record and the sinks.

    Parameters
    ----------
    target
        The run folder.
    sinks
        Not yet open.
    earlier
        Rounds that are on record already.
    """

    def __init__(self, target: RunFolder, sinks: Sequence[Sink], earlier: Sequence[Summary]) -> None:
        self._record, self._sinks, self.rounds = history.History(target.metrics, earlier), sinks, list(earlier)
        for sink in sinks:
            sink.open(target.path, earlier)

    def write(self, summary: Summary) -> None:
        """Record a round."""
        self._record.append(summary)
        for sink in self._sinks:
            sink.write(summary)
        self.rounds.append(summary)

    def check(self) -> None:
        """See that the record is still there."""
        self._record.check()

    def close(self) -> None:
        """Close all of them."""
        self._record.close()
        for sink in self._sinks:
            sink.close()


def _play(
    target: RunFolder, work: Work, crew: Crew, desk: Desk, told: _Told, states: Sequence[State | None]
) -> tuple[Summary, tuple[Ending, str] | None]:
    """Play the rounds that are left; return the last one, and how the baseline ends if it is not that of the settings."""
    rounds, ended = work.settings.rounds, None

    def look() -> None:
        desk.look()
        told.check()

    for number in range(len(told.rounds) + 1, rounds.count + 1):
        began = time.monotonic()
        desk.begin()
        calls = [(number, [states[model] for model in models]) for models in crew.homes]
        played = crew.pool.ask_all("play", calls, look)
        summary, states = baseline_round.summarise(work, number, crew.homes, played, began)
        told.write(summary)
        for reason, names in baseline_round.failed(summary).items():
            console.say(f"round {number}, {names}: failed: {reason}")
        baseline_round.check(work, told.rounds, [one for each in played for one in each.scores])
        last = number == rounds.count
        ended = desk.end() if not last else None
        if last or ended or (rounds.checkpoint_every and number % rounds.checkpoint_every == 0):
            settings, data = msgspec.to_builtins(work.settings), work.data.digest
            model_set.write(target.checkpoints, number, states, settings, data, rounds.keep_checkpoints)
        if ended:
            break
    told.close()
    if not ended and len(states) == 1 and states[0] is not None:
        files.write_atomically(target.model, crew.pool.ask("encode", states[0]))
    return history.read(target.metrics)[-1], ended


def _settings(options: argparse.Namespace) -> config.Settings:
    """Read the settings of a recipe, or of a run, with the plug-ins of the federated round at their defaults."""
    like = options.recipe if options.recipe.is_dir() else None
    request = Request(
        recipe=None if like else options.recipe,
        overrides=tuple(options.set),
        data=options.data,
        out=options.out,
        replay=like,
    )
    settings = read_settings(request)
    for line in plugins.strangers(settings, ["model", "sink"]) if like else ():
        console.say(line)
    if like:  # a replay writes fewer checkpoints than the run that it follows
        rounds = recipes.assemble(RunFolder(like).read_record().settings, str(like), options.set).rounds
        settings = msgspec.structs.replace(settings, rounds=rounds)
    if not settings.data.folder:
        raise ConfigError("data-missing", "no data: give --data DIR, or data.folder in the settings")
    plain = config.Settings()
    return msgspec.structs.replace(settings, **{key: getattr(plain, key) for key in PLAIN})


# --- the record ------------------------------------------------------------------------------------------------------


def _begin(target: RunFolder, work: Work, kind: str) -> tuple[list[State | None], list[Summary]]:
    """Take the run folder, and go on after the newest sound checkpoint in it, if there is one."""
    if not target.claim():
        return [None] * len(work.groups), []
    record = target.read_record()
    changes = recipes.differences(recipes.resolve(record.settings, str(target.record)), work.settings)
    if record.baseline != kind:
        changes.append(f"the kind of run: {record.baseline} -> {kind}")
    if record.data_digest != work.data.digest:
        changes.append("data: other silos")
    if changes:
        raise RunFolderError("run-differs", f"{target.path}: the run in it was started with others: " + "; ".join(changes))
    checkpoint.clear_drafts(target.checkpoints)
    for path in checkpoint.found(target.checkpoints):
        try:
            number, states = model_set.read(path, len(work.groups))
        except CheckpointError as fault:
            console.say(f"{fault}; trying the checkpoint before")
            continue
        earlier = [summary for summary in history.read(target.metrics) if summary.round <= number]
        if len(earlier) == number:
            return list(states), earlier
    return [None] * len(work.groups), []


def _record(work: Work, kind: str, start: int, crew: Crew) -> dict[str, Any]:
    """Say in ``run.json`` what is needed to judge the baseline or to repeat it."""
    return tell.facts(work.settings, work.data, start, crew.parameters) | {
        "baseline": kind,
        "steps_a_round": sum(work.steps),
        "ranks": [{"rank": index, "role": f"process_{index}"} | place for index, place in enumerate(crew.places)],
    }
