"""The data tools from outside: what they make, that three ways to a silo agree, and one line for each bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import mpirun
from silofold.core.errors import SchemaError
from silofold.data import silo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

TOOLS = Path(__file__).resolve().parents[2] / "data_tools"
SECONDS = 60

Result = subprocess.CompletedProcess[str]


def command(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-W", "error", str(TOOLS / f"{name}.py"), *(str(argument) for argument in arguments)]


def start(words: list[str], cwd: Path | None = None) -> Result:
    return subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False, cwd=cwd)


def tool(name: str, *arguments: object) -> Result:
    return start(command(name, *arguments))


def done(name: str, *arguments: object) -> str:
    """Run a tool that must succeed without a word on stderr, and return what it says."""
    result = tool(name, *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def refused(result: Result, *words: str) -> None:
    """Check that a tool ended with 2 and exactly one line that says these words."""
    lines = result.stderr.splitlines()
    assert (result.returncode, len(lines)) == (2, 1), result.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


def picture(number: int, mode: str = "L", side: int = 28) -> Image.Image:
    shape = (side, side) if mode == "L" else (side, side, 3)
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, shape, np.uint8))


def grow(root: Path, writers: int = 4, labels: tuple[int, ...] = (0, 7, 61)) -> Path:
    """Make a raw tree: every writer has, of each class, 3 train pictures and 1 test picture, numbered 9 to 12."""
    number = 0
    for writer in range(writers):
        for label in labels:
            for place in range(9, 13):
                home = root / f"f{writer:04d}_00" / ("test" if place == 10 else "train") / str(label)
                home.mkdir(parents=True, exist_ok=True)
                picture(number).save(home / f"{label}_x_{place}.png")
                number += 1
    return root


def shard(path: Path, users: dict[str, tuple[list[NDArray[np.uint8]], list[int]]]) -> None:
    """Write a LEAF shard."""
    data = {user: {"x": [(x / 255).ravel().tolist() for x in xs], "y": ys} for user, (xs, ys) in users.items()}
    text = {"users": list(users), "num_samples": [len(ys) for _, ys in users.values()], "user_data": data}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(text), encoding="utf-8")


def scribble(seed: int, labels: list[int]) -> tuple[list[NDArray[np.uint8]], list[int]]:
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (len(labels), 28, 28), np.uint8)), labels


@pytest.fixture
def leaf(tmp_path: Path) -> Path:
    """Three users; the train pictures of one are split over two shards, of which one sorts wrongly as text."""
    root = tmp_path / "leaf"
    shard(root / "train" / "all_2.json", {"b": scribble(1, [5, 61, 5, 0]), "c": scribble(2, [3])})
    shard(root / "train" / "all_10.json", {"b": scribble(3, [5, 0]), "a": scribble(4, [61, 60])})
    tests = {"a": scribble(5, [1]), "b": scribble(6, [0, 5]), "c": scribble(7, [2])}
    shard(root / "test" / "all_2.json", tests)
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return grow(tmp_path / "tree")


def splits(folder: Path) -> Iterator[tuple[silo.SiloInfo, silo.SplitName, silo.Split]]:
    manifest = silo.read_manifest(folder)
    for info in manifest.silos:
        for split in silo.SPLITS:
            yield info, split, silo.read_split(folder, info, split, manifest)


def prints(folder: Path) -> list[tuple[str, str, str, tuple[str, ...]]]:
    """Return what must agree between ways to the same silos."""
    return [(s.file, s.train.sha256, s.test.sha256, s.writers) for s in silo.read_manifest(folder).silos]


# ---------------------------------------------------------------------------------------------------------- round trips


def test_pack_writes_the_pixels_in_canonical_order(tree: Path, tmp_path: Path) -> None:
    said = done("pack", tree, tmp_path / "out", "--silos", 2, "--size", 28)
    assert "found a raw tree" in said
    assert said.splitlines()[-2].split() == ["sum", "2", "4", "36", "12"]
    for info, split, found in splits(tmp_path / "out"):
        first = 2 * int(info.name.removeprefix("dataset_"))
        assert info.writers == (f"f{first:04d}_00", f"f{first + 1:04d}_00")
        # Numbers are numbers: 9 comes before 11, although not as text.
        places = (10,) if split == "test" else (9, 11, 12)
        expected = [
            (np.asarray(picture(12 * (first + writer) + 4 * rank + place - 9)), label, writer)
            for writer in range(2)
            for rank, label in enumerate((0, 7, 61))
            for place in places
        ]
        np.testing.assert_array_equal(found.images, np.stack([pixels for pixels, _, _ in expected]))
        assert found.labels.tolist() == [label for _, label, _ in expected]
        assert found.writer.tolist() == [writer for _, _, writer in expected]


def test_pack_resizes_bilinearly_and_does_not_depend_on_processes(tree: Path, tmp_path: Path) -> None:
    for jobs in (1, 2):
        done("pack", tree, tmp_path / str(jobs), "--jobs", jobs)
    names = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert names == [*(f"silo_{number:04d}.h5" for number in range(4)), "silos.json"]
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    manifest = silo.read_manifest(tmp_path / "1")
    assert (manifest.image_shape, manifest.interpolation, len(manifest.classes)) == ((32, 32), "bilinear", 62)
    first = silo.read_split(tmp_path / "1", manifest.silos[0], "train", manifest).images[0]
    np.testing.assert_array_equal(first, np.asarray(picture(0).resize((32, 32), Image.Resampling.BILINEAR)))


def test_pack_own_pictures_in_colour(tmp_path: Path) -> None:
    for number, suffix in enumerate((".png", ".jpg", ".bmp", ".gif", ".tiff", ".webp")):
        for split in ("train", "test"):
            home = tmp_path / "own" / "Zoë" / split / ("cat" if number % 2 else "dog")
            home.mkdir(parents=True, exist_ok=True)
            picture(number + 10 * (split == "test"), "RGB", 40).save(home / f"{number}{suffix}")
    (tmp_path / "own" / "README.txt").write_text("not a writer")
    (tmp_path / "own" / "Zoë" / "train" / ".DS_Store").write_text("hidden")
    done("pack", tmp_path / "own", tmp_path / "out", "--classes", "auto", "--mode", "RGB", "--size", 40)
    manifest = silo.read_manifest(tmp_path / "out")
    assert (manifest.classes, manifest.image_shape) == (("cat", "dog"), (40, 40, 3))
    found = silo.read_split(tmp_path / "out", manifest.silos[0], "train", manifest)
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(found.images[3], np.asarray(picture(0, "RGB", 40)))
    done("pack", tmp_path / "own", tmp_path / "swapped", "--classes", "dog,cat")
    assert silo.read_manifest(tmp_path / "swapped").classes == ("dog", "cat")


def test_leaf_loses_nothing_and_joins_a_split_user(leaf: Path, tmp_path: Path) -> None:
    done("leaf", leaf, tmp_path / "out")
    early, late = scribble(1, [5, 61, 5, 0]), scribble(3, [5, 0])
    images, labels = early[0] + late[0], early[1] + late[1]
    chars = {0: "0", 5: "5", 61: "z"}
    for place, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = tmp_path / "out" / "b" / "train" / str(label) / f"{label}_{chars[label]}_{place}.png"
        with Image.open(path) as found:
            assert found.mode == "L"
            np.testing.assert_array_equal(np.asarray(found), image)
    assert sum(1 for path in (tmp_path / "out").rglob("*.png")) == 6 + 2 + 1 + 4


def three_ways(leaf: Path, tmp_path: Path, users: int, silos: int) -> None:
    done("leaf", leaf, tmp_path / "tree")
    done("combine", tmp_path / "tree", tmp_path / "merged", "--users", users, "--silos", silos)
    ways = {"direct": leaf, "raw": tmp_path / "tree", "merged": tmp_path / "merged"}
    for way, source in ways.items():
        options = () if way == "merged" else ("--users", users, "--silos", silos)
        result = tool("pack", source, tmp_path / f"by_{way}", *options)
        assert result.returncode == 0, result.stderr
    (tmp_path / "merged" / "combine.json").unlink()
    assert tool("pack", tmp_path / "merged", tmp_path / "by_unlabelled").returncode == 0
    expected = prints(tmp_path / "by_direct")
    assert len(expected) == silos
    for way in ("raw", "merged", "unlabelled"):
        assert prints(tmp_path / f"by_{way}") == expected
        digest = silo.read_manifest(tmp_path / f"by_{way}").digest
        assert digest == silo.read_manifest(tmp_path / "by_direct").digest
    assert silo.folder_faults(tmp_path / "by_merged") == []


def test_three_ways_to_the_same_silos(leaf: Path, tmp_path: Path) -> None:
    three_ways(leaf, tmp_path, 3, 2)


def test_three_ways_to_the_same_silos_on_real_data(tmp_path: Path) -> None:
    folder = os.environ.get("SILOFOLD_FEMNIST")
    if not folder:
        pytest.skip("SILOFOLD_FEMNIST names no folder with leaf_json.tar.xz: real LEAF data is not at hand")
    with tarfile.open(Path(folder) / "leaf_json.tar.xz") as archive:
        archive.extractall(tmp_path / "leaf", filter="data")
    three_ways(tmp_path / "leaf" / "femnist" / "data", tmp_path, 23, 5)


def test_combine_makes_the_tutorials_seven_of_35(femnist: Path, tmp_path: Path) -> None:
    done("combine", femnist, tmp_path / "out", "--users", 35, "--silos", 7)
    users = sorted(path.name for path in femnist.iterdir())[:35]
    datasets = json.loads((tmp_path / "out" / "combine.json").read_text())["datasets"]
    assert [list(found) for found in datasets.values()] == [users[5 * i : 5 * i + 5] for i in range(7)]
    assert list(datasets) == [f"dataset_{i}" for i in range(7)]
    for index, (dataset, found) in enumerate(datasets.items()):
        for split in silo.SPLITS:
            made = {
                str(path.relative_to(tmp_path / "out" / dataset / split))
                for path in (tmp_path / "out" / dataset / split).rglob("*.png")
            }
            raw = {
                f"{path.parent.name}/{user}_{path.name}"
                for user in users[5 * index : 5 * index + 5]
                for path in (femnist / user / split).rglob("*.png")
            }
            assert made == raw
            assert sum(counts[split] for counts in found.values()) == len(raw)
    result = tool("pack", tmp_path / "out", tmp_path / "silos")
    assert "5544" in result.stdout.splitlines()[-2]
    assert "5 test pictures also stand in a train split" in result.stderr


def test_combine_spreads_what_does_not_divide(tree: Path, tmp_path: Path) -> None:
    said = done("combine", tree, tmp_path / "out", "--silos", 3)
    assert "4 users do not divide by 3: 1 datasets have one more" in said
    datasets = json.loads((tmp_path / "out" / "combine.json").read_text())["datasets"]
    assert [len(found) for found in datasets.values()] == [2, 1, 1]
    assert sum(len(list((tmp_path / "out" / name).rglob("*.png"))) for name in datasets) == 48


def test_datasets_are_packed_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    grow(tmp_path / "tree", writers=11, labels=(0,))
    done("combine", tmp_path / "tree", tmp_path / "merged", "--silos", 11)
    done("pack", tmp_path / "merged", tmp_path / "out")
    assert [s.name for s in silo.read_manifest(tmp_path / "out").silos] == [f"dataset_{i}" for i in range(11)]


# ----------------------------------------------------------------------------------------------------------- synthesize


def read_tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.png")}


def test_synthesize_is_a_function_of_its_seed(tmp_path: Path) -> None:
    for name, seed, jobs in (("a", 5, 1), ("b", 5, 2), ("c", 6, 2)):
        options = ("--writers", 5, "--images-per-writer", 60, "--seed", seed, "--jobs", jobs)
        done("synthesize", tmp_path / name, *options)
    first = read_tree(tmp_path / "a")
    assert first == read_tree(tmp_path / "b")
    assert not set(first.values()) & set(read_tree(tmp_path / "c").values())
    assert {Path(name).parts[2] for name in first if Path(name).parts[1] == "train"} == {str(k) for k in range(62)}
    share = sum(Path(name).parts[1] == "train" for name in first) / len(first)
    assert 0.85 < share < 0.93
    for content in list(first)[:20]:
        with Image.open(tmp_path / "a" / content) as image:
            assert (image.mode, image.size) == ("L", (28, 28))
            pixels = np.asarray(image)
        assert pixels.min() < 110
        assert np.median(pixels) == 255
    writers = [json.dumps(sorted(Path(n).parts[2] for n in first if n.startswith(f"synth_000{w}"))) for w in range(5)]
    assert len(set(writers)) == 5


def test_synthetic_classes_can_be_learnt_across_writers_but_not_trivially(tmp_path: Path) -> None:
    """Nearest neighbour among other writers: far above the 5 % of the commonest class, far from perfect."""
    done("synthesize", tmp_path / "tree", "--writers", 12, "--images-per-writer", 150, "--seed", 1)
    done("pack", tmp_path / "tree", tmp_path / "out", "--silos", 2, "--size", 10)
    (seen, new) = (found for _, split, found in splits(tmp_path / "out") if split == "train")
    near, far = (found.images.reshape(len(found.images), -1).astype(float) for found in (seen, new))
    nearest = ((near**2).sum(axis=1) - 2 * far @ near.T).argmin(axis=1)
    assert 0.13 < (seen.labels[nearest] == new.labels).mean() < 0.8


# --------------------------------------------------------------------------------------------------------------- verify


def test_verify_praises_a_good_folder(tree: Path, tmp_path: Path) -> None:
    done("pack", tree, tmp_path / "out", "--silos", 2)
    assert "2 silos, 48 pictures, no fault; digest " in done("verify", tmp_path / "out")


def test_verify_tells_every_fault_at_once(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done("pack", tree, out)
    (out / "silo_0000.h5").unlink()
    (out / "silo_0001.h5").write_bytes((out / "silo_0002.h5").read_bytes())
    (out / "silo_0003.h5").write_bytes((out / "silo_0003.h5").read_bytes()[:3000])
    (out / "notes.txt").touch()
    result = tool("verify", out)
    assert (result.returncode, result.stderr) == (1, "")
    for words in (
        "silo_0000.h5: no such file",
        "silo_0001.h5: attribute name: found f0002_00, expected f0001_00",
        "silo_0001.h5: train: sha256 of the data",
        "silo_0003.h5: Unable to synchronously open file (truncated",
        "notes.txt: extra",
    ):
        assert words in result.stdout


def test_duplicates_are_counted_and_told(tree: Path, tmp_path: Path) -> None:
    copies = (
        ("f0000_00/train/0/0_x_9.png", "f0003_00/test/7/7_x_1.png"),
        (
            "f0001_00/train/0/0_x_9.png",
            "f0001_00/test/0/0_x_1.png",
        ),
    )
    for source, target in copies:
        shutil.copyfile(tree / source, tree / target)
    result = tool("pack", tree, tmp_path / "out")
    assert result.returncode == 0
    assert result.stderr == (
        "warning: 2 test pictures also stand in a train split (f0001_00: 1, f0003_00: 1)\n"
        "warning: 1 pictures stand in more than one silo, under the writers f0000_00: 1, f0003_00: 1\n"
    )
    assert [info.duplicates for info in silo.read_manifest(tmp_path / "out").silos] == [0, 1, 0, 1]
    result = tool("verify", tmp_path / "out")
    assert (result.returncode, result.stderr.count("warning: ")) == (0, 2)
    manifest = silo.read_manifest(tmp_path / "out")
    forged = [silo.SiloInfo(s.name, s.file, s.writers, s.train, s.test, duplicates=0) for s in manifest.silos]
    silo.write_manifest(tmp_path / "out", manifest.layout, forged)
    result = tool("verify", tmp_path / "out")
    assert result.returncode == 1
    assert "silo_0003.h5: duplicates: found 1, expected 0" in result.stdout


def test_the_same_writer_in_two_silos(tmp_path: Path) -> None:
    for dataset in ("dataset_0", "dataset_1"):
        for number, split in enumerate(silo.SPLITS):
            home = tmp_path / "tree" / dataset / split / "0"
            home.mkdir(parents=True)
            picture(number + 2 * (dataset == "dataset_1")).save(home / f"f0007_01_0_0_{number}.png")
    result = tool("pack", tmp_path / "tree", tmp_path / "out")
    assert result.returncode == 0
    assert "warning: writer f0007_01 stands in the silos dataset_0, dataset_1" in result.stderr
    with pytest.raises(SchemaError, match="writer f0007_01 stands in the silos dataset_0, dataset_1"):
        silo.read_manifest(tmp_path / "out")
    result = tool("verify", tmp_path / "out")
    assert result.returncode == 1
    assert "writer f0007_01 stands in the silos" in result.stdout


# ------------------------------------------------------------------------------------------------------------ bad input


def _text(name: str) -> Callable[[Path], object]:
    return lambda tree: (tree / name).write_text("no picture")


def _cut(tree: Path) -> None:
    path = tree / "f0001_00" / "train" / "7" / "7_x_9.png"
    path.write_bytes(path.read_bytes()[:300])


def _rename(old: str, new: str) -> Callable[[Path], object]:
    return lambda tree: (tree / old).rename(tree / new)


def _without(*names: str) -> Callable[[Path], object]:
    return lambda tree: list(map(shutil.rmtree, (tree / name for name in names)))


def _deep(tree: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tree / "f0002_00" / "test" / "0" / "0_x_99.png")


BAD_TREES: list[tuple[Callable[[Path], object] | None, tuple[object, ...], tuple[str, ...]]] = [
    (_text("f0001_00/train/0/0_x_1.png"), (), ("f0001_00/train/0/0_x_1.png", "not a readable picture")),
    (_cut, (), ("f0001_00/train/7/7_x_9.png", "not a readable picture")),
    (_deep, (), ("f0002_00/test/0/0_x_99.png", "found 16 bits a channel, expected 8", "convert it")),
    (_rename("f0001_00/train/61", "f0001_00/train/62"), (), ("f0001_00/train/62", "the 62 from 0 to 61")),
    (_text("f0001_00/train/stray.png"), (), ("f0001_00/train/stray.png", "expected only class folders")),
    (_without("f0001_00/train"), (), ("empty silo f0001_00", "no train picture")),
    (_without("f0001_00/test"), (), ("empty silo f0001_00", "no test picture", "--allow-empty-test")),
    (_without("f0001_00/test", "f0001_00/train"), (), ("f0001_00", "neither train nor test")),
    (_without(*(f"f000{number}_00" for number in range(4))), (), ("found neither <writer>",)),
    (None, ("--silos", 5), ("found 4 users for 5 silos",)),
    (None, ("--users", 5), ("found 4 users, expected at least 5",)),
    (None, ("--silos", 0), ("argument --silos", "expected at least 1")),
    (None, ("--size", "big"), ("--size big", "N or HxW")),
    (None, ("--classes", "0,7,,61"), ("--classes", "an empty or a repeated name")),
    (None, ("--classes", "0,7"), ("/61", "expected one of the 2 from 0 to 7")),
]


@pytest.mark.parametrize(("harm", "options", "words"), BAD_TREES)
def test_pack_refuses(
    tree: Path, tmp_path: Path, harm: Callable[[Path], object] | None, options: tuple[object, ...], words: tuple[str, ...]
) -> None:
    if harm:
        harm(tree)
    refused(tool("pack", tree, tmp_path / "out", *options), *words)
    assert not (tmp_path / "out").exists()


def test_names_in_other_alphabets(tree: Path, tmp_path: Path) -> None:
    (tree / "f0001_00").rename(tree / "Łódź")
    words = ["env", "PYTHONIOENCODING=latin-1", *command("pack", tree, tmp_path / "out")]
    result = subprocess.run(words, capture_output=True, timeout=SECONDS, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"\\u0141\xf3d\\u017a" in result.stdout
    assert silo.read_manifest(tmp_path / "out").silos[-1].writers == ("Łódź",)
    (tree / "Łódź").rename(tree / os.fsdecode(b"\xa3\xf3d\xbc"))
    refused(tool("pack", tree, tmp_path / "other"), r"b'\xa3\xf3d\xbc'", "expected UTF-8")


def test_pack_lets_test_be_empty_when_told(tree: Path, tmp_path: Path) -> None:
    shutil.rmtree(tree / "f0001_00" / "test")
    done("pack", tree, tmp_path / "out", "--allow-empty-test")
    assert [info.test.examples for info in silo.read_manifest(tmp_path / "out").silos] == [3, 0, 3, 3]
    done("verify", tmp_path / "out")


def test_missing_input_folder(tmp_path: Path) -> None:
    for name, options in (("pack", ()), ("combine", ("--silos", 2))):
        refused(tool(name, tmp_path / "absent", tmp_path / "out", *options), str(tmp_path / "absent"), "no such folder")
    refused(tool("leaf", tmp_path / "absent", tmp_path / "out"), str(tmp_path / "absent"), "no *.json")
    assert list(tmp_path.iterdir()) == []
    result = tool("verify", tmp_path / "absent")
    assert result.returncode == 1
    assert "no such folder" in result.stdout


def test_output_folder_that_cannot_be_used(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("precious")
    refused(tool("pack", tree, tmp_path / "full"), str(tmp_path / "full"), "not empty, found mine")
    refused(tool("pack", tree, tmp_path / "full" / "mine" / "out"), "mine/out", "Not a directory")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]
    (tmp_path / "empty").mkdir()
    done("pack", tree, tmp_path / "empty")
    _cut(tree)
    (tmp_path / "kept").mkdir()
    refused(tool("pack", tree, tmp_path / "kept"), "not a readable picture")
    assert list((tmp_path / "kept").iterdir()) == []


def test_combine_refuses(tree: Path, tmp_path: Path) -> None:
    refused(tool("combine", tree, tmp_path / "out", "--silos", 5), "found 4 users for 5 silos")
    refused(tool("combine", tree, tmp_path / "out", "--silos", 2, "--users", 9), "found 4 users, expected at least 9")
    refused(tool("combine", tree, tmp_path / "out"), "--silos")
    (tree / "f0001_00").rename(tree / "f0000")
    refused(tool("combine", tree, tmp_path / "out", "--silos", 2), "users f0000 and f0000_00")
    assert not (tmp_path / "out").exists()
    (tree / "f0000").rename(tree / "f0001_00")
    done("combine", tree, tmp_path / "merged", "--silos", 2)
    refused(tool("combine", tmp_path / "merged", tmp_path / "out", "--silos", 2), "found combined data")
    refused(tool("pack", tmp_path / "merged", tmp_path / "out", "--silos", 2), "already combined")
    (tmp_path / "merged" / "combine.json").write_text("{")
    refused(tool("pack", tmp_path / "merged", tmp_path / "out"), "combine.json", "truncated")


def test_synthesize_refuses(tmp_path: Path) -> None:
    refused(tool("synthesize", tmp_path / "out", "--writers", 3, "--seed", -1), "--seed", "-1")
    refused(tool("synthesize", tmp_path / "out", "--writers", 0, "--seed", 1), "--writers", "at least 1")
    assert not (tmp_path / "out").exists()


def _json(*path: str | int, value: object) -> Callable[[Any], object]:
    def change(data: Any) -> object:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value
        return data

    return change


BAD_SHARDS: list[tuple[Callable[[Any], object] | int, tuple[str, ...]]] = [
    (500, ("truncated",)),
    (0, ("truncated",)),
    (_json("user_data", "c", "y", value=[62]), ("user c", "label 62", "0 to 61")),
    (_json("user_data", "c", "y", value=[]), ("user c", "found 0 labels, expected 1")),
    (_json("user_data", "c", "y", value=["3"]), ("Expected `int`, got `str`",)),
    (_json("user_data", "c", "x", 0, 9, value=0.5), ("user c", "found", "0.5", "expected u8/255")),
    (_json("user_data", "c", "x", 0, 9, value=2), ("user c", "2.0", "expected u8/255")),
    (_json("user_data", "c", "x", 0, 9, value=None), ("user c", "Expected `float`, got `null`")),
    (_json("user_data", "c", "x", 0, value=[0.0] * 783), ("user c", "picture 0: found 783 numbers, expected 784")),
    (_json("user_data", "c", "x", value=[]), ("user c",)),
    (_json("user_data", "c", value={"y": [3]}), ("missing required field `x`",)),
    (_json("users", value=["b"]), ("users and user_data name different users",)),
    (_json("num_samples", value=[4]), ("found 1 num_samples, expected 2",)),
    (_json("user_data", value=3), ("Expected `object`, got `int`",)),
    (lambda data: data.pop("num_samples"), ("missing required field `num_samples`",)),
    (
        lambda data: (
            data["users"].append("../d"),
            data["num_samples"].append(0),
            data["user_data"].update({"../d": {"x": [], "y": []}}),
        ),
        ("user '../d'",),
    ),
]


@pytest.mark.parametrize(("harm", "words"), BAD_SHARDS)
def test_leaf_refuses(leaf: Path, tmp_path: Path, harm: Callable[[Any], object] | int, words: tuple[str, ...]) -> None:
    path = leaf / "train" / "all_2.json"
    if isinstance(harm, int):
        path.write_bytes(path.read_bytes()[:harm])
    else:
        data = json.loads(path.read_text())
        harm(data)
        path.write_text(json.dumps(data), encoding="utf-8")
    refused(tool("leaf", leaf, tmp_path / "out"), str(path), *words)
    assert [entry.name for entry in tmp_path.iterdir()] == ["leaf"]


def test_pack_refuses_bad_leaf_data(leaf: Path, tmp_path: Path) -> None:
    refused(tool("pack", leaf, tmp_path / "out", "--classes", "auto"), "--classes auto", "62 classes")
    path = leaf / "test" / "all_2.json"
    path.write_bytes(path.read_bytes()[:-1])
    refused(tool("pack", leaf, tmp_path / "out"), str(path), "truncated")
    path.unlink()
    refused(tool("pack", leaf, tmp_path / "out"), "empty silo a", "no test picture")
    assert [entry.name for entry in tmp_path.iterdir()] == ["leaf"]


# ------------------------------------------------------------------------------------------------- full disk, interrupts


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0 or start(words).returncode != 0:
        pytest.skip("a small tmpfs cannot be mounted here: that takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=SECONDS)


def big_tree(root: Path) -> Path:
    """About 2 MiB of pictures."""
    for number in range(60):
        home = root / f"w{number % 2}" / ("test" if number > 50 else "train") / "0"
        home.mkdir(parents=True, exist_ok=True)
        picture(number, side=200).save(home / f"{number}.png")
    return root


def test_full_disk(tmp_path: Path, small_disk: Path) -> None:
    tree = big_tree(tmp_path / "tree")
    runs: list[tuple[str, tuple[object, ...]]] = [
        ("pack", (tree, small_disk / "out", "--size", 200)),
        ("pack", (tree, small_disk, "--size", 200)),
        ("combine", (tree, small_disk / "out", "--silos", 1)),
        ("synthesize", (small_disk / "out", "--writers", 6, "--seed", 1)),
    ]
    for name, arguments in runs:
        refused(tool(name, *arguments), str(small_disk), "No space left on device")
        assert list(small_disk.iterdir()) == [], name


def test_full_disk_from_leaf(leaf: Path, tmp_path: Path, small_disk: Path) -> None:
    for number in range(8):
        labels = [number] * 200
        shard(leaf / "train" / f"more_{number}.json", {f"u{number}": scribble(number, labels)})
    for name in ("leaf", "pack"):
        refused(tool(name, leaf, small_disk / "out"), str(small_disk), "No space left on device")
        assert list(small_disk.iterdir()) == [], name
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["leaf", "small"]


def test_limit_on_file_size(tmp_path: Path) -> None:
    """Needs no root: the system cuts a file off, as a quota does."""
    tree = big_tree(tmp_path / "tree")
    limited = ["sh", "-c", 'ulimit -f 400; exec "$@"', "sh"]
    refused(start([*limited, *command("pack", tree, tmp_path / "out", "--size", 200)]), "silo_000", "File too large")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_nothing(tmp_path: Path, name: signal.Signals) -> None:
    words = command("synthesize", tmp_path / "out", "--writers", 3000, "--seed", 1)
    with mpirun.started(words) as process:
        limit = time.monotonic() + SECONDS
        while not list(tmp_path.glob("out/.partial/*")) and time.monotonic() < limit:
            time.sleep(0.02)
        # As a terminal does: to every process of the group.
        os.killpg(process.pid, name)
        _, said = process.communicate(timeout=SECONDS)
    assert (process.returncode, said) == (130, "error: interrupted, nothing was kept\n")
    assert list(tmp_path.iterdir()) == []


def test_killed_process_is_named_as_such(tmp_path: Path) -> None:
    words = command("synthesize", tmp_path / "out", "--writers", 3000, "--seed", 1, "--jobs", 2)
    with mpirun.started(words) as process:
        limit = time.monotonic() + SECONDS
        while not list(tmp_path.glob("out/.partial/*")) and time.monotonic() < limit:
            time.sleep(0.02)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
        os.kill(int(children[0]), signal.SIGKILL)
        _, said = process.communicate(timeout=SECONDS)
    assert said == "error: a process of this tool was killed, out of memory perhaps; try fewer --jobs [tool-killed]\n"
    assert process.returncode == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["synthesize", "leaf", "combine", "pack", "verify"])
def test_help_stands_alone_in_any_folder(tmp_path: Path, name: str) -> None:
    result = start(command(name, "--help"), cwd=tmp_path)
    assert result.returncode == 0
    assert f"usage: {name}.py" in result.stdout
