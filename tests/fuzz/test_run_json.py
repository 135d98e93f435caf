"""Whatever stands in ``run.json`` and beside it, each command ends with an answer or one line."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import time
from typing import TYPE_CHECKING

import pytest
from PIL import Image

import made_run
import mpirun
from budget import count
from silofold import cli
from silofold.core.errors import SilofoldError
from silofold.job import request

if TYPE_CHECKING:
    from pathlib import Path

PARTS = 10
pytestmark = pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
COMMANDS = ("status", "verify", "evaluate", "compare", "predict")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A run folder without fault, already evaluated."""
    out = tmp_path_factory.mktemp("made") / "run"
    made_run.make(out, tiny)
    assert cli.main(["evaluate", str(out)]) == 0
    assert cli.main(["verify", str(out)]) == 0
    return out


def tried(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Read a run folder by every command that needs no MPI, and as resume and replay do."""
    for command in COMMANDS:
        began = time.monotonic()
        words = [str(path.parent / "picture.png")] if command == "predict" else []
        code = cli.main([command, str(path), *words])
        told = capsys.readouterr()
        assert time.monotonic() - began < 5, command
        assert code in {0, 2, 75}, told
        assert all(line.startswith("silofold: ") for line in told.err.splitlines()), told
        assert "\x1b" not in told.out + told.err
        assert code == 0 or told.out + told.err
    for replay, resume in ((path, False), (None, True)):
        try:
            request.read_settings(request.Request(None, (), None, path, resume=resume, replay=replay))
        except SilofoldError as fault:
            assert fault.exit_code == 2  # noqa: PT017  (others can be read)


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", ["run.json", "status.json", "metrics.jsonl", "predictions.h5", "model.pt", "DONE"])
def test_a_changed_file_gives_an_answer_or_one_line(
    part: int, name: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    per_part = count(30 if name == "run.json" else 10, 3 if name == "run.json" else 1)
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    Image.new("L", (20, 20)).save(tmp_path / "picture.png")
    source = (whole / name).read_bytes() if (whole / name).exists() else STATUS
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(part * per_part, (part + 1) * per_part):
        rng = random.Random(number)  # noqa: S311  (no secret)
        if name == "run.json" and number % 4:
            changed = json.dumps(made_run.mutated(rng, json.loads(source))).encode()
        elif name == "metrics.jsonl" and number % 4:
            lines = source.splitlines()
            at = rng.randrange(len(lines))
            lines[at] = json.dumps(made_run.mutated(rng, json.loads(lines[at]))).encode()
            changed = b"\n".join([*lines, b""])
        else:
            changed = made_run.flipped(rng, source)
        (out / name).write_bytes(changed)
        tried(out, capsys)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200 * 1024, f"{grown} KiB"


STATUS = json.dumps({
    "written": 2.0, "started": 1.0, "host": "here", "phase": "training", "round": 3, "counted": 2, "wanted": 9,
    "round_seconds": 0.5, "usual_seconds": 1.5, "waiting_for": ["worker_1"], "late": {"worker_1": 2}, "workers": ["w"],
    "standbys": [], "dead": [], "benched": [4], "ended": "",
}).encode()  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["run.json", "status.json", "metrics.jsonl", "predictions.h5", "model.pt", "DONE", ".lock"])
@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "nowhere"])
def test_what_is_no_regular_file(
    name: str, kind: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    Image.new("L", (20, 20)).save(tmp_path / "picture.png")
    (out / name).unlink(missing_ok=True)
    match kind:
        case "fifo":
            os.mkfifo(out / name)
        case "device":
            (out / name).symlink_to("/dev/zero")
        case "folder":
            (out / name).mkdir()
        case _:
            (out / name).symlink_to("/nowhere/at/all")
    tried(out, capsys)


@pytest.mark.timeout(300)
def test_a_sample_through_the_command_line(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    tree = json.loads((whole / "run.json").read_bytes())
    for number in range(count(10, 1)):
        (out / "run.json").write_text(json.dumps(made_run.mutated(random.Random(number), tree)))  # noqa: S311  (no secret)
        for command in ("status", "verify"):
            ended = mpirun.silofold(command, out)
            assert ended.code in {0, 2, 75}, ended
            assert "Traceback" not in ended.err
            assert len(ended.err.splitlines()) <= 1, ended
