"""Silo folders of others: nothing in them hangs, crashes or fills who reads them, or passes for what it is not."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

import tiny_silos
from silofold.core.errors import SchemaError
from silofold.data import cache, inspection, silo
from silofold.data.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FIRST = "silo_0000.h5"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two silos that no test has read before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tiny_silos.pack(tmp_path / "silos", sizes=(20, 12))


def read(folder: Path, number: int = 0, split: silo.SplitName = "train") -> silo.Split:
    manifest = silo.read_manifest(folder)
    return silo.read_split(folder, manifest.silos[number], split, manifest)


def written_otherwise(folder: Path) -> None:
    """Make the files such that our plain reader does not understand them, and HDF5's library does."""
    for path in folder.glob("*.h5"):
        with path.open("ab") as file:
            file.write(b"\0")


def reseal(folder: Path, **fields: Any) -> None:
    """Say something else of the folder, with the digest that belongs to it."""
    manifest = replace(silo.read_manifest(folder), **fields)
    silo.write_manifest(folder, manifest.layout, manifest.silos)


# --- where bytes may lie ---------------------------------------------------------------------------------------------


def _external_storage(file: h5py.File, folder: Path) -> None:
    data = file["train/images"][...]
    (folder.parent / "elsewhere").write_bytes(data.tobytes())
    del file["train/images"]
    place = [(str(folder.parent / "elsewhere"), 0, data.nbytes)]
    file["train"].create_dataset("images", data.shape, data.dtype, external=place)


def _external_link(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder.parent / "elsewhere.h5", "w") as other:
        other["images"] = file["train/images"][...]
    del file["train/images"]
    file["train/images"] = h5py.ExternalLink(str(folder.parent / "elsewhere.h5"), "images")


def _soft_link(file: h5py.File, folder: Path) -> None:
    del folder
    file.move("train/images", "images")
    file["train/images"] = h5py.SoftLink("/images")


def _soft_group(file: h5py.File, folder: Path) -> None:
    del folder
    file.move("train", "other")
    file["train"] = h5py.SoftLink("/other")


def _virtual(file: h5py.File, folder: Path) -> None:
    data = file["train/images"][...]
    with h5py.File(folder.parent / "elsewhere.h5", "w") as other:
        other["images"] = data
    layout = h5py.VirtualLayout(data.shape, data.dtype)
    layout[...] = h5py.VirtualSource(folder.parent / "elsewhere.h5", "images", data.shape)
    del file["train/images"]
    file["train"].create_virtual_dataset("images", layout)


def _compact(file: h5py.File, folder: Path) -> None:
    del folder
    data = file["train/labels"][...]
    del file["train/labels"]
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple(data.shape)
    h5py.h5d.create(file["train"].id, b"labels", h5py.h5t.STD_I32LE, space, made).write(space, space, data)


@pytest.mark.parametrize("change", [_external_storage, _external_link, _soft_link, _soft_group, _virtual, _compact])
def test_bytes_must_lie_in_the_file_itself(folder: Path, change: Callable[[h5py.File, Path], None]) -> None:
    with h5py.File(folder / FIRST, "r+") as file:
        change(file, folder)
    with pytest.raises(SchemaError, match="expected one contiguous block of this file") as caught:
        read(folder)
    assert caught.value.exit_code == 2
    assert any(FIRST in fault for fault in silo.folder_faults(folder))


