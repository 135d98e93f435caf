"""Every form in which pictures come gives the same silos, and each pixel is that of an independent decode."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import doors
from doors import COLUMNS, FOLD, silofold
from silofold.data import silo

SIZE = ("--size", doors.SIDE, "--jobs", 1)
NAMED = ("--classes", ",".join(doors.CLASSES))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree, packed."""
    root = tmp_path_factory.mktemp("tree")
    doors.tree(root / "tree")
    assert silofold("pack", root / "tree", root / "silos", "--classes", "auto", *SIZE) == 0
    return root / "silos"


def same(out: Path, packed: Path) -> None:
    found, expected = silo.read_manifest(out), silo.read_manifest(packed)
    assert found.digest == expected.digest
    assert [(one.name, one.writers, one.train.sha256) for one in found.silos] == [
        (one.name, one.writers, one.train.sha256) for one in expected.silos
    ]
    assert found.schema == 1
    assert silo.full_faults(out)[0] == []


def test_the_tree_is_what_pillow_decodes(packed: Path) -> None:
    manifest = silo.read_manifest(packed)
    for info in manifest.silos:
        for split in silo.SPLITS:
            mine = [row for row in doors.rows() if (row.silo, row.split) == (info.name, split)]
            expected = sorted((doors.CLASSES.index(row.label), row.number) for row in mine)
            found = silo.read_split(packed, info, split, manifest)
            assert found.labels.tolist() == [label for label, _ in expected]
            assert np.array_equal(found.images, np.stack([doors.image(number) for _, number in expected]))


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_table_gives_the_same_silos(tmp_path: Path, packed: Path, suffix: str) -> None:
    flat, labels = doors.flat(tmp_path / "images"), doors.table(tmp_path / f"labels{suffix}")
    assert silofold("pack", flat, tmp_path / "out", "--labels", labels, *COLUMNS, *FOLD, *SIZE) == 0
    same(tmp_path / "out", packed)


def test_the_order_of_rows_is_of_no_account(tmp_path: Path, packed: Path) -> None:
    lines = [doors.cells(row) for row in doors.rows()]
    np.random.default_rng(1).shuffle(lines)
    labels = doors.table(tmp_path / "labels.csv", lines)
    flat = doors.flat(tmp_path / "images")
    assert silofold("pack", flat, tmp_path / "out", "--labels", labels, *COLUMNS, *FOLD, *SIZE, "--jobs", 2) == 0
    same(tmp_path / "out", packed)


@pytest.mark.parametrize("make", [doors.npz, doors.h5], ids=["npz", "h5"])
def test_arrays_give_the_same_silos(tmp_path: Path, packed: Path, make: object) -> None:
    path = make(tmp_path / f"set.{getattr(make, '__name__')}")  # type: ignore[operator]  # noqa: B009
    words = ("--silo", "silo", "--group", "silo", "--fold", "split", "--jobs", 1)
    assert silofold("pack", path, tmp_path / "out", *words) == 0
    same(tmp_path / "out", packed)


def test_a_pair_of_npy_files(tmp_path: Path) -> None:
    arrays = doors.arrays()
    np.save(tmp_path / "x.npy", arrays["images"])
    np.save(tmp_path / "y.npy", arrays["labels"])
    words = ("--labels", tmp_path / "y.npy", "--split", "0.5,0.25,0.25", "--name", "one", "--jobs", 1)
    assert silofold("pack", tmp_path / "x.npy", tmp_path / "out", *words) == 0
    (info,) = silo.read_manifest(tmp_path / "out").silos
    assert (info.name, info.train.examples, info.test.examples, info.validation and info.validation.examples) == (
        "one",
        24,
        12,
        12,
    )


