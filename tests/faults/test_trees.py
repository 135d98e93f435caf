"""Trees of pictures and LEAF shards out of which something would be lost, doubled or misread, through the data tools."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

import pictures
from silofold.core.errors import SilofoldError
from silofold.data import silo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOOLS = Path(__file__).parents[2] / "data_tools"
PLACE = "ada/train/0/0.png"


Result = subprocess.CompletedProcess[str]


def whole(name: str, *words: object) -> Result:
    """Run a tool as users do."""
    command = [sys.executable, "-W", "error", str(TOOLS / f"{name}.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def tool(name: str, *words: object) -> Result:
    """Run a tool within this process, which takes a tenth of the time."""
    out, err = io.StringIO(), io.StringIO()
    arguments = [f"{name}.py", *map(str, words), "--jobs", "1"]
    with (
        patch.object(sys, "path", [*sys.path, str(TOOLS)]),
        patch.object(sys, "argv", arguments),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            code = importlib.import_module(name).main()
        except SilofoldError as error:
            code = 2
            err.write(f"error: {error}\n")
    return Result(arguments, code, out.getvalue(), err.getvalue())


def refused(result: Result, *words: str) -> None:
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result
    for word in ("error: ", *words):
        assert word in result.stderr


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two writers with two pictures of each of two classes in each split."""
    root, seed = tmp_path / "tree", 0
    for writer in ("ada", "ben"):
        for split in silo.SPLITS:
            for label in ("0", "1"):
                (root / writer / split / label).mkdir(parents=True)
                for number in range(2):
                    pictures.scene(seed, "L").save(root / writer / split / label / f"{number}.png")
                    seed += 1
    return root


def _put(data: bytes) -> Callable[[Path], object]:
    return lambda tree: (tree / PLACE).write_bytes(data)


def _rename(old: str, new: str) -> Callable[[Path], object]:
    return lambda tree: (tree / old).rename(tree / new)


def _folder(name: str) -> Callable[[Path], object]:
    return lambda tree: (tree / name).mkdir(parents=True)


def _fifo(tree: Path) -> None:
    (tree / PLACE).unlink()
    os.mkfifo(tree / PLACE)


def _linked(target: str, name: str = PLACE) -> Callable[[Path], object]:
    def change(tree: Path) -> None:
        (tree / name).unlink(missing_ok=True)
        (tree / name).symlink_to(target)

    return change


def _many(tree: Path) -> None:
    for number in range(9000):
        (tree / "ada/train" / f"c{number}").mkdir()


GIF = pictures.saved(pictures.scene(1), "gif", save_all=True, append_images=[pictures.scene(2)])
DEEP = pictures.png(2, 2, 16, 2, pixels=bytes(26))
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
TREES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "fifo": (_fifo, (PLACE, "regular file")),
    "device": (_linked("/dev/zero"), (PLACE, "regular file")),
    "169 megapixels": (_put(pictures.png(13000, 13000, pixels=bytes(13001 * 1300))), (PLACE, "13000x13000 pixels")),
    "cut by 20 bytes": (_put(pictures.saved(pictures.scene(), "png")[:-20]), (PLACE, "cut short")),
    "frames": (_put(GIF), (PLACE, "several pictures")),
    "16 bits": (_put(DEEP), (PLACE, "16 bits", "convert it to 8 bits first")),
    "postscript": (_put(EPS), (PLACE, "expected PNG, JPEG")),
    "val": (_folder("ben/val"), ("ben", "val", "train and test alone")),
    "Train": (_folder("ben/Train"), ("ben", "Train")),
    "validation": (_folder("ada/validation/0"), ("ada", "validation")),
    "TEST": (_folder("ada/TEST"), ("ada", "TEST")),
    "a picture beside train": (lambda tree: shutil.copy(tree / PLACE, tree / "ada" / "1.JPG"), ("ada", "1.JPG")),
    "a picture beside writers": (lambda tree: shutil.copy(tree / PLACE, tree / "1.png"), ("1.png", "only folders")),
    "hidden writer": (_rename("ada", ".ada"), (".ada", "hidden")),
    "hidden class": (_rename("ada/train/0", "ada/train/.0"), ("ada/train/.0", "hidden")),
    "a writer of a system's name": (_rename("ada", "__MACOSX"), ("__MACOSX", "rename or move it away")),
    "a class of a system's name": (_rename("ada/train/0", "ada/train/lost+found"), ("lost+found", "rename or move it away")),
    "a file among classes": (lambda tree: (tree / "ada/train/notes.txt").touch(), ("notes.txt", "only class folders")),
    "a link to itself": (_linked("loop", "ada/train/loop"), ("ada/train/loop",)),
    "a class folder that is its parent": (_linked(".", "ada/train/1/x"), ("ada/train/1/x", "regular file")),
    "more classes than a file can hold": (
        _many,
        ("found 9002 classes, expected at most",),
    ),
}