def test_the_digest_of_other_data_is_not_told(folder: Path) -> None:
    with h5py.File(folder / FIRST, "r+") as file:
        file["train/images"][0, 0, 0] ^= 1
        parts = [file[f"train/{name}"][...].tobytes() for name in ("images", "labels", "writer")]
    found = hashlib.sha256(b"".join(parts)).hexdigest()
    with pytest.raises(SchemaError, match="sha256 of the data") as caught:
        read(folder)
    assert found not in "\n".join([str(caught.value), *silo.folder_faults(folder)])


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", [FIRST, silo.MANIFEST])
@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_what_is_no_regular_file_is_refused_at_once(folder: Path, name: str, kind: str) -> None:
    path = folder / name
    path.unlink()
    make = {"fifo": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero"), "folder": os.mkdir}
    make[kind](path)
    with pytest.raises(SchemaError, match=name):
        read(folder)
    assert silo.folder_faults(folder)


@pytest.mark.parametrize("cut", [100, 4_000])
def test_a_file_that_was_cut_is_refused(folder: Path, cut: int) -> None:
    data = (folder / FIRST).read_bytes()
    manifest = silo.read_manifest(folder)
    (folder / FIRST).write_bytes(data[:cut])
    with pytest.raises(SchemaError, match="truncated"):
        silo.read_split(folder, manifest.silos[0], "train", manifest)


def test_a_longer_file_holds_what_it_held(folder: Path) -> None:
    expected = read(folder).images
    with (folder / FIRST).open("ab") as file:
        file.write(b"more" * 1000)
    np.testing.assert_array_equal(read(folder).images, expected)


def test_a_list_may_be_spelled_otherwise_in_json(folder: Path) -> None:
    manifest = silo.read_manifest(folder)
    with h5py.File(folder / FIRST, "r+") as file:
        for key, values in (("classes", manifest.classes), ("writers", manifest.silos[0].writers)):
            spelled = "".join(f"\\u{ord(letter):04x}" for letter in values[0])
            file.attrs[key] = f'[ "{spelled}"' + "".join(f",{json.dumps(value)}" for value in values[1:]) + "]\n"
    assert len(read(folder).images) == 20
    with h5py.File(folder / FIRST, "r+") as file:
        file.attrs["classes"] = json.dumps(["other", *manifest.classes[1:]])
    with pytest.raises(SchemaError, match="attribute classes: found"):
        read(folder)


def test_a_text_of_digits_is_told_from_a_number(folder: Path) -> None:
    with h5py.File(folder / FIRST, "r+") as file:
        file.attrs["schema"] = "1"
    with pytest.raises(SchemaError, match="attribute schema: found '1', expected 1"):
        read(folder)


# --- what silos.json may say -----------------------------------------------------------------------------------------


def _first(folder: Path, **fields: Any) -> tuple[silo.SiloInfo, ...]:
    infos = silo.read_manifest(folder).silos
    return (replace(infos[0], **fields), *infos[1:])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"duplicates": -5}, "duplicates: found -5"),
        ({"duplicates": 11}, "duplicates: found 11, expected 0 to 10"),
        ({"name": "x" * 10**5}, "name: found .* of 100000 letters"),
        ({"name": ""}, "name: found '' of 0 letters"),
        ({"writers": ("w" * 2000,)}, "writers: found .* of 2000 letters"),
        ({"file": "x" * 256}, "file: found"),
        ({"file": silo.MANIFEST}, "file: found"),
        ({"train": silo.SplitInfo(2**62, "0" * 64, (2**62, 0, 0, 0, 0))}, "train: examples: found"),
        ({"test": silo.SplitInfo(-1, "0" * 64, (0, 0, 0, 0, 0))}, "test: examples: found -1"),
    ],
)
def test_values_that_cannot_be_are_refused(folder: Path, fields: dict[str, Any], message: str) -> None:
    reseal(folder, silos=_first(folder, **fields))
    with pytest.raises(SchemaError, match=message) as caught:
        silo.read_manifest(folder)
    assert len(str(caught.value)) < 1000


def test_counts_beyond_the_file_are_refused_before_memory_is_taken(folder: Path) -> None:
    many = silo.SplitInfo(10**11, "0" * 64, (10**11, 0, 0, 0, 0))
    reseal(folder, silos=_first(folder, train=many))
    with pytest.raises(SchemaError, match=r"found \d+ bytes, expected at least the \d{14}"):
        read(folder)


@pytest.mark.parametrize("shape", [(10**6, 10**6), (2**40, 2**40, 3), (4096, 4096)])
def test_pictures_beyond_the_file_are_refused_before_a_model_is_built(folder: Path, shape: tuple[int, ...]) -> None:
    reseal(folder, image_shape=shape)
    with pytest.raises(SchemaError, match=r"image_shape: found|found .* bytes, expected at least"):
        silo.read_manifest(folder)


