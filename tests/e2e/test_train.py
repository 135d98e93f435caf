"""A whole run through real mpirun: the same bits on every shape, equal to FedAvg written by hand, resumable."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import mpirun

ROOT = Path(__file__).parents[2]


def rounds(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def table(out: Path) -> list[tuple[Any, ...]]:
    """What must not depend on the shape of the job."""
    return [
        (entry["round"], entry["model_sha256"], entry["accuracy"], entry["test_loss"], entry["train_loss"])
        for entry in rounds(out)
    ]


def run(out: Path, tiny: Path, recipe: Path, shape: tuple[int, int], *settings: str) -> mpirun.Ended:
    servers, workers = shape
    return mpirun.train(1 + servers + workers, recipe, tiny, out, f"roles.servers={servers}", *settings)


@pytest.fixture(scope="module")
def reference(tiny: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "run"
    ended = run(out, tiny, recipe, (1, 2), "rounds.worker_checkpoints=true")
    assert ended.code == 0, ended
    return out


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (4, 6), (3, 4)])
def test_same_bits_on_every_shape(shape: tuple[int, int], reference: Path, tiny: Path, recipe: Path, tmp_path: Path) -> None:
    ended = run(tmp_path / "run", tiny, recipe, shape)
    assert ended.code == 0, ended
    assert table(tmp_path / "run") == table(reference)


def test_leaves_what_it_promises(reference: Path) -> None:
    entries = rounds(reference)
    assert [entry["round"] for entry in entries] == [1, 2, 3]
    for entry in entries:
        assert entry["accepted"] == entry["cohort"] == [0, 1, 2, 3, 4, 5]
        assert entry["test_examples"] == sum(range(10, 16))
        correct = sum(silo["accuracy"] * silo["test_examples"] for silo in entry["silos"])
        assert entry["accuracy"] == pytest.approx(correct / entry["test_examples"])
        assert entry["accuracy_low"] < entry["accuracy"] <= entry["accuracy_high"] <= 1
        assert entry["seconds"]["total"] >= entry["seconds"]["train"] > 0
        assert [rank["role"] for rank in entry["ranks"]] == ["server_0", "worker_0", "worker_1"]
        for phase in ("broadcast", "evaluate", "train", "reduce", "apply"):
            assert entry["seconds"][phase] == max(rank[phase] for rank in entry["ranks"])
        assert entry["bytes_up"] == 2 * entry["bytes_down"] > 0  # int64 up, float32 down
    with (reference / "metrics.csv").open() as file:
        assert [row["model_sha256"] for row in csv.DictReader(file)] == [entry["model_sha256"] for entry in entries]
    record = json.loads((reference / "run.json").read_text())
    assert record["settings"]["rounds"]["count"] == 3
    assert list(record["elements"].items())[:2] == [
        ("conv1.weight", "0 trained 6x1x5x5"),
        ("conv2.weight", "150 trained 16x6x5x5"),
    ]
    assert [rank["role"] for rank in record["ranks"]] == ["scheduler", "server_0", "worker_0", "worker_1"]
    assert (reference / "DONE").read_text().strip() == entries[-1]["model_sha256"]
    state = torch.load(reference / "model.pt", weights_only=True)
    vector = np.concatenate([value.numpy().ravel() for value in state.values()]).astype("<f4")
    import hashlib

    assert hashlib.sha256(vector.tobytes()).hexdigest() == entries[-1]["model_sha256"]
    for title in ("scheduler", "server_0", "worker_0", "worker_1"):
        assert (reference / title / f"{title.split('_')[0]}.log").stat().st_size > 0
    log = (reference / "worker_1" / "worker.log").read_text()
    assert sum("test acc" in line for line in log.splitlines()) == 3 * 3  # three silos, three rounds
    for number in range(3):
        assert torch.load(reference / "worker_0" / "ckpt" / f"0-fl-silofold-bs8-{number}epoch.pt", weights_only=True)
    names = sorted(path.name for path in (reference / "checkpoints").iterdir())
    assert names == ["round_00001", "round_00002", "round_00003"]


def test_own_model_learns_with_the_same_bits_on_every_shape(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    settings = ("model.name=own_model:Net", "model.width=24", "rounds.count=5", "local.drop_last=true")
    where = {"PYTHONPATH": str(ROOT / "tests")}
    for name, servers, workers in (("a", 1, 2), ("b", 3, 4)):
        ended = mpirun.train(
            1 + servers + workers, recipe, tiny, tmp_path / name, f"roles.servers={servers}", *settings, environment=where
        )
        assert ended.code == 0, ended
    assert table(tmp_path / "a") == table(tmp_path / "b")
    assert rounds(tmp_path / "a")[-1]["accuracy"] > 0.9
    state = torch.load(tmp_path / "a" / "model.pt", weights_only=True)
    assert float(state["layers.2.running_var"].std()) > 0  # averaged like a parameter, not lost
    refused = mpirun.train(3, recipe, tiny, tmp_path / "c", *settings[:1], "model.widht=24", environment=where)
    assert (refused.code, len(refused.faults())) == (2, 1)
    assert "model.widht" in refused.faults()[0]
    assert "did you mean 'width'" in refused.faults()[0]


@pytest.mark.parametrize("keep_momentum", ["false", "true"])
def test_equals_serial_fedavg(keep_momentum: str, tiny: Path, recipe: Path, tmp_path: Path) -> None:
    setting = f"local.keep_momentum={keep_momentum}"
    ended = run(tmp_path / "run", tiny, recipe, (2, 3), setting, "rounds.worker_checkpoints=true")
    assert ended.code == 0, ended
    serial = mpirun.run(
        [sys.executable, str(ROOT / "tests" / "serial.py"), str(recipe), "--data", str(tiny), "--set", setting,
         "--out", str(tmp_path / "serial")]
    )  # fmt: skip
    assert serial.code == 0, serial
    for name, number in (("round_1.npy", 0), ("last.npy", 2)):
        file = tmp_path / "run" / "worker_0" / "ckpt" / f"0-fl-silofold-bs8-{number}epoch.pt"
        state = torch.load(file, weights_only=True)
        vector = np.concatenate([value.numpy().ravel() for value in state.values()])
        assert np.abs(vector - np.load(tmp_path / "serial" / name)).max() < 1e-5


@pytest.mark.parametrize(
    "settings",
    [
        ("strategy.name=median",),
        ("server_optimizer.name=adaptive", "server_optimizer.rule=yogi"),
        ("server_optimizer.name=sgd", "server_optimizer.momentum=0.9", "strategy.weights=equal"),
        ("cohort.name=sample", "cohort.size=3", "local.keep_momentum=true"),
    ],
)
def test_plugins_give_the_same_bits_on_every_shape(
    settings: tuple[str, ...], tiny: Path, recipe: Path, tmp_path: Path
) -> None:
    for name, shape in (("a", (1, 2)), ("b", (3, 4))):
        ended = run(tmp_path / name, tiny, recipe, shape, *settings)
        assert ended.code == 0, ended
    assert table(tmp_path / "a") == table(tmp_path / "b")


def test_float32_reduction_is_close(reference: Path, tiny: Path, recipe: Path, tmp_path: Path) -> None:
    ended = run(tmp_path / "run", tiny, recipe, (2, 3), "reduction=float32")
    assert ended.code == 0, ended
    for ours, exact in zip(rounds(tmp_path / "run"), rounds(reference), strict=True):
        assert ours["bytes_up"] * 2 == exact["bytes_up"] * 3 // 2  # three workers instead of two, half the width
        assert ours["train_loss"] == pytest.approx(exact["train_loss"], rel=1e-4)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["reduction"] == "float32"


def test_evaluates_and_saves_as_often_as_asked(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended = run(out, tiny, recipe, (1, 2), "rounds.count=5", "rounds.evaluate_every=2", "rounds.checkpoint_every=0")
    assert ended.code == 0, ended
    assert [entry["accuracy"] is not None for entry in rounds(out)] == [False, True, False, True, True]
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["round_00005"]


def test_longer_run_and_refusals(reference: Path, tiny: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(out, tiny, recipe, (1, 2)).code == 0
    again = run(out, tiny, recipe, (1, 2))
    assert (again.code, len(again.faults())) == (2, 1)
    assert "finished run" in again.faults()[0]
    resume = ["-m", "silofold", "train", "--resume", str(out)]
    done = mpirun.on_ranks(4, resume)
    assert done.code == 2
    assert "3 rounds of 3" in done.faults()[0]
    other = mpirun.on_ranks(4, [*resume, "--set", "rounds.count=4", "--set", "local.lr=0.06"])
    assert other.code == 2
    assert "local.lr: 0.05 -> 0.06" in other.faults()[0]
    assert (out / "DONE").exists()
    longer = mpirun.on_ranks(5, [*resume, "--set", "rounds.count=4"])
    assert longer.code == 0, longer
    assert table(out)[:3] == table(reference)
    assert len(rounds(out)) == 4


def test_servers_never_import_torch(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    program = ["-X", "importtime", "-m", "silofold", "train", str(recipe), "--data", str(tiny), "--out"]
    separate = ["--output", f"file={tmp_path / 'rank'}"]
    from silofold.commands.launching import launcher

    if launcher.find_mpirun()[1] != "openmpi":
        pytest.skip("keeps the ranks' errors apart by an option of Open MPI's mpirun")
    command = [
        *launcher.mpirun(),
        *separate,
        "-n",
        "4",
        sys.executable,
        *program,
        str(tmp_path / "run"),
        "--set",
        "rounds.count=1",
    ]
    ended = mpirun.run(command, 120, launcher.environment(1))
    assert ended.code == 0, ended
    imported = {path.name: path.read_text() for path in tmp_path.glob("rank*") if "importtime" not in path.name}
    texts = {name.split(".")[-2]: text for name, text in imported.items() if name.endswith(".err")}
    texts = texts or {name.split(".")[-1]: text for name, text in imported.items()}
    loads = {rank: " torch\n" in text for rank, text in sorted(texts.items())}
    assert list(loads.values()) == [False, False, True, True], loads


def test_two_jobs_in_one_folder(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    from silofold.commands.launching import launcher

    out = tmp_path / "run"
    long = [
        "-m",
        "silofold",
        "train",
        str(recipe),
        "--data",
        str(tiny),
        "--out",
        str(out),
        "--set",
        "rounds.count=5000",
    ]
    with mpirun.started(mpirun.command(3, long), launcher.environment(1)) as process:
        deadline = time.monotonic() + 60
        while not (out / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        second = run(out, tiny, recipe, (1, 1), "rounds.count=5000")
        assert second.code == 2, second
        assert "another job is at work" in second.faults()[0]
        assert process.poll() is None


def test_tutorial_on_real_femnist(femnist: Path, tmp_path: Path) -> None:
    """The tutorial's shape, shortened: 12 ranks, 35 writers in 7 silos, against FedAvg in plain torch."""
    silos, example = tmp_path / "silos", ROOT / "examples" / "femnist" / "run.toml"
    pack = [sys.executable, str(ROOT / "data_tools" / "pack.py"), str(femnist), str(silos)]
    packed = mpirun.run([*pack, "--users", "35", "--silos", "7", "--size", "32"])
    assert packed.code == 0, packed
    short = ("rounds.count=2", "local.epochs=1", "rounds.worker_checkpoints=true")
    ended = mpirun.train(12, example, silos, tmp_path / "run", *short)
    assert ended.code == 0, ended
    entries = rounds(tmp_path / "run")
    assert entries[-1]["test_examples"] == 637
    assert sum(silo["train_examples"] for silo in entries[-1]["silos"]) == 5544
    sets = [part for setting in short for part in ("--set", setting)]
    serial = mpirun.run(
        [sys.executable, str(ROOT / "tests" / "serial.py"), str(example), "--data", str(silos), *sets,
         "--out", str(tmp_path / "serial")]
    )  # fmt: skip
    assert serial.code == 0, serial
    for name, number in (("round_1.npy", 0), ("last.npy", 1)):
        file = tmp_path / "run" / "worker_0" / "ckpt" / f"0-fl-silofold-bs32-{number}epoch.pt"
        vector = np.concatenate([value.numpy().ravel() for value in torch.load(file, weights_only=True).values()])
        assert len(vector) == 66_404
        assert np.abs(vector - np.load(tmp_path / "serial" / name)).max() < 1e-5