def parquet(root: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    doors.flat(root / "images")
    for split in ("train", "test"):
        of_split = [row for row in doors.rows() if row.split == split]
        pictures = [{"bytes": (root / "images" / doors.name(row)).read_bytes(), "path": doors.name(row)} for row in of_split]
        columns = {"image": pictures, "label": [int(row.label) for row in of_split], "who": [row.silo for row in of_split]}
        (root / "set").mkdir(exist_ok=True)
        files.write_table(pyarrow.table(columns), root / "set" / f"{split}-00000-of-00001.parquet", row_group_size=5)
    return root / "set"


def test_parquet_gives_the_same_silos(tmp_path: Path, packed: Path) -> None:
    words = ("--silo", "who", "--group", "who", *SIZE)
    assert silofold("pack", parquet(tmp_path), tmp_path / "out", *words) == 0
    same(tmp_path / "out", packed)


def test_a_table_in_parquet(tmp_path: Path, packed: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    lines = [doors.cells(row) for row in doors.rows()]
    columns = dict(zip(doors.HEAD, map(list, zip(*lines, strict=True)), strict=True))
    files.write_table(pyarrow.table(columns), tmp_path / "labels.parquet")
    flat = doors.flat(tmp_path / "images")
    words = ("--labels", tmp_path / "labels.parquet", *COLUMNS, *FOLD, *SIZE)
    assert silofold("pack", flat, tmp_path / "out", *words) == 0
    same(tmp_path / "out", packed)


def test_leaf_gives_the_same_silos(tmp_path: Path, packed: Path) -> None:
    assert silofold("pack", doors.leaf(tmp_path / "leaf"), tmp_path / "out", *SIZE) == 0
    found, expected = silo.read_manifest(tmp_path / "out"), silo.read_manifest(packed)
    for one, other in zip(found.silos, expected.silos, strict=True):
        images = [silo.read_split(folder, info, "train", manifest).images for folder, info, manifest in
                  ((tmp_path / "out", one, found), (packed, other, expected))]  # fmt: skip
        assert np.array_equal(images[0], images[1])


def test_a_folder_of_silos_gives_itself(tmp_path: Path, packed: Path) -> None:
    assert silofold("pack", packed, tmp_path / "out", "--jobs", 1) == 0
    same(tmp_path / "out", packed)


@pytest.mark.parametrize("splits", [True, False])
def test_class_folders(tmp_path: Path, splits: bool) -> None:  # noqa: FBT001
    for row in doors.rows():
        path = tmp_path / "set" / (row.split if splits else "") / row.label / doors.name(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(doors.image(row.number)).save(path)
    more = () if splits else ("--split", "0.75,0,0.25")
    assert silofold("pack", tmp_path / "set", tmp_path / "out", *SIZE, *more) == 0
    manifest = silo.read_manifest(tmp_path / "out")
    (info,) = manifest.silos
    assert (manifest.classes, info.name, info.train.examples, info.test.examples) == (doors.CLASSES, "set", 36, 12)
    assert info.test.histogram == (4, 4, 4)


def test_renames_and_suffixes(tmp_path: Path) -> None:
    flat = doors.flat(tmp_path / "images")
    lines = [[doors.name(row)[:-4], *doors.cells(row)[1:]] for row in doors.rows()]
    labels = doors.table(tmp_path / "labels.csv", lines)
    (tmp_path / "renames.csv").write_text("from,to\n1,benign\n20,melanoma\n")
    words = ("--labels", labels, *COLUMNS, *FOLD, "--suffix", ".png", "--map", tmp_path / "renames.csv", *SIZE)
    assert silofold("pack", flat, tmp_path / "out", *words) == 0
    assert silo.read_manifest(tmp_path / "out").classes == ("3", "benign", "melanoma")


def test_sizes_fits_and_colours(tmp_path: Path) -> None:
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 10:30] = (200, 100, 50)
    for split in ("train", "test"):
        (tmp_path / "set" / split / "a").mkdir(parents=True)
        Image.fromarray(wide).save(tmp_path / "set" / split / "a" / "0.png")
    found = {}
    for fit in ("squash", "pad", "crop"):
        out = tmp_path / fit
        assert silofold("pack", tmp_path / "set", out, "--size", "20x20", "--mode", "RGB", "--fit", fit, "--jobs", 1) == 0
        manifest = silo.read_manifest(out)
        assert manifest.interpolation == ("bilinear" if fit == "squash" else f"bilinear, {fit}")
        found[fit] = silo.read_split(out, manifest.silos[0], "train", manifest).images[0]
    assert np.array_equal(found["squash"], np.asarray(Image.fromarray(wide).resize((20, 20), Image.Resampling.BILINEAR)))
    assert (found["crop"] == (200, 100, 50)).all()
    assert not found["pad"][:5].any()
    assert np.array_equal(found["pad"][5:15], np.asarray(Image.fromarray(wide).resize((20, 10), Image.Resampling.BILINEAR)))
    assert silofold("pack", tmp_path / "set", tmp_path / "like", "--like", tmp_path / "pad", "--jobs", 1) == 0
    assert silo.read_manifest(tmp_path / "like").digest == silo.read_manifest(tmp_path / "pad").digest


def test_sixteen_bits_over_a_range(tmp_path: Path) -> None:
    values = np.array([[0, 100], [1000, 2000], [3000, 4095], [5000, 65535]], np.uint16)
    expected = np.clip(np.rint((values.astype(float) - 100) * 255 / 3995), 0, 255)
    for split in ("train", "test"):
        (tmp_path / "set" / split / "a").mkdir(parents=True)
        Image.fromarray(values).save(tmp_path / "set" / split / "a" / "0.png")
    np.savez(tmp_path / "set.npz", x_train=values[None], y_train=[0], x_test=values[None, :, :, None][..., 0], y_test=[0])
    for source in ("set", "set.npz"):
        out = tmp_path / f"out_{source}"
        assert silofold("pack", tmp_path / source, out, "--size", "4x2", "--range", "100,4095", "--jobs", 1) == 0
        manifest = silo.read_manifest(out)
        assert np.array_equal(silo.read_split(out, manifest.silos[0], "train", manifest).images[0], expected)


def test_nothing_is_ever_unpickled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Bad:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (open, (str(tmp_path / "harmed"),))

    bad = np.array([Bad()], object)
    np.savez(tmp_path / "set.npz", images=bad, labels=np.zeros(1))
    (tmp_path / "set.npy").write_bytes(pickle.dumps("no array"))
    np.save(tmp_path / "y.npy", [1])
    doors.refused(capsys, tmp_path / "out", ("pack", tmp_path / "set.npz", tmp_path / "out"), "objects are never read")
    words = ("pack", tmp_path / "set.npy", tmp_path / "out", "--labels", tmp_path / "y.npy")
    doors.refused(capsys, tmp_path / "out", words, "set.npy", "expected a NumPy array")
    assert not (tmp_path / "harmed").exists()


def test_the_example_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[3] / "data_tools" / "README.md").read_text(encoding="utf-8")
    (code,) = [block.partition("```")[0] for block in page.split("```python\n")[1:]]
    doors.flat(tmp_path / "images")
    lines = [[*doors.cells(row)[:3], f"{row.silo}_{row.number % 2}", row.split] for row in doors.rows()]
    doors.table(tmp_path / "labels.csv", lines)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "data_tools/README.md", "exec"), {})  # noqa: S102
    manifest = silo.read_manifest(tmp_path / "silos")
    assert capsys.readouterr().out.startswith(manifest.digest)
    assert [(info.examples, sorted((info.train.examples, info.test.examples))) for info in manifest.silos] == [
        (12, [4, 8])
    ] * 4