@pytest.mark.parametrize("name", TREES)
def test_trees_are_refused_by_name(tree: Path, tmp_path: Path, name: str) -> None:
    harm, words = TREES[name]
    harm(tree)
    run = whole if name in {"fifo", "frames", "a link to itself"} else tool
    refused(run("pack", tree, tmp_path / "out", "--classes", "auto"), *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cat", "Cat"),
        ("7", "07"),
        ("caf\u00e9", "cafe\u0301"),
        ("stra\u00dfe", "strasse"),
        ("a b", "a  b"),
        ("a", "a "),
        ("ab", "a\u200bb"),
    ],
)
def test_classes_that_may_be_one_are_refused(tree: Path, tmp_path: Path, one: str, other: str) -> None:
    for split in silo.SPLITS:
        (tree / "ada" / split / "0").rename(tree / "ada" / split / one)
        (tree / "ben" / split / "0").rename(tree / "ben" / split / other)
    refused(tool("pack", tree, tmp_path / "out", "--classes", "auto"), ascii(one), ascii(other))
    result = tool("pack", tree, tmp_path / "out", "--classes", f"{one},{other},1")
    assert (result.returncode, result.stderr) == (0, "")
    assert silo.read_manifest(tmp_path / "out").classes == (one, other, "1")


def test_pictures_are_packed_upright(tree: Path, tmp_path: Path) -> None:
    data = pictures.saved(pictures.scene(mode="L"), "png", exif=pictures.orientation(3))
    (tree / PLACE).write_bytes(data)
    assert tool("pack", tree, tmp_path / "out", "--size", 24).returncode == 0
    manifest = silo.read_manifest(tmp_path / "out")
    found = silo.read_split(tmp_path / "out", manifest.silos[0], "train", manifest).images[0]
    upright = pictures.scene(mode="L").transpose(Image.Transpose.ROTATE_180)
    np.testing.assert_array_equal(found, np.asarray(upright.resize((24, 24), Image.Resampling.BILINEAR)))


def test_one_writer_under_two_names_is_told(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree / "ada", tree / "ada01")
    shutil.copytree(tree / "ben", tree / "Ben")
    result = tool("pack", tree, tmp_path / "out")
    assert result.returncode == 0
    lines = result.stderr.splitlines()
    assert "warning: writers 'Ben' and 'ben' differ by case, leading zeros, blanks or Unicode form alone" in lines
    told = "warning: 16 pictures stand in more than one silo, under the writers Ben: 8, ada: 8, ada01: 8, ben: 8"
    assert told in lines


def test_names_reach_no_terminal_as_they_are(tree: Path, tmp_path: Path) -> None:
    (tree / "ada").rename(tree / "ada\nerror: forged\x1b[31m")
    shown = "ada\\nerror: forged\\x1b[31m"
    result = tool("pack", tree, tmp_path / "out")
    assert result.returncode == 0
    table = next(line for line in result.stdout.splitlines() if line.startswith(shown))
    assert len({line.index("silo_0") for line in result.stdout.splitlines() if "silo_0" in line}) == 1, table
    assert shown in tool("combine", tree, tmp_path / "merged", "--users", 2, "--silos", 1).stdout
    with (tmp_path / "out" / "silo_0000.h5").open("r+b") as file:
        file.truncate(100)
    (tmp_path / "out").rename(tmp_path / "out\nno fault")
    told = whole("verify", tmp_path / "out\nno fault")
    assert (told.returncode, "\nno fault" in told.stdout) == (1, False), told


def test_warnings_of_pillow_are_one_line(tree: Path, tmp_path: Path) -> None:
    damaged = pictures.saved(pictures.scene(), "jpeg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(40))
    (tree / PLACE).write_bytes(damaged)
    clear = pictures.saved(pictures.scene().quantize(16), "png", transparency=bytes(16))
    (tree / "ada/train/1/0.png").write_bytes(clear)
    result = whole("pack", tree, tmp_path / "out")
    assert (result.returncode, result.stderr.count("\n")) == (0, 1), result
    assert result.stderr.startswith("warning: 1 pictures were packed although something is wrong with them; the first: ")
    assert f"{tree / PLACE}: Corrupt EXIF data" in result.stderr


def test_combine_does_not_wait_for_a_fifo(tree: Path, tmp_path: Path) -> None:
    _fifo(tree)
    refused(tool("combine", tree, tmp_path / "out", "--silos", 1), PLACE, "regular file")
    (tree / PLACE).unlink()
    (tree / PLACE).symlink_to("/dev/zero")
    refused(tool("combine", tree, tmp_path / "out", "--silos", 1), PLACE, "regular file")


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b'{"source": "a", "order": "b", "datasets": {"dataset_0": 3}}', b"\xff", b"fifo"]
)
def test_combine_json_is_guarded(tree: Path, tmp_path: Path, text: bytes) -> None:
    assert tool("combine", tree, tmp_path / "merged", "--silos", 1).returncode == 0
    path = tmp_path / "merged" / "combine.json"
    path.write_bytes(text)
    if text == b"fifo":
        path.unlink()
        os.mkfifo(path)
    refused(tool("pack", tmp_path / "merged", tmp_path / "out"), str(path))


