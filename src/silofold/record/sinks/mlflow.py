"""MLflow, by default into a store of files in the run folder: nothing is sent anywhere unless a store elsewhere is named."""

from __future__ import annotations

import hashlib
import os
import re
import time
from typing import TYPE_CHECKING

import msgspec

from silofold.config import Section
from silofold.core import guarded

# read when mlflow is imported: a batch job reports to nobody, and its store of files needs no database
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from silofold.core.summary import Summary

EXPERIMENT = "silofold"
NOTE = "mlflow.json"
"""File of the run folder that names the MLflow run, so that a resumed run goes on in it."""
BATCH = 1000
"""Metrics that MLflow takes at once."""
LONGEST = 200
"""Letters of a metric's name; MLflow takes 250."""


class Note(msgspec.Struct, kw_only=True):
    """What the run folder keeps of the MLflow run."""

    uri: str
    run_id: str
    rounds: list[int]
    """Rounds of which it was told, or at least was about to be."""


class MLflowSettings(Section, frozen=True):
    """Settings of the sink ``mlflow``."""

    name: str = "mlflow"
    uri: str = ""
    """Tracking store, as MLflow names it (``file:…``, ``sqlite:///…``, ``http://…``). Empty: a store of files, ``mlruns`` in
    the run folder."""


class MLflow:
    """Logs accuracy, losses, each silo and the seconds by phase, at the step of the round."""

    Settings = MLflowSettings

    def __init__(self, settings: MLflowSettings) -> None:
        self._uri = settings.uri

    def open(self, folder: Path, earlier: Sequence[Summary]) -> None:
        """Go on with the MLflow run of an earlier start, or begin one of the run folder's name."""
        self._client = MlflowClient(tracking_uri=self._uri or f"file:{folder.resolve() / 'mlruns'}")
        self._path = folder / NOTE
        self._note = (
            self._found() or self._of_old(folder, earlier) or Note(uri=self._uri, run_id=self._create(folder), rounds=[])
        )
        self._again = set(self._note.rounds)
        """Rounds that it may know of already: nothing can be taken back, so what it knows is not told twice."""
        for summary in earlier:
            self.write(summary)

    def write(self, summary: Summary) -> None:
        """Log one round."""
        now = round(1000 * time.time())
        points = {_key(name): value for name, value in summary.curves().items()}
        if summary.round in self._again:
            points = {key: value for key, value in points.items() if not self._knows(key, summary.round, value)}
        else:
            self._note.rounds.append(summary.round)
            draft = self._path.with_suffix(".tmp")
            draft.write_bytes(msgspec.json.encode(self._note))
            draft.replace(self._path)
        metrics = [Metric(key, value, now, summary.round) for key, value in points.items()]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(self._note.run_id, metrics=metrics[start : start + BATCH])

    def close(self) -> None:
        """Mark the MLflow run as finished."""
        self._client.set_terminated(self._note.run_id)

    def _found(self) -> Note | None:
        """Find the MLflow run of an earlier start, if the store still has it."""
        try:
            note = guarded.decode(guarded.read(self._path, guarded.MIB), Note)
            if note.uri != self._uri or self._client.get_run(note.run_id).info.lifecycle_stage != "active":
                return None
            self._client.update_run(note.run_id, status="RUNNING")
        except (OSError, guarded.UnfitError, MlflowException):
            return None
        return note

    def _of_old(self, folder: Path, earlier: Sequence[Summary]) -> Note | None:
        """Find the MLflow run of a run folder without a note, begun by a version that knew its run by the folder's path."""
        known = self._client.get_experiment_by_name(EXPERIMENT)
        where = str(folder.resolve())
        if not earlier or known is None or "'" in where:
            return None
        runs = self._client.search_runs([known.experiment_id], filter_string=f"tags.folder = '{where}'")
        return Note(uri=self._uri, run_id=runs[0].info.run_id, rounds=[one.round for one in earlier]) if runs else None

    def _create(self, folder: Path) -> str:
        known = self._client.get_experiment_by_name(EXPERIMENT)
        experiment = known.experiment_id if known else self._client.create_experiment(EXPERIMENT)
        run = self._client.create_run(experiment, tags={"folder": str(folder.resolve())}, run_name=folder.name)
        found: str = run.info.run_id
        return found

    def _knows(self, key: str, step: int, value: float) -> bool:
        """Whether the last word on a step was this value; seconds are never the same again, so any will do for them."""
        told = [one.value for one in self._client.get_metric_history(self._note.run_id, key) if one.step == step]
        return bool(told) and (key.startswith("seconds/") or told[-1] == value)


def _key(name: str) -> str:
    """Turn a curve's name into one that MLflow takes: others' names hold letters, slashes and lengths that it refuses."""
    head, slash, tail = name.partition("/")
    plain = re.sub(r"[^\w. -]|^[. ]+", "_", tail)[:LONGEST]
    if plain != tail:
        plain = f"{plain}_{hashlib.sha256(tail.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    return f"{head}{slash}{plain}"


plugin = MLflow
