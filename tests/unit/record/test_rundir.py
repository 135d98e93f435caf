from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from silofold.core import files
from silofold.core.errors import RunFolderError
from silofold.record import rundir

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def held() -> Iterator[list[rundir.RunFolder]]:
    """Folders whose lock is given back in the end; a process holds it for its life."""
    folders: list[rundir.RunFolder] = []
    yield folders
    for folder in folders:
        if hasattr(folder, "_lock"):
            folder._lock.close()


def claim(path: Path, held: list[rundir.RunFolder]) -> bool:
    held.append(rundir.RunFolder(path))
    try:
        return held[-1].claim()
    finally:
        if hasattr(held[-1], "_lock"):
            held[-1]._lock.close()


def test_paths() -> None:
    folder = rundir.RunFolder(Path("out"))
    assert folder.rank("worker_3") == Path("out/worker_3")
    assert folder.log("worker_3") == Path("out/worker_3/worker.log")
    assert folder.log("scheduler") == Path("out/scheduler/scheduler.log")
    assert folder.worker_checkpoint("worker_3", 32, 7) == Path("out/worker_3/ckpt/3-fl-silofold-bs32-6epoch.pt")


def test_a_new_folder_is_made(tmp_path: Path, held: list[rundir.RunFolder]) -> None:
    assert claim(tmp_path / "a" / "b", held) is False
    assert (tmp_path / "a" / "b").is_dir()
    assert claim(tmp_path / "a" / "b", held) is False  # nothing has happened in it yet


def test_an_unfinished_run_goes_on(tmp_path: Path, held: list[rundir.RunFolder]) -> None:
    rundir.RunFolder(tmp_path).write_record({"settings": {}})
    (tmp_path / "checkpoints").mkdir()
    assert claim(tmp_path, held) is True


def test_a_finished_run_is_left_alone(tmp_path: Path, held: list[rundir.RunFolder]) -> None:
    rundir.RunFolder(tmp_path).write_record({})
    (tmp_path / "DONE").write_bytes(b"")
    with pytest.raises(RunFolderError, match=r"holds a finished run \(DONE\).*--resume .* --set rounds\.count="):
        claim(tmp_path, held)


@pytest.mark.parametrize("name", ["thesis.tex", "worker_x", "schedulers", "metrics.jsonl"])
def test_other_files_are_left_alone(tmp_path: Path, name: str, held: list[rundir.RunFolder]) -> None:
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(RunFolderError, match=f"found '{name}' and no run.json, expected an empty folder or a run$"):
        claim(tmp_path, held)
    assert (tmp_path / name).read_bytes() == b"mine"


def test_logs_of_a_start_that_failed_are_no_run(tmp_path: Path, held: list[rundir.RunFolder]) -> None:
    for name in ("scheduler", "server_0", "worker_12"):
        (tmp_path / name).mkdir()
    assert claim(tmp_path, held) is False


def test_a_place_that_cannot_be_a_folder(tmp_path: Path, held: list[rundir.RunFolder]) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunFolderError, match=r"file: cannot be used as run folder: File exists$"):
        claim(tmp_path / "file", held)
    with pytest.raises(RunFolderError, match=r"cannot be used as run folder: Not a directory$"):
        claim(tmp_path / "file" / "below", held)


def test_another_process_at_work_in_the_folder(tmp_path: Path, held: list[rundir.RunFolder]) -> None:
    code = (
        "import sys; from pathlib import Path; from silofold.record.rundir import RunFolder; folder = RunFolder(Path("
        "sys.argv[1])); folder.claim(); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match=r"another job is at work in this folder; choose another --out$"):
            claim(tmp_path, held)
        other.kill()
    assert claim(tmp_path, held) is False  # the lock ends with the process, however it ends


def test_the_record(tmp_path: Path) -> None:
    folder = rundir.RunFolder(tmp_path)
    record = {
        "settings": {"seed": 1}, "data_digest": "d" * 64, "classes": ["a"], "image_shape": [8, 8], "parameters": 3,
        "silos": [{"name": "north", "train": "e" * 64, "test": "f" * 64}], "ranks": [{"rank": 0, "role": "scheduler"}],
    }  # fmt: skip
    folder.write_record(record | {"of a later version": {"elements": [1]}})
    found = folder.read_record()
    assert msgspec.json.decode(msgspec.json.encode(found)) | record == msgspec.json.decode(msgspec.json.encode(found))
    assert (found.baseline, found.versions) == ("federated", {})
    assert folder.record.read_text().startswith('{\n  "settings": {\n')
    for key in record:
        wrongs: tuple[object, ...] = (None, [], {}, "", 3, [3], [None], {"a": None}, [[[]]], True)
        right: dict[str, list[object]] = {
            "settings": [{}, {"a": None}],
            "ranks": [[]],
            "data_digest": [""],
            "parameters": [3],
        }
        for wrong in (value for value in wrongs if value not in right.get(key, [])):
            folder.write_record(record | {key: wrong})
            with pytest.raises(RunFolderError, match=r"run\.json: ") as caught:
                folder.read_record()
            assert "\n" not in str(caught.value)
        folder.write_record({name: value for name, value in record.items() if name != key})
        with pytest.raises(RunFolderError, match=rf"missing required field `{key}`"):
            folder.read_record()
    folder.write_record(record | {"image_shape": [10**6, 10**6]})
    with pytest.raises(RunFolderError, match="too large for a picture"):
        folder.read_record()
    folder.record.unlink()
    os.mkfifo(folder.record)
    with pytest.raises(RunFolderError, match="no regular file"):
        folder.read_record()


@pytest.mark.parametrize(
    ("data", "story"),
    [
        (None, r"run\.json: No such file or directory: is .* the folder of a run\?$"),
        (b"", r"run\.json: no record of a run: "),
        (b'{"settings": ', r"run\.json: no record of a run: "),
        (b"[1]", r"run\.json: no record of a run: Expected `object`, got `array`"),
        pytest.param(
            b'{"settings": "\xff"}',
            r"run\.json: no record of a run: ",
        ),
    ],
)
def test_a_record_that_cannot_be_read(tmp_path: Path, data: bytes | None, story: str) -> None:
    folder = rundir.RunFolder(tmp_path)
    if data is not None:
        folder.record.write_bytes(data)
    with pytest.raises(RunFolderError, match=story):
        folder.read_record()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_atomically(path, b"old")
    with pytest.raises(TypeError):
        files.write_atomically(path, "no bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    files.write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
