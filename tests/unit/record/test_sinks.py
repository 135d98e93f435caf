from __future__ import annotations

import csv
import sys
import time
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from silofold.core import plugins
from silofold.core.errors import PluginError
from silofold.record.sinks import console

if TYPE_CHECKING:
    from pathlib import Path

    from silofold.core.summary import Summary


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_csv(tmp_path: Path, summary: Summary) -> None:
    sink = plugins.load("sink", {"name": "csv"})
    sink.open(tmp_path, [])
    sink.write(summary)
    assert len(rows(tmp_path)) == 1  # readable while the run goes on
    sink.write(replace(summary, round=2, void=True, accepted=[], train_loss=None, accuracy=None))
    sink.close()
    first, second = rows(tmp_path)
    assert first == {
        "round": "1", "void": "False", "train_loss": "2.5", "accuracy": "0.25", "accuracy_low": "0.125",
        "accuracy_high": "0.5", "test_loss": "2.0", "test_examples": "40", "bytes_down": "800", "bytes_up": "1600",
        "model_sha256": "ab" * 32, "cohort": "2", "accepted": "1", "seconds_broadcast": "0.5",
        "seconds_evaluate": "0.25", "seconds_train": "4.0", "seconds_wait": "1.0", "seconds_reduce": "0.125",
        "seconds_apply": "0.0625", "seconds_total": "6.0", "accuracy_north": "0.5", "accuracy_south": "0.0",
    }  # fmt: skip
    assert (second["round"], second["void"], second["accuracy"], second["train_loss"]) == ("2", "True", "", "")


