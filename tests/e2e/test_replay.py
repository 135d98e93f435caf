"""A recorded run played again: identical, or refused, or different with the reason."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import h5py
import pytest

import mpirun
from silofold.commands.launching import launcher
from silofold.data import silo
from silofold.training import instruction_set

TESTS = Path(__file__).parents[1]
AVX2 = "avx2" in instruction_set.cpu()[1]


def rounds(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def digests(out: Path) -> list[str]:
    return [entry["model_sha256"] for entry in rounds(out)]


def replay(run: Path, *options: str, **variables: str) -> mpirun.Ended:
    """Replay with no more variables that change the bits than given."""
    command = [sys.executable, "-m", "silofold", "replay", str(run), "--out", f"{run}.again", *options]
    return mpirun.run(command, environment={"PYTHONPATH": str(TESTS)} | variables)


@pytest.fixture(scope="module")
def recorded(tiny: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recorded") / "run"
    ended = mpirun.train(4, recipe, tiny, out)
    assert ended.code == 0, ended
    return out


@pytest.fixture
def copied(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "run"))


def test_identical_on_another_number_of_ranks(copied: Path) -> None:
    ended = replay(copied, "--servers", "3", "--workers", "3")
    assert ended.code == 0, ended
    assert "identical: 3 rounds" in ended.out
    assert digests(Path(f"{copied}.again")) == digests(copied)


def test_a_changed_digest_names_the_round(copied: Path) -> None:
    lines = (copied / "metrics.jsonl").read_text().splitlines()
    entry = json.loads(lines[1])
    digest = entry["model_sha256"]
    entry["model_sha256"] = ("0" if digest[0] != "0" else "1") + digest[1:]
    lines[1] = json.dumps(entry)
    (copied / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    ended = replay(copied, "--workers", "2")
    # MPICH's mpirun puts the codes of all ranks together, those that it killed included
    assert ended.code in {"openmpi": {5}, "mpich": {5, 9}}[launcher.find_mpirun()[1]]
    (line,) = ended.faults()
    assert "different: round 2, no shard: the recorded model digest itself was changed" in line
    assert "torch, CPU, numpy and MPI are those of the record" in line


@pytest.mark.parametrize("packed", [False, True], ids=["file alone", "packed again"])
def test_a_changed_silo_is_refused_before_training(packed: bool, copied: Path, tiny: Path, tmp_path: Path) -> None:  # noqa: FBT001
    data = Path(shutil.copytree(tiny, tmp_path / "silos"))
    if packed:  # another picture, and a manifest that knows of it
        import tiny_silos

        shutil.rmtree(data)
        tiny_silos.pack(data, seed=4)
        assert silo.read_manifest(data).digest != silo.read_manifest(tiny).digest
    else:
        with h5py.File(data / "silo_0004.h5", "r+") as file:
            file["train/images"][3, 2, 1] ^= 1
    ended = replay(copied, "--data", str(data), "--workers", "2")
    assert ended.code == 2
    (line,) = ended.faults()
    assert ("data: 6 of 6 silos differ: silo_0000" if packed else "silo_0004.h5") in line
    assert not (Path(f"{copied}.again") / "metrics.jsonl").exists()


def test_void_rounds_and_absent_silos(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    """Silos 3 and 4 fail in every round: rounds whose sample holds one of them are void."""
    out = tmp_path / "run"
    ended = mpirun.train(
        6, recipe, tiny, out, "roles.servers=2", "model.name=own_model:Picky", "cohort.name=sample", "cohort.size=2",
        "rounds.max_void=30", "local.keep_momentum=true", "server_optimizer.momentum=0.5",
        environment={"PYTHONPATH": str(TESTS)},
    )  # fmt: skip
    assert ended.code == 0, ended
    void = [entry["void"] for entry in rounds(out)]
    assert void.count(False) == 3
    assert any(void), "choose another seed: the test needs a void round"
    again = replay(out, "--workers", "3")
    assert again.code == 0, again
    assert f"identical: {len(void)} rounds" in again.out
    assert [entry["void"] for entry in rounds(Path(f"{out}.again"))] == void


def test_late_silos(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    """Each full batch sleeps a second: silo 1 (18 pictures) alone is done within the window, and a replay has no hurry."""
    out = tmp_path / "run"
    ended = mpirun.train(
        8, recipe, tiny, out, "model.name=own_model:Sleepy", "rounds.update_ratio=0.1", "rounds.count=2",
        "rounds.update_window=2.8", "local.epochs=1", "local.drop_last=true", environment={"PYTHONPATH": str(TESTS)},
    )  # fmt: skip
    assert ended.code == 0, ended
    assert all(len(entry["accepted"]) < len(entry["cohort"]) for entry in rounds(out))
    again = replay(out, "--workers", "6")
    assert again.code == 0, again
    assert "identical: 2 rounds" in again.out


@pytest.mark.skipif(not AVX2, reason="needs a CPU with AVX2")
def test_another_instruction_set_is_named(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended = mpirun.train(3, recipe, tiny, out, environment={"ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"})
    assert ended.code == 0, ended
    again = replay(out, "--workers", "2")
    assert again.code != 0
    (line,) = again.faults()
    assert "different: round 1, shard 0" in line
    assert "onednn_max_cpu_isa: SSE41 -> unset; mkl_cbwr: COMPATIBLE -> unset" in line
    shutil.rmtree(f"{out}.again")
    same = replay(out, "--workers", "2", ONEDNN_MAX_CPU_ISA="SSE41", MKL_CBWR="COMPATIBLE")
    assert same.code == 0, same
    assert "environment" not in same.err


@pytest.mark.skipif(not AVX2, reason="needs a CPU with AVX2")
def test_a_pinned_instruction_set(recorded: Path, tiny: Path, recipe: Path, tmp_path: Path) -> None:
    """Pinned by the setting or by hand: the same bits, and others than without wherever the CPU has more to offer."""
    by_hand = dict(instruction_set.VARIABLES["avx2"])
    for name, ranks, settings, environment in (
        ("setting", 6, ["local.cpu_isa=avx2", "roles.servers=2"], {}),
        ("hand", 4, [], by_hand),
    ):
        ended = mpirun.train(ranks, recipe, tiny, tmp_path / name, *settings, environment=environment)
        assert ended.code == 0, ended
    assert digests(tmp_path / "setting") == digests(tmp_path / "hand")
    assert digests(tmp_path / "setting") != digests(recorded)  # MKL's COMPATIBLE branch is no CPU's own choice
    workers = [rank for rank in json.loads((tmp_path / "setting" / "run.json").read_text())["ranks"] if "torch" in rank]
    assert [(rank["hardware"], rank["mkl_cbwr"], rank["cpu"]) for rank in workers] == [
        ("AVX2", "COMPATIBLE", instruction_set.cpu()[0])
    ] * 3
    refused = mpirun.train(
        3, recipe, tiny, tmp_path / "no", "local.cpu_isa=avx2", environment=dict(os.environ) | {"MKL_CBWR": "AUTO"}
    )
    assert (refused.code, len(refused.faults())) == (2, 1)
    assert "needs MKL_CBWR=COMPATIBLE, found MKL_CBWR=AUTO" in refused.faults()[0]