LEFT = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", ".Trash-1000", ".ipynb_checkpoints")
FILES = (".DS_Store", "._0.png", "._ada", "Thumbs.db", "thumbs.db", "desktop.ini", "ehthumbs.db", "Icon\r", ".directory")


def _leave_behind(root: Path) -> None:
    """Put everywhere what archives, desktops and file servers leave."""
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        for name in FILES:
            (folder / name).write_bytes(b"\0\5\x16\7")
        for name in LEFT:
            (folder / name).mkdir()
    mirror = root / "__MACOSX"
    for path in [path for path in root.rglob("*.png") if not path.name.startswith(".")]:
        beside = mirror / path.relative_to(root).parent
        beside.mkdir(parents=True, exist_ok=True)
        (beside / f"._{path.name}").write_bytes(b"\0\5\x16\7")
        thumbnail = path.parent / "@eaDir" / path.name / "SYNOPHOTO_THUMB_M.jpg"
        thumbnail.parent.mkdir()
        thumbnail.write_bytes(pictures.saved(pictures.scene(), "jpeg"))


def test_what_archives_and_desktops_leave_is_left_out(tree: Path, tmp_path: Path) -> None:
    assert tool("pack", tree, tmp_path / "clean", "--classes", "auto").returncode == 0
    _leave_behind(tree)
    result = tool("pack", tree, tmp_path / "out", "--classes", "auto")
    assert (result.returncode, result.stderr) == (0, "")
    assert silo.read_manifest(tmp_path / "out") == silo.read_manifest(tmp_path / "clean")
    assert tool("combine", tree, tmp_path / "merged", "--silos", 1).returncode == 0
    names = {path.name for path in (tmp_path / "merged").rglob("*") if path.is_file()}
    assert not [name for name in names if not name.startswith(("ada_", "ben_", "combine"))]
    _leave_behind(tmp_path / "merged")
    assert tool("pack", tmp_path / "merged", tmp_path / "again", "--classes", "auto").returncode == 0


# ------------------------------------------------------------------------------------------------------------ LEAF shards


def shard(users: dict[str, int]) -> dict[str, Any]:
    rng = np.random.default_rng(len(users))
    data = {
        user: {"x": (rng.integers(0, 256, (size, 784)) / 255).tolist(), "y": [number % 62 for number in range(size)]}
        for user, size in users.items()
    }
    return {"users": list(users), "num_samples": list(users.values()), "user_data": data}


@pytest.fixture
def leaf(tmp_path: Path) -> Path:
    for split, users in (("train", {"a": 2, "b": 1}), ("test", {"a": 1, "b": 2})):
        (tmp_path / "leaf" / split).mkdir(parents=True)
        (tmp_path / "leaf" / split / "all_data_0.json").write_text(json.dumps(shard(users)))
    return tmp_path / "leaf"


def _value(value: str) -> Callable[[str], str]:
    """Put a value in place of the first number of the first picture."""

    def change(text: str) -> str:
        start = text.index('"x": [[') + len('"x": [[')
        return text[:start] + value + text[text.index(",", start) :]

    return change


def _x(value: str) -> Callable[[str], str]:
    """Put a value in place of the first list of pictures."""
    return lambda text: re.sub(r'"x": \[\[.*?\]\]', f'"x": {value}', text, count=1)


def _more(text: str) -> str:
    start, end = text.index("[["), text.index("]]")
    return f"{text[: end + 1]}, {text[start + 1 : end + 1]}{text[end + 1 :]}"


def _as(users: dict[str, int]) -> Callable[[str], str]:
    return lambda text: json.dumps(shard(users)) if text else text


def _swap(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new)