def test_csv_of_a_resumed_run_is_that_of_one_that_never_stopped(tmp_path: Path, summary: Summary) -> None:
    every = [replace(summary, round=number) for number in (1, 2, 3)]
    for name, earlier in (("whole", 0), ("resumed", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.csv").write_text("what was there before", encoding="utf-8")
        sink = plugins.load("sink", {"name": "csv"})
        sink.open(tmp_path / name, every[:earlier])
        for one in every[earlier:]:
            sink.write(one)
        sink.close()
    assert (tmp_path / "whole" / "metrics.csv").read_bytes() == (tmp_path / "resumed" / "metrics.csv").read_bytes()


def test_console_line(summary: Summary) -> None:
    assert console.line(summary) == (
        "round   1  accuracy 25.00% [12.5%, 50.0%] of 40  train loss 2.5000  silos 1/2  6.00 s  abababab"
    )
    void = replace(summary, round=1000, void=True, accepted=[], accuracy=None, train_loss=None)
    assert console.line(void) == "round 1000  silos 0/2  VOID: below quorum, the model stands  6.00 s  abababab"


def test_console_prints_lines_alone(tmp_path: Path, summary: Summary, capsys: pytest.CaptureFixture[str]) -> None:
    sink = plugins.load("sink", {"name": "console"})
    sink.open(tmp_path, [])
    sink.write(summary)
    sink.close()
    seen = capsys.readouterr()
    assert seen.out == console.line(summary) + "\n"
    assert seen.err == ""
    assert list(tmp_path.iterdir()) == []


def test_tensorboard(tmp_path: Path, summary: Summary) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    for earlier in ([], [summary]):  # the second time is a resume: nothing is there twice
        sink = plugins.load("sink", {"name": "tensorboard"})
        sink.open(tmp_path, earlier)
        sink.write(replace(summary, round=2, accuracy=None))
        sink.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    found = {
        (event.step, value.tag): value.tensor.float_val[0] if value.HasField("tensor") else value.simple_value
        for event in loader.EventFileLoader(str(file)).Load()
        for value in event.summary.value
    }
    assert found[1, "accuracy"] == 0.25
    assert found[1, "silo/north"] == 0.5
    assert found[2, "seconds/train"] == 4.0
    assert (2, "accuracy") not in found


def test_mlflow(tmp_path: Path, summary: Summary) -> None:
    pytest.importorskip("mlflow")
    for earlier in ([], [summary]):
        sink = plugins.load("sink", {"name": "mlflow"})
        sink.open(tmp_path, earlier)
        sink.write(replace(summary, round=2, accuracy=0.75))
        sink.close()
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"file:{tmp_path / 'mlruns'}")
    experiment = client.get_experiment_by_name("silofold")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", tmp_path.name)
    assert sorted((one.step, one.value) for one in client.get_metric_history(run.info.run_id, "accuracy")) == [
        (1, 0.25),
        (2, 0.75),
    ]


def test_a_sink_without_its_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorboard", "mlflow"):
        monkeypatch.delitem(sys.modules, f"silofold.record.sinks.{name}", raising=False)
        for module in [module for module in sys.modules if module.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(PluginError, match=rf"pip install 'silofold\[{name}\]'"):
            plugins.load("sink", {"name": name})


ODD = (
    "low",
    "a\nb",
    "a\\nb",
    "$x",
    "..",
    "a/b",
    "a//b",
    "=1+1",
    "x" * 400,
    "名前",
    "\x1b[31m",
    "é",
    "a_24_x",
    "a$x",
    " ",
    "-",
)
"""Names of silos that someone else chose; MLflow takes few of them."""


def odd(summary: Summary, **changes: object) -> Summary:
    """One round of silos of odd names, the first of them without a test image."""
    silos = [
        replace(summary.silos[0], silo=index, name=name, accuracy=index / 32 if index else None)
        for index, name in enumerate(ODD)
    ]
    return replace(summary, silos=silos, **changes)


def test_csv_of_odd_names_has_a_column_for_each(tmp_path: Path, summary: Summary) -> None:
    sink = plugins.load("sink", {"name": "csv"})
    sink.open(tmp_path, [])
    sink.write(odd(summary, test_loss=float("nan")))
    sink.close()
    lines = (tmp_path / "metrics.csv").read_text(encoding="utf-8").split("\n")
    assert len(lines) == 3  # a header, a row, the end
    header, row = csv.reader(lines[:2])
    assert len(set(header)) == len(header) == len(row)
    assert (row[header.index("accuracy_low")], row[header.index("test_loss")]) == ("0.125", "")
    assert row[-len(ODD) :] == ["", *(str(index / 32) for index in range(1, len(ODD)))]
    assert "".join(header).isprintable()


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_trackers_take_odd_names_and_no_test_image(name: str, tmp_path: Path, summary: Summary) -> None:
    pytest.importorskip(name)
    sink = plugins.load("sink", {"name": name})
    sink.open(tmp_path, [])
    sink.write(odd(summary, test_loss=float("nan"), accuracy=None))
    sink.close()


def test_mlflow_has_a_curve_for_each_name(summary: Summary) -> None:
    module = pytest.importorskip("silofold.record.sinks.mlflow")
    keys = {module._key(name) for name in odd(summary).curves()}
    assert len(keys) == len(odd(summary).curves())


def test_mlflow_takes_thousands_of_silos(tmp_path: Path, summary: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("silofold.record.sinks.mlflow")
    batches: list[int] = []
    monkeypatch.setattr(module.MlflowClient, "log_batch", lambda *_, metrics: batches.append(len(metrics)))
    sink = plugins.load("sink", {"name": "mlflow"})
    sink.open(tmp_path, [])
    sink.write(replace(summary, silos=[replace(summary.silos[0], silo=n, name=f"s{n}") for n in range(2500)]))
    assert max(batches) <= 1000
    assert sum(batches) == 2500 + 10


@pytest.mark.parametrize("noted", [True, False])
def test_a_resumed_run_goes_on_in_its_mlflow_run(tmp_path: Path, summary: Summary, *, noted: bool) -> None:
    pytest.importorskip("mlflow")
    from mlflow.entities import ViewType
    from mlflow.tracking import MlflowClient

    folder = tmp_path / "run"
    folder.mkdir()
    every = [replace(summary, round=number, accuracy=number / 8) for number in range(1, 6)]
    starts: tuple[tuple[list[Summary], list[Summary]], ...] = (
        ([], every[:4]),
        ([every[0], every[1]], every[2:]),
    )  # killed after round 4, resumed from round 2
    for number, (earlier, played) in enumerate(starts):
        if number and noted:
            folder = folder.rename(tmp_path / "moved")
        elif number:  # what a version that kept no note has left
            (folder / "mlflow.json").unlink()
        sink = plugins.load("sink", {"name": "mlflow", "uri": f"file:{tmp_path / 'store'}"})
        sink.open(folder, earlier)
        for one in played:
            sink.write(one)
    sink.close()
    client = MlflowClient(tracking_uri=f"file:{tmp_path / 'store'}")
    experiment = client.get_experiment_by_name("silofold")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
    assert run.info.status == "FINISHED"
    for key in ("accuracy", "seconds/total"):
        steps = [one.step for one in client.get_metric_history(run.info.run_id, key)]
        assert steps == ([1, 2, 3, 4, 5] if noted else [1, 2, 3, 4, 3, 4, 5])


def test_a_new_run_leaves_that_of_another_folder_of_its_name_alone(tmp_path: Path, summary: Summary) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    for _ in range(2):  # the folder was deleted and made again, or lies on another machine
        folder = tmp_path / "run"
        folder.mkdir()
        sink = plugins.load("sink", {"name": "mlflow", "uri": f"file:{tmp_path / 'store'}"})
        sink.open(folder, [])
        sink.write(summary)
        sink.close()
        folder.rename(tmp_path / f"away {time.monotonic_ns()}")
    client = MlflowClient(tracking_uri=f"file:{tmp_path / 'store'}")
    experiment = client.get_experiment_by_name("silofold")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 2
