"""The silo file and its manifest: round trips, the digest by its definition, and every kind of damage."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import resource
import time
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from silofold.core.errors import SchemaError
from silofold.data import silo, silo_bytes
from silofold.data.silo import MANIFEST, SPLITS, Layout, Manifest, SiloInfo, SplitInfo, SplitStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LAYOUT = Layout(("a", "b", "ç"), (4, 5), "bilinear", "drawn by a test")


def batch(size: int, seed: int, layout: Layout = LAYOUT, writers: int = 2) -> silo.Batch:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (size, *layout.image_shape), np.uint8)
    labels = rng.integers(0, len(layout.classes), size, np.int32)
    return images, labels, rng.integers(0, writers, size, np.int32)


def cut(whole: silo.Batch, piece: int) -> SplitStream:
    starts = range(0, len(whole[0]), piece)
    images, labels, writer = whole
    parts = [(images[a : a + piece], labels[a : a + piece], writer[a : a + piece]) for a in starts]
    return SplitStream(len(images), parts)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two silos of two writers: 7 and 8 train pictures, 3 and 4 test pictures."""
    infos = [
        silo.write_silo(
            tmp_path / f"silo_{k:04d}.h5",
            f"silo {k}",
            (f"w{2 * k}", f"w{2 * k + 1}"),
            LAYOUT,
            {"train": cut(batch(7 + k, k), 3), "test": cut(batch(3 + k, k + 50), 3)},
        )
        for k in range(2)
    ]
    silo.write_manifest(tmp_path, LAYOUT, infos)
    return tmp_path


def reseal(folder: Path, change: Callable[[Manifest], Manifest]) -> None:
    """Rewrite the manifest with other values and the digest that belongs to them."""
    manifest = change(silo.read_manifest(folder))
    silo.write_manifest(folder, manifest.layout, manifest.silos)


def with_first(manifest: Manifest, **fields: Any) -> Manifest:
    return replace(manifest, silos=(replace(manifest.silos[0], **fields), *manifest.silos[1:]))


def edit_json(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    text = json.loads((folder / MANIFEST).read_bytes())
    change(text)
    (folder / MANIFEST).write_text(json.dumps(text), encoding="utf-8")


# ------------------------------------------------------------------------------------------------------- round trips


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.one_of(
        st.tuples(st.integers(1, 9), st.integers(1, 9)), st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4))
    ),
    train=st.integers(1, 20),
    test=st.integers(0, 8),
    piece=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_what_is_written_is_read(
    tmp_path: Path, shape: tuple[int, ...], train: int, test: int, piece: int, seed: int
) -> None:
    layout = replace(LAYOUT, image_shape=shape)
    wholes = {"train": batch(train, seed, layout), "test": batch(test, seed + 1, layout)}
    splits: dict[silo.SplitName, SplitStream] = {split: cut(wholes[split], piece) for split in SPLITS}
    info = silo.write_silo(tmp_path / "x.h5", "x", ("v", "w"), layout, splits)
    manifest = silo.write_manifest(tmp_path, layout, [info])
    assert silo.read_manifest(tmp_path) == manifest
    for split in SPLITS:
        found = silo.read_split(tmp_path, info, split, manifest)
        for values, expected in zip((found.images, found.labels, found.writer), wholes[split], strict=True):
            np.testing.assert_array_equal(values, expected)
        assert [v.dtype.str for v in (found.images, found.labels, found.writer)] == ["|u1", "<i8", "<i4"]
    assert silo.folder_faults(tmp_path) == []


def test_digest_of_a_split_is_sha256_of_images_then_labels_then_writers(folder: Path) -> None:
    images, labels, writer = batch(7, 0)
    data = images.tobytes() + labels.astype("<i4").tobytes() + writer.astype("<i4").tobytes()
    assert silo.read_manifest(folder).silos[0].train.sha256 == hashlib.sha256(data).hexdigest()


def test_digest_of_a_manifest_follows_its_definition(folder: Path) -> None:
    manifest = silo.read_manifest(folder)
    rows = ",".join(f'["{s.name}","{s.train.sha256}","{s.test.sha256}"]' for s in manifest.silos)
    text = f'{{"classes":["a","b","\\u00e7"],"image_shape":[4,5],"silos":[{rows}]}}'
    assert manifest.digest == hashlib.sha256(text.encode()).hexdigest()


def test_digest_ignores_what_does_not_matter_and_sees_what_does(folder: Path) -> None:
    manifest = silo.read_manifest(folder)
    assert replace(manifest, source="elsewhere", interpolation="none").digest == manifest.digest
    assert with_first(manifest, file="other.h5", duplicates=3).digest == manifest.digest
    others = [
        replace(manifest, classes=("b", "a", "ç")),
        replace(manifest, image_shape=(5, 4)),
        replace(manifest, silos=manifest.silos[::-1]),
        with_first(manifest, name="other"),
        with_first(manifest, test=replace(manifest.silos[0].test, sha256="0" * 64)),
    ]
    assert len({manifest.digest, *(other.digest for other in others)}) == 6