def test_silos_read_when_needed(reference: Path, tiny: Path, recipe: Path, tmp_path: Path) -> None:
    """A limit of memory changes no bit, and then a damaged file costs the update of its own silo."""
    ended = run(tmp_path / "a", tiny, recipe, (1, 2), "data.memory=1")
    assert ended.code == 0, ended
    assert table(tmp_path / "a") == table(reference)
    damaged = shutil.copytree(tiny, tmp_path / "damaged")
    with h5py.File(damaged / "silo_0003.h5", "r+") as file:
        file["train/images"][0] = file["train/images"][0] ^ 1
    ended = run(tmp_path / "b", damaged, recipe, (1, 2), "data.memory=1", "rounds.update_ratio=0.8")
    assert ended.code == 0, ended
    for entry in rounds(tmp_path / "b"):
        assert entry["accepted"] == [0, 1, 2, 4, 5]
        assert ["silo_0003.h5" in silo["reason"] for silo in entry["silos"]] == [index == 3 for index in range(6)]


def test_training_reads_the_training_split_alone(reference: Path, tiny: Path, recipe: Path, tmp_path: Path) -> None:
    """Pictures that are damaged in a test split cost the score of their silo, and no update."""
    damaged = shutil.copytree(tiny, tmp_path / "damaged")
    with h5py.File(damaged / "silo_0003.h5", "r+") as file:
        file["test/images"][0] = file["test/images"][0] ^ 1
    ended = run(tmp_path / "run", damaged, recipe, (1, 2), "data.memory=1")
    assert ended.code == 0, ended
    assert [row[1] for row in table(tmp_path / "run")] == [row[1] for row in table(reference)]
    for entry in rounds(tmp_path / "run"):
        assert entry["accepted"] == [0, 1, 2, 3, 4, 5]
        assert entry["test_examples"] == sum(range(10, 16)) - 13
        assert entry["silos"][3]["accuracy"] is None


