"""Sites that pack alone and join, and what stats and show say of silos."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import doors
from doors import COLUMNS, FOLD, silofold
from silofold.data import silo

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    labels = doors.table(root / "labels.csv")
    flat = doors.flat(root / "images")
    words = ("--labels", labels, *COLUMNS, *FOLD, "--size", doors.SIDE, "--jobs", 1)
    assert silofold("pack", flat, root / "silos", *words) == 0
    return root / "silos"


def test_sites_that_packed_alone_give_the_same_silos(whole: Path, tmp_path: Path) -> None:
    sites = []
    for number, names in enumerate((["f0_3"], ["f0_1", "f0_2"], ["f0_10"])):
        lines = [doors.cells(row) for row in doors.rows() if row.silo in names]
        labels = doors.table(tmp_path / f"{number}.csv", lines)
        shape = ("--like", tmp_path / "head") if number else ("--classes", ",".join(doors.CLASSES), "--size", doors.SIDE)
        words = ("--labels", labels, *COLUMNS, *FOLD, *shape, "--jobs", 1)
        assert silofold("pack", whole.parent / "images", tmp_path / str(number), *words) == 0
        sites.append(tmp_path / str(number))
        (tmp_path / "head").mkdir(exist_ok=True)  # the others need to know what it is like, and no picture of it
        shutil.copy(sites[0] / "silos.json", tmp_path / "head")
    assert silofold("join", *sites, tmp_path / "joined", "--jobs", 1) == 0
    joined, expected = silo.read_manifest(tmp_path / "joined"), silo.read_manifest(whole)
    assert (joined.digest, joined.silos) == (expected.digest, expected.silos)
    assert silo.full_faults(tmp_path / "joined")[0] == []


def test_stats_are_those_of_the_pixels(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert silofold("stats", whole, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    images = np.stack([doors.image(row.number) for row in doors.rows() if row.silo == "f0_1"]).astype(float)
    assert told["silos"][0]["name"] == "f0_1"
    assert told["silos"][0]["mean"] == pytest.approx([images.mean()])
    assert told["silos"][0]["deviation"] == pytest.approx([images.std()])
    assert told["silos"][0]["classes"] == [4, 4, 4]
    assert told["silos"][0]["effective_classes"] == pytest.approx(3)
    assert told["silos"][0]["divergence"] == pytest.approx(0, abs=1e-12)
    assert silofold("stats", whole) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "4 silos, 48 pictures of 28x28, 3 classes" in lines[0]
    assert lines[-1].split() == ["sum", "16", "16", "16", "48"]


def test_stats_of_schema_2_need_no_pixels(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--silo", "silo", "--split", "0.5,0.25,0.25", "--jobs", 1)
    assert silofold("pack", doors.npz(tmp_path / "set.npz"), tmp_path / "second", *words) == 0
    for path in (tmp_path / "second").glob("*.h5"):
        path.unlink()
    told = []
    for folder in (whole, tmp_path / "second"):
        capsys.readouterr()
        assert silofold("stats", folder, "--json") == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[1]["schema"] == 2
    for one, other in zip(told[0]["silos"], told[1]["silos"], strict=True):
        assert (one["mean"], one["deviation"]) == (other["mean"], other["deviation"])


def test_what_looks_like_a_mistake_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = np.zeros((40, 4, 4), np.uint8)
    images[:, 0, 0] = np.arange(40)
    silos = ["north"] * 20 + ["North"] * 20
    labels = ["nevus"] * 10 + ["Nevus"] * 10 + ["nevus"] * 20
    fold = ["train"] * 12 + ["test"] * 8 + ["train"] * 5 + ["test"] * 15
    np.savez(tmp_path / "set.npz", images=images, labels=labels, silo=silos, fold=fold)
    words = ("--silo", "silo", "--fold", "fold", "--classes", "nevus,Nevus,other", "--jobs", 1)
    assert silofold("pack", tmp_path / "set.npz", tmp_path / "silos", *words) == 0
    capsys.readouterr()
    assert silofold("stats", tmp_path / "silos") == 0
    told = capsys.readouterr().err
    for words_ in (
        "class 'Nevus': in the silo north only", "1 classes without a picture: other", "classes 'nevus' and 'Nevus'",
        "silos 'North' and 'north'", "silo North: pictures of one class only", "silo North: 5 train pictures",
    ):  # fmt: skip
        assert words_ in told, words_


def test_pictures_of_skew_and_contact_sheets(whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert silofold("stats", whole, "--picture", tmp_path / "skew.svg") == 0
    assert "f0_10" in (tmp_path / "skew.svg").read_text()
    cut = ("--by", "dirichlet", "--alpha", 0.1, "--silos", 5, "--seed", 1, "--picture", tmp_path / "skew.png", "--jobs", 1)
    assert silofold("partition", whole, tmp_path / "cut", *cut, "--allow-empty-test") == 0
    with Image.open(tmp_path / "skew.png") as picture:
        assert picture.width > 1000
    assert silofold("show", whole, tmp_path / "sheet.png", "--silo", "f0_2", "--columns", 3) == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("L"))
    mine = [doors.image(row.number) for row in doors.rows() if (row.silo, row.split) == ("f0_2", "train")]
    assert any(np.array_equal(pixels[6:90:3, 160:244:3], image) for image in mine)


def test_a_partition_keeps_pictures_and_splits(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    words = ("--by", "shards", "--silos", 4, "--seed", 3, "--allow-empty-test", "--jobs", 1)
    assert silofold("partition", whole, tmp_path / "cut", *words) == 0
    told = capsys.readouterr()
    assert told.err.count("torn apart") == 1
    manifest = silo.read_manifest(tmp_path / "cut")
    assert manifest.source.endswith("partition shards (2 a silo) into 4 silos, seed 3, groups torn apart")
    assert sum(info.train.examples for info in manifest.silos) == 36
    keys = [silo.split_keys(folder, info, split, found) for folder in (whole, tmp_path / "cut")
            for found in [silo.read_manifest(folder)] for info in found.silos for split in silo.SPLITS]  # fmt: skip
    assert np.array_equal(np.sort(np.concatenate(keys[:8])), np.sort(np.concatenate(keys[8:])))
    assert silo.full_faults(tmp_path / "cut")[0] == []


def test_noise_grows_from_silo_to_silo(whole: Path, tmp_path: Path) -> None:
    base = ("--by", "group", "--silos", 4, "--jobs", 1)
    assert silofold("partition", whole, tmp_path / "plain", *base) == 0
    assert silofold("partition", whole, tmp_path / "noisy", *base, "--noise", 0.1) == 0
    spread = []
    for info in silo.read_manifest(tmp_path / "plain").silos:
        plain, noisy = (
            silo.read_split(folder, info if folder.name == "plain" else twin, "train", found).images.astype(float)
            for folder in (tmp_path / "plain", tmp_path / "noisy")
            for found in [silo.read_manifest(folder)]
            for twin in found.silos
            if twin.name == info.name
        )
        inner = (plain > 80) & (plain < 175)  # where nothing is cut off at black or white
        spread.append((noisy - plain)[inner].std())
    assert spread == pytest.approx([0, 8.5, 17, 25.5], rel=0.05)


def test_the_command_line_does_not_import_what_data_needs() -> None:
    code = (
        "import sys; from silofold import cli; cli.parser(*cli.DATA); "
        "print([name for name in ('numpy', 'PIL', 'h5py', 'tqdm', 'torch', 'pyarrow', 'matplotlib') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize("verb", ["pack", "partition", "join", "stats", "show", "synthesize", "leaf", "combine"])
def test_each_command_has_help_worth_reading(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        silofold(verb, "--help")
    assert len(capsys.readouterr().out.splitlines()) > 12
