"""Bad input: one clear line, an exit code that is not 0, on all ranks, within seconds, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import h5py
import pytest

import mpirun
from silofold.commands.launching import launcher

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 30.0


class Case(NamedTuple):
    """A fault and what the line about it must say."""

    name: str
    says: tuple[str, ...]
    settings: tuple[str, ...] = ()
    ranks: int = 3
    recipe: str | None = None
    harm: Callable[[Path], None] | None = None
    """Done to a copy of the data folder."""
    out: Callable[[Path], Path] | None = None
    """Makes the run folder."""
    data: str | None = None


def _edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "silos.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _cut(folder: Path) -> None:
    path = folder / "silo_0002.h5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(folder: Path) -> None:
    with h5py.File(folder / "silo_0001.h5", "r+") as file:
        file["train/images"][0, 0, 0] ^= 1


def _other_schema(folder: Path) -> None:
    _edit_manifest(folder, schema=9)


def _by_hand(folder: Path) -> None:
    _edit_manifest(folder, classes=["a", "b", "c", "d", "x"])


def _half_manifest(folder: Path) -> None:
    path = folder / "silos.json"
    path.write_bytes(path.read_bytes()[:-200])


def _file(folder: Path) -> Path:
    folder.write_text("not a folder")
    return folder


def _below_file(folder: Path) -> Path:
    return _file(folder) / "run"


def _other_things(folder: Path) -> Path:
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    return folder


def _broken_record(folder: Path) -> Path:
    folder.mkdir()
    (folder / "run.json").write_text('{"settings": ')
    return folder


CASES = [
    Case("unknown key", ("rounds.cuont", "did you mean 'count'"), ("rounds.cuont=3",)),
    Case("unknown section", ("unknown key rouns", "'rounds'"), ("rouns.count=3",)),
    Case("wrong type", ("local.epochs = 'many'", "expected int"), ("local.epochs=many",)),
    Case("out of range", ("rounds.update_ratio = 1.5", "<= 1"), ("rounds.update_ratio=1.5",)),
    Case("zero", ("local.batch_size = 0", ">= 1"), ("local.batch_size=0",)),
    Case("no toml", ("run.toml", "not valid TOML"), recipe="[rounds\ncount = 3"),
    Case("override without value", ("--set rounds.count", "section.key=value"), ("rounds.count",)),
    Case("unknown strategy", ("strategy 'mena'", "did you mean 'mean'"), ("strategy.name=mena",)),
    Case("unknown key of a plug-in", ("server_optimizer.rate", "lr"), ("server_optimizer.rate=1",)),
    Case("missing key of a plug-in", ("cohort.size is missing",), ("cohort.name=sample",)),
    Case("unknown model", ("model 'lenett'", "lenet"), ("model.name=lenett",)),
    Case("unknown key of the model", ("model.chanels", "channels"), ("model.chanels=3",)),
    Case("own model that is not there", ("model 'my.models:Net'", "PYTHONPATH"), ("model.name=my.models:Net",)),
    Case("own model that is none", ("torch.nn.Module",), ("model.name=msgspec:Struct",)),
    Case("plug-in without name", ("strategy", "a table with a name"), ("strategy.name=3",)),
    Case("no GPU", ('device = "cuda"', "no GPU"), ("device=cuda",)),
    Case("no GPU for a graph", ("local.cuda_graph = true", "device cpu"), ("device=cpu", "local.cuda_graph=true")),
    Case("drop_last drops all", ("drop_last", "silo_0001 has 18"), ("local.drop_last=true", "local.batch_size=20")),
    Case("one rank", ("found 1 rank", "at least 3"), ranks=1),
    Case("too few ranks", ("found 5 ranks", "at least 6"), ("roles.servers=4",), ranks=5),
    Case("fewer silos than workers", ("found 6 silos for 7 workers",), ranks=9),
    Case("no data folder", ("nowhere/silos.json", "No such file"), data="nowhere"),
    Case("manifest cut short", ("silos.json",), harm=_half_manifest),
    Case("manifest of another schema", ("schema", "found 9", "expected 1"), harm=_other_schema),
    Case("manifest changed by hand", ("silos.json", "digest"), harm=_by_hand),
    Case("silo file missing", ("silo_0003.h5",), harm=lambda folder: (folder / "silo_0003.h5").unlink()),
    Case("silo file cut short", ("silo_0002.h5",), harm=_cut),
    Case("silo file with a flipped bit", ("silo_0001.h5", "sha256"), harm=_flip),
    Case("run folder is a file", ("run", "cannot be used as run folder"), out=_file),
    Case("run folder below a file", ("run", "cannot be used as run folder"), out=_below_file),
    Case("run folder with other things", ("thesis.tex", "expected an empty folder"), out=_other_things),
    Case("run folder with a broken record", ("run.json", "no record of a run"), out=_broken_record),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_one_clear_line(case: Case, tiny: Path, recipe: Path, tmp_path: Path) -> None:
    data = tiny
    if case.harm:
        data = tmp_path / "silos"
        shutil.copytree(tiny, data)
        case.harm(data)
    if case.data:
        data = tmp_path / case.data
    if case.recipe:
        recipe = tmp_path / "run.toml"
        recipe.write_text(case.recipe)
    out = case.out(tmp_path / "run") if case.out else tmp_path / "run"
    begin = time.monotonic()
    ended = mpirun.train(case.ranks, recipe, data, out, *case.settings, seconds=60)
    took = time.monotonic() - begin
    assert ended.code != 0
    assert len(ended.faults()) == 1, ended
    for fragment in case.says:
        assert fragment in ended.faults()[0]
    assert "Traceback" not in ended.err
    assert took < SECONDS
    assert not (out / "DONE").exists()


def test_launch_says_it_before_it_starts_ranks(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "silofold",
        "launch",
        str(recipe),
        "--data",
        str(tiny),
        "--out",
        str(tmp_path / "r"),
    ]
    ended = mpirun.run([*command, "--set", "rounds.cuont=3"], 20)
    assert (ended.code, len(ended.faults())) == (2, 1)
    assert "did you mean 'count'" in ended.faults()[0]
    none = mpirun.run([*command, "--workers", "0"], 20)
    assert (none.code, len(none.faults())) == (2, 1)
    assert not (tmp_path / "r").exists()


def test_other_launcher_than_library(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    mpich = Path(sys.prefix) / "mpich" / "bin" / "mpirun"
    if launcher.find_mpirun()[1] != "openmpi" or not mpich.exists():
        pytest.skip(f"needs Open MPI in this environment and MPICH's launcher at {mpich} (make venv)")
    command = [str(mpich), "-n", "4", sys.executable, "-m", "silofold", "train", str(recipe), "--data", str(tiny)]
    begin = time.monotonic()
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OMPI_", "PRTE_"))}
    ended = mpirun.run([*command, "--out", str(tmp_path / "run")], 60, clean)
    assert ended.code != 0
    assert len(ended.faults()) == 1, ended
    assert "started 4 processes but MPI sees 1 rank" in ended.faults()[0]
    assert "silofold launch" in ended.faults()[0]
    assert time.monotonic() - begin < SECONDS
    assert not (tmp_path / "run").exists()