def test_bytes_of_a_file_do_not_depend_on_time_or_pieces(tmp_path: Path) -> None:
    for number, piece in enumerate((2, 5)):
        time.sleep(1.1 * number)  # HDF5's time stamps count seconds
        splits: dict[silo.SplitName, SplitStream] = {"train": cut(batch(9, 1), piece), "test": cut(batch(4, 2), piece)}
        (tmp_path / str(number)).mkdir()
        silo.write_silo(tmp_path / str(number) / "x.h5", "x", ("v", "w"), LAYOUT, splits)
    assert (tmp_path / "0" / "x.h5").read_bytes() == (tmp_path / "1" / "x.h5").read_bytes()


def test_datasets_are_contiguous_and_unfiltered(folder: Path) -> None:
    with h5py.File(folder / "silo_0000.h5", "r") as file:
        for split in SPLITS:
            for name in ("images", "labels", "writer"):
                dataset = file[split][name]
                assert dataset.chunks is None
                assert dataset.compression is None


def test_many_writers_exceed_no_limit_of_hdf5(tmp_path: Path) -> None:
    writers = tuple(f"a writer with a long name {number:05d}" for number in range(6000))
    splits: dict[silo.SplitName, SplitStream] = {"train": cut(batch(3, 0), 3), "test": cut(batch(1, 1), 1)}
    info = silo.write_silo(tmp_path / "x.h5", "x", writers, LAYOUT, splits)
    manifest = silo.write_manifest(tmp_path, LAYOUT, [info])
    assert silo.read_manifest(tmp_path).silos[0].writers == writers
    assert len(silo.read_split(tmp_path, info, "train", manifest).labels) == 3


def test_reads_where_locking_is_refused(folder: Path) -> None:
    manifest = silo.read_manifest(folder)
    with (folder / "silo_0000.h5").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="lock"):
            h5py.File(folder / "silo_0000.h5", "r", locking=True)
        assert len(silo.read_split(folder, manifest.silos[0], "train", manifest).labels) == 7


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(min_size=6, max_size=6), max_size=20))
def test_equal_pictures_have_equal_keys_and_others_do_not(pictures: list[bytes]) -> None:
    images = np.frombuffer(b"".join(pictures), np.uint8).reshape(-1, 2, 3)
    keys = silo.image_keys(images)
    assert keys.shape == (len(pictures),)
    for key, picture in zip(keys, pictures, strict=True):
        assert [other == key for other in keys] == [other == picture for other in pictures]


def test_keys_on_disk_are_those_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silo_bytes, "BLOCK_BYTES", 2 * 4 * 5)
    info = silo.read_manifest(folder).silos[0]
    np.testing.assert_array_equal(silo.split_keys(folder, info, "train"), silo.image_keys(batch(7, 0)[0]))
    assert silo.folder_faults(folder) == []


# ---------------------------------------------------------------------------------------------------------- manifest


def _set(*path: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(text: Any) -> None:
        for key in path[:-1]:
            text = text[key]
        text[path[-1]] = value

    return change


def _drop(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda text: text.pop(key) and None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("schema", value=3), "schema: found 3, expected 1 or 2"),
        (_set("schema", value=2), "missing required field"),
        (_drop("schema"), "missing required field `schema`"),
        (_drop("classes"), "missing required field `classes`"),
        (_drop("digest"), "missing required field `digest`"),
        (_set("silos", 0, "train", "examples", value="7"), r"Expected `int`, got `str` - at `\$\.silos\[0\]\.train"),
        (_set("silos", 0, "name", value="other"), "digest: found .*changed by hand"),
    ],
)
def test_manifest_that_does_not_parse(folder: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    edit_json(folder, change)
    with pytest.raises(SchemaError, match=message) as caught:
        silo.read_manifest(folder)
    assert str(folder / MANIFEST) in str(caught.value)
    assert silo.folder_faults(folder) == [str(caught.value)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: replace(m, image_shape=(4,)), r"image_shape: found \[4\]"),
        (lambda m: replace(m, image_shape=(4, 0)), r"image_shape: found \[4, 0\]"),
        (lambda m: replace(m, classes=("a", "a", "b")), "classes: found"),
        (lambda m: replace(m, silos=()), "silos: found none"),
        (lambda m: with_first(m, name="silo 1"), "silos: name: found 'silo 1' 2 times"),
        (lambda m: with_first(m, file="silo_0001.h5"), "silos: file: found 'silo_0001.h5' 2 times"),
        (lambda m: with_first(m, file="../x.h5"), r"silos\[0\] \(silo 0\): file: found '../x.h5'"),
        (lambda m: with_first(m, writers=()), "writers: found"),
        (lambda m: with_first(m, writers=("v", "v")), "writers: found"),
        (lambda m: with_first(m, writers=("w0", "w3")), "writer w3 stands in the silos silo 0, silo 1"),
        (lambda m: with_first(m, train=SplitInfo(0, "0" * 64, (0, 0, 0))), "train: examples: found 0"),
        (lambda m: with_first(m, test=SplitInfo(2, "0" * 64, (1, 1))), r"test: histogram: found \[1, 1\], expected 3"),
        (lambda m: with_first(m, test=SplitInfo(2, "0" * 64, (3, -1, 0))), "test: histogram: found"),
        (lambda m: with_first(m, test=SplitInfo(2, "0" * 64, (1, 2, 0))), "found a sum of 3, expected 2 examples"),
        (lambda m: with_first(m, test=SplitInfo(1, "0" * 63 + "G", (1, 0, 0))), "test: sha256: found"),
    ],
)
def test_manifest_that_contradicts_itself(folder: Path, change: Callable[[Manifest], Manifest], message: str) -> None:
    reseal(folder, change)
    with pytest.raises(SchemaError, match=message) as caught:
        silo.read_manifest(folder)
    assert str(folder / MANIFEST) in str(caught.value)
    assert str(caught.value) in silo.folder_faults(folder)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"schema": 1, "classes": ["\xff"]}', b"\xff\xfe"])
