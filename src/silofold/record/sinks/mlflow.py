"""MLflow, by default into a store of files in the run folder: nothing is sent anywhere unless a store elsewhere is named."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from silofold.config import Section

# read when mlflow is imported: a batch job reports to nobody, and its store of files needs no database
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from silofold.messages import Summary

EXPERIMENT = "silofold"


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
        """Begin an MLflow run of the run folder's name, with the earlier rounds; that of an earlier start is removed."""
        self._client = MlflowClient(tracking_uri=self._uri or f"file:{folder.resolve() / 'mlruns'}")
        found = self._client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else self._client.create_experiment(EXPERIMENT)
        where = str(folder.resolve())
        for old in self._client.search_runs([experiment], filter_string=f"tags.folder = '{where}'"):
            self._client.delete_run(old.info.run_id)
        run = self._client.create_run(experiment, tags={"folder": where}, run_name=folder.name)
        self._run: str = run.info.run_id
        for summary in earlier:
            self.write(summary)

    def write(self, summary: Summary) -> None:
        """Log one round."""
        now = round(1000 * time.time())
        metrics = [Metric(key, value, now, summary.round) for key, value in summary.curves().items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        """Mark the MLflow run as finished."""
        self._client.set_terminated(self._run)


plugin = MLflow