TRAINED = re.compile(r"round (\d+) silo silo_(\d+): loss")


def trainers(out: Path, workers: int) -> dict[tuple[int, int], list[int]]:
    """Which workers trained each silo in each round, as their logs tell."""
    found: dict[tuple[int, int], list[int]] = {}
    for worker in range(workers):
        for number, silo in TRAINED.findall((out / f"worker_{worker}" / "worker.log").read_text()):
            found.setdefault((int(number), int(silo)), []).append(worker)
    return found


@pytest.mark.parametrize(
    ("setting", "workers"), [("strategy.name=mean", 2), ("local.keep_momentum=true", 3), ("strategy.name=median", 2)]
)
def test_a_cohort_is_dealt_out_anew_each_round(setting: str, workers: int, tiny: Path, recipe: Path, tmp_path: Path) -> None:
    """Silos that are read when needed are trained where there is the least to do: once each, balanced, to the same bits."""
    settings = ("cohort.name=sample", "cohort.size=4", "rounds.count=8", setting)
    assert run(tmp_path / "fixed", tiny, recipe, (1, workers), *settings).code == 0
    assert run(tmp_path / "dealt", tiny, recipe, (2, workers), *settings, "data.memory=1").code == 0
    assert table(tmp_path / "dealt") == table(tmp_path / "fixed")
    kept = [[entry["states"] for entry in rounds(tmp_path / name)] for name in ("dealt", "fixed")]
    assert kept[0] == kept[1]
    assert all(len(states) == (4 if "keep" in setting else 0) for states in kept[0])
    fixed, dealt = (trainers(tmp_path / name, workers) for name in ("fixed", "dealt"))
    entries = rounds(tmp_path / "dealt")
    assert fixed.keys() == dealt.keys() == {(entry["round"], silo) for entry in entries for silo in entry["cohort"]}
    assert all(len(by) == 1 for by in dealt.values())
    places = [{silo: {worker for (_, other), (worker,) in found.items() if other == silo} for silo in range(6)}
              for found in (fixed, dealt)]  # fmt: skip
    assert all(len(ranks) <= 1 for ranks in places[0].values())
    assert any(len(ranks) > 1 for ranks in places[1].values())
    for entry in entries:
        sizes = {silo["silo"]: silo["train_examples"] for silo in entry["silos"]}
        mine = [
            [sizes[silo] for (number, silo), (by,) in dealt.items() if (number, by) == (entry["round"], worker)]
            for worker in range(workers)
        ]
        assert max(sum(part) - min(part) for part in mine if part) <= min(map(sum, mine))