@pytest.mark.parametrize(
    "text", [b"[" * 10**6, b'{"schema": 1, "classes": ' + b'{"a":' * 10**6, b'{"schema": ' + b"9" * 5000 + b"}"]
)
def test_hostile_json_is_one_kind_of_fault(folder: Path, text: bytes) -> None:
    (folder / silo.MANIFEST).write_bytes(text)
    with pytest.raises(SchemaError, match=r"silos\.json"):
        silo.read_manifest(folder)
    assert len(silo.folder_faults(folder)) == 1


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_another_encoding_is_told(folder: Path, codec: str) -> None:
    manifest = silo.read_manifest(folder)
    reseal(folder, source="of the clinic in Z\u00fcrich")
    text = (folder / silo.MANIFEST).read_text("utf-8")
    (folder / silo.MANIFEST).write_bytes(text.encode(codec))
    if codec == "utf-8-sig":
        assert silo.read_manifest(folder) == replace(manifest, source="of the clinic in Z\u00fcrich")
        return
    with pytest.raises(SchemaError) as caught:
        silo.read_manifest(folder)
    place = f"byte 0xfc at position {text.index(chr(0xFC))} (line {text[: text.index(chr(0xFC))].count(chr(10)) + 1})"
    assert (place if codec == "latin-1" else "found UTF-16 or UTF-32, expected JSON in UTF-8") in str(caught.value)
    assert silo.folder_faults(folder) == [str(caught.value)]


@pytest.mark.parametrize("library", [True, False])
@pytest.mark.parametrize("padding", ["nul", "spaces", "ended"])
@pytest.mark.parametrize("charset", ["ascii", "utf-8"])
def test_texts_may_have_a_fixed_length(folder: Path, padding: str, charset: str, *, library: bool) -> None:
    """As np.bytes_ writes them, and programs of Fortran and MATLAB."""
    with h5py.File(folder / FIRST, "r+", libver="latest" if library else "earliest") as file:
        for name in ("name", "interpolation", "source", "classes", "writers", "train_sha256"):
            text = file.attrs[name].encode()
            kind = h5py.h5t.C_S1.copy()
            kind.set_size(len(text) + 3)
            kind.set_cset(h5py.h5t.CSET_ASCII if charset == "ascii" else h5py.h5t.CSET_UTF8)
            pads = {"nul": h5py.h5t.STR_NULLPAD, "spaces": h5py.h5t.STR_SPACEPAD, "ended": h5py.h5t.STR_NULLTERM}
            kind.set_strpad(pads[padding])
            del file.attrs[name]
            made = h5py.h5a.create(file.id, name.encode(), kind, h5py.h5s.create(h5py.h5s.SCALAR))
            filled = text.ljust(len(text) + 3, b" " if padding == "spaces" else b"\0")
            made.write(np.array(filled, f"S{len(filled)}"), kind)
    assert len(read(folder).labels) == 20
    with h5py.File(folder / FIRST, "r+") as file:
        file.attrs["name"] = np.bytes_("another")
    with pytest.raises(SchemaError, match="attribute name: found another, expected"):
        read(folder)


# --- the process that looks ------------------------------------------------------------------------------------------

READY = "import os, signal, sys, time\nprint('{}', flush=True)\nsys.stdin.readline()\n"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (f"{READY}os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        (f"{READY}signal.setitimer(signal.ITIMER_PROF, 0.2)\nwhile True: pass", "comes to no end"),
        (f"{READY}time.sleep(60)", "comes to no end"),
        (f"{READY}print('nonsense', flush=True)\ntime.sleep(60)", "comes to no end"),
        (f"{READY}sys.exit(3)", "code 3"),
        ("import missing_module", "cannot look|process that looks"),
        ('print(\'{"fault": "ImportError: no h5py"}\')', "no h5py"),
    ],
)
def test_a_process_that_looks_may_die_hang_or_lie(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, message: str
) -> None:
    written_otherwise(folder)
    (tmp_path / "look.py").write_text(program)
    monkeypatch.setattr(inspection, "look", SimpleNamespace(__file__=str(tmp_path / "look.py")))
    monkeypatch.setattr(inspection, "FILE_SECONDS", 2.0)
    began = time.monotonic()
    with pytest.raises(SchemaError, match=message):
        read(folder)
    assert time.monotonic() - began < 30