def test_manifest_that_is_no_json(folder: Path, text: bytes) -> None:
    with pytest.raises(SchemaError, match=r"here\.json: "):
        silo.parse_manifest(text, folder / "here.json")


def test_missing_folder_and_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="no such folder"):
        silo.read_manifest(tmp_path / "absent")
    with pytest.raises(SchemaError, match=r"silos\.json: No such file or directory"):
        silo.read_manifest(tmp_path)
    assert len(silo.folder_faults(tmp_path / "absent")) == 1


# ------------------------------------------------------------------------------------------------------ damaged files


def _attribute(key: str, value: object) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file.attrs[key] = value

    return damage


def _no_attribute(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file.attrs["train_sha256"]


def _dataset(name: str, data: object = None, **options: Any) -> Callable[[Path], None]:
    """Write a dataset of train anew, with other options or data."""

    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            old = file["train"][name][...]
            del file["train"][name]
            file["train"].create_dataset(name, data=old if data is None else data, **options)

    return damage


def _no_dataset(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["train"]["labels"]


def _one_pixel(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["train"]["images"][3, 2, 1] ^= 1


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES = [
    (lambda path: path.unlink(), "no such file"),
    (lambda path: path.write_bytes(b""), "silo_0000.h5: .*"),
    (lambda path: path.write_bytes(b"no HDF5 at all " * 100), "file signature not found"),
    (_truncate, "truncated"),
    (_one_pixel, "train: sha256 of the data: it is not"),
    (_attribute("schema", 2), "attribute schema: found 2, expected 1"),
    (_attribute("name", "silo 9"), "attribute name: found silo 9, expected silo 0"),
    (_attribute("classes", '["a"]'), "attribute classes: found"),
    (_attribute("image_shape", np.array([5, 4])), r"attribute image_shape: found \[5, 4\], expected \[4, 5\]"),
    (_attribute("image_shape", "4x5"), r"attribute image_shape: found 4x5"),
    (_attribute("writers", 7), "attribute writers: found 7"),
    (_attribute("train_histogram", np.array([1, 2])), "attribute train_histogram: found"),
    (_no_attribute, "attribute train_sha256: missing"),
    (_no_dataset, "train/labels: missing"),
    (_dataset("images", data=np.zeros((7, 4, 6), np.uint8)), r"train/images: found \(7, 4, 6\) of uint8"),
    (_dataset("images", data=np.zeros((6, 4, 5), np.uint8)), r"expected \(7, 4, 5\) of uint8"),
    (_dataset("labels", dtype=">i4"), "train/labels: found .* of >i4"),
    (_dataset("writer", dtype="<i8"), "train/writer: found .* of int64"),
    (_dataset("images", chunks=(1, 4, 5)), "train/images: found chunks"),
    (_dataset("images", compression="gzip"), "train/images: found chunks"),
    (_dataset("labels", data=np.full(7, 3, "<i4")), "train: labels: found values from 3 to 3, expected 0 to 2"),
    (_dataset("labels", data=np.full(7, -1, "<i4")), "train: labels: found values from -1 to -1, expected 0 to 2"),
    (_dataset("writer", data=np.full(7, 2, "<i4")), "train: writer: found values from 2 to 2, expected 0 to 1"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damaged_file(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    manifest = silo.read_manifest(folder)
    path = folder / manifest.silos[0].file
    damage(path)
    with pytest.raises(SchemaError, match=message) as caught:
        silo.read_split(folder, manifest.silos[0], "train", manifest)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    faults = silo.folder_faults(folder)
    assert faults
    assert all(str(path) in fault for fault in faults)
    assert len(silo.read_split(folder, manifest.silos[1], "train", manifest).labels) == 8


def test_histogram_that_does_not_belong_to_the_labels(folder: Path) -> None:
    def change(manifest: Manifest) -> Manifest:
        info = manifest.silos[0].train
        first, *others = info.histogram
        moved = (first - 1, *others[:-1], others[-1] + 1) if first else (first + 1, others[0], others[1] - 1)
        return with_first(manifest, train=replace(info, histogram=moved))

    reseal(folder, change)
    manifest = silo.read_manifest(folder)
    _attribute("train_histogram", np.array(manifest.silos[0].train.histogram))(folder / "silo_0000.h5")
    with pytest.raises(SchemaError, match="train: histogram: found"):
        silo.read_split(folder, manifest.silos[0], "train", manifest)


def test_all_faults_at_once(folder: Path) -> None:
    reseal(folder, lambda manifest: with_first(manifest, writers=("w0", "w3")))
    _one_pixel(folder / "silo_0000.h5")
    _truncate(folder / "silo_0001.h5")
    (folder / ".silo_0002.h5.17.partial").touch()
    faults = "\n".join(silo.folder_faults(folder))
    for message in (
        "writer w3 stands in the silos silo 0, silo 1",
        r"silo_0000\.h5: attribute writers: found",
        r"silo_0000\.h5: train: sha256 of the data",
        r"silo_0001\.h5: .*truncated",
        r"\.partial: extra",
    ):
        assert re.search(message, faults), message


# ------------------------------------------------------------------------------------------------------------ writing


def write(path: Path, train: SplitStream, writers: int = 2) -> SiloInfo:
    names = tuple(f"w{number}" for number in range(writers))
    return silo.write_silo(path, "x", names, LAYOUT, {"train": train, "test": cut(batch(2, 1), 2)})


def _failing(size: int) -> Iterator[silo.Batch]:
    yield batch(size, 0)
    raise SchemaError("picture-read", "picture 17: not a picture")


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (SplitStream(0, []), "empty silo x: found no train picture"),
        (SplitStream(3, [batch(2, 0)]), "x.h5: train: found 2 pictures, expected 3"),
        (SplitStream(1, [batch(2, 0)]), "x.h5: train: found pictures 0 to 2"),
        (SplitStream(2, [batch(2, 0, replace(LAYOUT, image_shape=(4, 4)))]), r"of shape \(4, 4\)"),
        (SplitStream(2, [batch(2, 0, replace(LAYOUT, classes=("z",) * 99))]), "train: labels: found values"),
        (SplitStream(9, [batch(9, 0, writers=9)]), "train: writer: found values"),
        (SplitStream(9, _failing(2)), "picture 17: not a picture"),
    ],
)
def test_nothing_is_left_of_a_silo_that_cannot_be_written(tmp_path: Path, train: SplitStream, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        write(tmp_path / "x.h5", train)
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    layout = replace(LAYOUT, image_shape=(256, 256))
    piece = batch(16, 0, layout)
    splits: dict[silo.SplitName, SplitStream] = {
        "train": SplitStream(16 * 40, (piece for _ in range(40))),
        "test": SplitStream(16, [piece]),
    }
    tracemalloc.start()
    silo.write_silo(tmp_path / "x.h5", "x", ("v", "w"), layout, splits)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "x.h5").stat().st_size > 40 * 2**20
    assert peak < 4 * 2**20


def test_disk_is_reserved_before_the_first_picture_and_given_back(tmp_path: Path) -> None:
    info = write(tmp_path / "x.h5", cut(batch(2, 0), 2))
    assert info.train.examples == 2
    assert (tmp_path / "x.h5").stat().st_size < 20_000
    touched = []

    def pieces() -> Iterator[silo.Batch]:
        touched.append(True)
        yield batch(2, 0)

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, old[1]))
    try:
        with pytest.raises(SchemaError, match=r"y\.h5: cannot be written: File too large"):
            write(tmp_path / "y.h5", SplitStream(10_000, pieces()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert touched == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.h5"]


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"absent/x\.h5: cannot be written: No such file or directory"):
        write(tmp_path / "absent" / "x.h5", cut(batch(2, 0), 2))


def test_replacing_keeps_the_old_file_when_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def interrupted() -> None:
        with silo.replacing(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    with silo.replacing(path) as partial:
        partial.write_text("new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]
    assert path.read_text() == "new"