@pytest.mark.parametrize("tie", ["reduction=float32", "roles.near=true"])
def test_a_cohort_that_is_tied_to_its_hosts_stays_there(tie: str, tiny: Path, recipe: Path, tmp_path: Path) -> None:
    """Files of the node's own do not move; sums in float32 rest on who trains which silo."""
    settings = ("cohort.name=sample", "cohort.size=4", "rounds.count=8", "data.memory=1", tie)
    assert run(tmp_path / "run", tiny, recipe, (1, 2), *settings).code == 0
    found = trainers(tmp_path / "run", 2)
    assert all(len({worker for (_, other), by in found.items() for worker in by if other == silo}) == 1 for silo in range(6))


def test_a_silo_that_fails_costs_its_own_update(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    """The model refuses a last batch of one picture: silos of 33 and 25 pictures fail at batch size 8, each round."""
    where = {"PYTHONPATH": str(ROOT / "tests")}
    tolerant = mpirun.train(
        6, recipe, tiny, tmp_path / "a", "roles.servers=2", "model.name=own_model:Picky", "rounds.update_ratio=0.6",
        environment=where,
    )  # fmt: skip
    assert tolerant.code == 0, tolerant
    for entry in rounds(tmp_path / "a"):
        assert (entry["void"], entry["accepted"]) == (False, [0, 1, 2, 5])
        reasons = {silo["silo"]: silo["reason"] for silo in entry["silos"] if silo["reason"]}
        assert list(reasons) == [3, 4]
        assert all("ValueError: one picture" in reason for reason in reasons.values())
    strict = mpirun.train(
        4, recipe, tiny, tmp_path / "b", "model.name=own_model:Picky", "rounds.max_void=2", environment=where
    )
    assert strict.code == 4, strict
    assert any("2 void rounds in a row" in line for line in strict.faults())
    first, *_ = rounds(tmp_path / "b")
    assert first["void"]
    assert first["bytes_up"] == 0


def test_a_table_goes_on_with_the_silos_that_had_nothing_to_tell(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    """The record names those of the cohort alone in a round without evaluation; metrics.csv has a column of each silo."""
    settings = ("cohort.name=sample", "cohort.size=2", "rounds.evaluate_every=4", "rounds.count=4")
    assert mpirun.train(4, recipe, tiny, tmp_path / "whole", *settings).code == 0
    assert mpirun.train(4, recipe, tiny, tmp_path / "run", *settings, "rounds.count=2").code == 0
    assert [len(entry["silos"]) for entry in rounds(tmp_path / "whole")][:3] == [2, 2, 2]
    resumed = ["-m", "silofold", "train", "--resume", str(tmp_path / "run"), "--set", "rounds.count=4"]
    assert mpirun.on_ranks(4, resumed).code == 0
    whole, again = (
        list(csv.DictReader((tmp_path / name / "metrics.csv").read_text().splitlines())) for name in ("whole", "run")
    )
    accuracies = [key for key in whole[0] if key.startswith("accuracy_silo")]
    assert len(accuracies) == 6
    assert [list(row) for row in whole] == [list(row) for row in again]
    assert [row["model_sha256"] for row in whole] == [row["model_sha256"] for row in again]
    assert [whole[-1][key] for key in accuracies] == [again[-1][key] for key in accuracies]
    assert "" not in [again[1][key] for key in accuracies]  # the last round of a run is evaluated


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
def test_on_a_gpu_graphs_and_streams_change_no_bit(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    """One silo after the other or several at once, on one worker or two that share the GPU, exact sums made on it."""
    tables = []
    for name, ranks, settings in (
        ("graph", 3, ()),
        ("lanes", 3, ("local.side_by_side=4",)),
        ("shared", 4, ("local.side_by_side=2",)),
    ):
        chosen = ("device=cuda", "local.cuda_graph=true", "local.keep_momentum=true", "rounds.count=4", *settings)
        ended = mpirun.train(ranks, recipe, tiny, tmp_path / name, *chosen)
        assert ended.code == 0, ended
        tables.append(table(tmp_path / name))
    assert tables[0] == tables[1] == tables[2]
    assert len({entry[1] for entry in tables[0]}) == 4


def test_late_silos_are_left_out_when_the_window_ends(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    """Each full batch sleeps a second: silo 1 (18 pictures, 2 full batches an epoch) alone is done within the window."""
    begin = time.monotonic()
    ended = mpirun.train(
        8, recipe, tiny, tmp_path / "run", "model.name=own_model:Sleepy", "rounds.update_ratio=0.1", "rounds.count=2",
        "rounds.update_window=3.5", "local.epochs=1", "local.drop_last=true",
        environment={"PYTHONPATH": str(ROOT / "tests")},
    )  # fmt: skip
    assert ended.code == 0, ended
    assert time.monotonic() - begin < 60
    for entry in rounds(tmp_path / "run"):
        late = {silo["silo"] for silo in entry["silos"] if silo["reason"] == "out of time"}
        assert 1 in entry["accepted"]
        assert late >= {0, 2, 5}
        assert set(entry["accepted"]) | late == set(range(6))
        assert entry["seconds"]["total"] < 3.5 + 3