READ = """
import sys
from pathlib import Path
from silofold.data import silo
folder = Path(sys.argv[1])
manifest = silo.read_manifest(folder)
print(len(silo.read_split(folder, manifest.silos[0], "train", manifest).labels))
"""


def test_variables_of_hdf5_do_not_reach_it(folder: Path) -> None:
    written_otherwise(folder)
    hostile = {"VOL_CONNECTOR": "none", "PLUGIN_PATH": "/nowhere", "USE_FILE_LOCKING": "TRUE", "DRIVER": "x"}
    environment = os.environ | {f"HDF5_{name}": value for name, value in hostile.items()}
    command = [sys.executable, "-c", READ, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "20\n")


# --- what is remembered ----------------------------------------------------------------------------------------------


def _no_process(*_: object, **__: object) -> None:
    raise AssertionError("a process was started")


def _read_anew(folder: Path, run: Path | None = None) -> int:
    """Read as another process would."""
    manifest = silo.read_manifest(folder)
    reader = Reader(folder, manifest, run=run)
    return sum(len(reader.read(info, split).labels) for info in manifest.silos for split in silo.SPLITS)


def test_a_file_of_our_writer_needs_no_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection.Inspector, "_start", _no_process)
    assert _read_anew(folder) == 20 + 12 + 10 + 11
    assert silo.folder_faults(folder) == []


def test_a_file_that_was_seen_needs_no_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written_otherwise(folder)
    before = sorted(folder.iterdir())
    assert _read_anew(folder) == 20 + 12 + 10 + 11
    assert sorted(folder.iterdir()) == before
    monkeypatch.setattr(inspection.Inspector, "_start", _no_process)
    assert _read_anew(folder) == 20 + 12 + 10 + 11


def test_what_is_remembered_is_not_believed_of_a_file_that_changed(folder: Path) -> None:
    _read_anew(folder)
    times = (folder / FIRST).stat()
    with h5py.File(folder / FIRST, "r+") as file:
        file["train/images"][0, 0, 0] ^= 1
    os.utime(folder / FIRST, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(SchemaError, match="sha256 of the data"):
        _read_anew(folder)


def test_forged_memories_do_no_harm(folder: Path, tmp_path: Path) -> None:
    _read_anew(folder)
    (place,) = (tmp_path / "cache").rglob("*.json")
    whole = json.loads(place.read_bytes())
    for offsets in ([0] * 6, [10**15] * 6, [2**70] * 6, [-1] * 6):
        for verdict in whole["verdicts"].values():
            verdict[2] = offsets
        place.write_text(json.dumps(whole))
        with pytest.raises(SchemaError, match=FIRST):
            _read_anew(folder)
    for text in (b"", b"[" * 10**6, b'{"version": 1, "verdicts": {"a": 1}}', b'{"version": 2, "verdicts": {}}', b"\xff"):
        place.write_bytes(text)
        assert _read_anew(folder)
    place.unlink()
    os.mkfifo(place)
    assert _read_anew(folder)


@pytest.mark.parametrize("place", ["/dev/null", "relative", ""])
def test_no_cache_folder_is_needed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", place)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    written_otherwise(folder)
    assert _read_anew(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["silos"]
    (tmp_path / "run").mkdir()
    assert _read_anew(folder, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [cache.NAME]
    monkeypatch.setattr(inspection.Inspector, "_start", _no_process)
    assert _read_anew(folder, tmp_path / "run")


def test_one_process_of_a_node_looks_at_a_time() -> None:
    with cache.one_a_node("a test", 0) as held, cache.one_a_node("a test", 0.1) as again:
        assert held
        assert not again
    with cache.one_a_node("a test", 0) as held:
        assert held