SHARDS: dict[str, tuple[Callable[[str], str], tuple[str, ...]]] = {
    "nan": (_value("NaN"), ("JSON",)),
    "infinity": (_value("Infinity"), ("JSON",)),
    "1e400": (_value("1e400"), ("user a", "out of range")),
    "1e308": (_value("1e308"), ("user a", "found 1e+308, expected u8/255")),
    "a text of pictures": (_x('"' + "[0.5]," * 700 + '"'), ("user a", "no list of pictures")),
    "a number": (_x("5"), ("user a", "fewer pictures than")),
    "lists in lists": (_x("[[[0.5" + " " * 4000 + "]]]"), ("user a", "Expected `float`, got `array`")),
    "a picture without end": (_x("[[0.5" + " " * 10**6 + "]]"), ("user a", "picture 0: found 524288 bytes and more")),
    "a picture too many": (_more, ("user a", "found more pictures than 2 labels")),
    "negative": (_value("-0.5"), ("user a", "found -0.5, expected u8/255")),
    "too large": (_value("255.0"), ("user a", "found 255.0, expected u8/255")),
    "text": (_value('"0"'), ("user a", "Expected `float`, got `str`")),
    "deep": (_value("[" * 100_000), ("all_data_0.json",)),
    "huge count": (
        lambda text: text.replace('"num_samples": [2', '"num_samples": [99999999999999999999'),
        ("user a", "found 2"),
    ),
    "negative count": (lambda text: text.replace('"num_samples": [2', '"num_samples": [-2'), ("user a", "expected -2")),
    "negative label": (lambda text: text.replace('"y": [0, 1]', '"y": [0, -1]'), ("user a", "found label -1")),
    "user twice": (
        lambda text: text.replace('"user_data": {', '"user_data": {"a": {"x": [], "y": []}, '),
        ("each user once",),
    ),
    "hidden user": (_as({".x": 1, "b": 1}), ("user '.x'", "no dot in front")),
    "user of a system's name": (_as({"__MACOSX": 1, "b": 1}), ("user '__MACOSX'", "none that a system uses")),
    "long name": (_as({"n" * 250: 1, "b": 1}), ("nnn", "at most 200 bytes")),
    "no user": (_as({}), ("found no user",)),
    "empty user": (_as({"a": 1, "b": 1, "c": 0}), ("user c", "found no picture in any shard")),
}


@pytest.mark.parametrize("name", SHARDS)
def test_shards_are_refused_by_file_and_user(leaf: Path, tmp_path: Path, name: str) -> None:
    harm, words = SHARDS[name]
    for path in leaf.rglob("*.json") if name == "no user" else [leaf / "train" / "all_data_0.json"]:
        path.write_text(harm(path.read_text()))
    run = whole if name in {"deep", "no user"} else tool
    refused(run("leaf", leaf, tmp_path / "out"), str(leaf), *words)
    refused(tool("pack", leaf, tmp_path / "silos"), str(leaf), *words)


def test_a_user_may_lack_pictures_in_one_split(leaf: Path, tmp_path: Path) -> None:
    (leaf / "test" / "all_data_0.json").write_text(json.dumps(shard({"a": 1, "b": 0})))
    assert tool("leaf", leaf, tmp_path / "tree").returncode == 0
    assert tool("pack", leaf, tmp_path / "silos", "--allow-empty-test").returncode == 0
    assert [info.test.examples for info in silo.read_manifest(tmp_path / "silos").silos] == [1, 0]


def test_what_archives_leave_beside_shards_is_left_out(leaf: Path, tmp_path: Path) -> None:
    _leave_behind(leaf)
    (leaf / "__MACOSX" / "train").mkdir()
    (leaf / "train" / "._all_data_0.json").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    assert tool("leaf", leaf, tmp_path / "tree").returncode == 0
    assert tool("pack", leaf, tmp_path / "silos").returncode == 0


def test_a_shard_that_stands_there_twice_is_refused(leaf: Path, tmp_path: Path) -> None:
    shutil.copy(leaf / "train" / "all_data_0.json", leaf / "train" / "all_data_0 copy.json")
    refused(tool("leaf", leaf, tmp_path / "tree"), "user a", "all_data_0 copy.json", "the same pictures")


def test_other_splits_beside_leafs_are_refused(leaf: Path, tmp_path: Path) -> None:
    shutil.copytree(leaf / "test", leaf / "validation")
    refused(tool("pack", leaf, tmp_path / "silos"), "validation", "beside train and test")


# -------------------------------------------------------------------------------------------------------------- free space


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    folder, mount = tmp_path / "small", shutil.which("mount")
    folder.mkdir()
    words = [mount or "", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if mount is None or os.geteuid() != 0 or subprocess.run(words, capture_output=True, check=False, timeout=60).returncode:
        pytest.skip("a small tmpfs cannot be mounted here: that takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=60)


def test_what_does_not_fit_is_refused_before_space_is_taken(tree: Path, small: Path) -> None:
    """A watcher would see the disk full for a moment; here a limit on the file's size stands for it and is not met."""
    command = [sys.executable, str(TOOLS / "pack.py"), str(tree), str(small / "out"), "--size", "4000", "--jobs", "1"]
    shell = ["sh", "-c", 'ulimit -f 4096; exec "$@"', "sh", *command]  # blocks of 512 bytes
    result = subprocess.run(shell, capture_output=True, text=True, timeout=60, check=False)
    refused(result, "silo_0000.h5", "needs 128", "bytes, found 167", "free")
    assert list(small.iterdir()) == []
