"""What others put on the machine, or into a shell: one line with the true cause and exit code 2, or a clean run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import mpirun
from budget import whole_run
from run_folder import rounds, until
from silofold.commands.launching import launcher, mpi_session
from silofold.roles.fault_injection import VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

BIN = Path(sys.executable).parent
SHADOWS = ("random", "queue", "torch", "socket", "numpy", "tempfile")
"""Names of Python's and of the libraries' that a user's file may bear."""
OWN_MODEL = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self, classes, image_shape):
        super().__init__(nn.Flatten(), nn.Linear(256, classes))
"""


def words(tiny: Path, recipe: Path, out: Path, *more: str, count: int = 1) -> list[str]:
    given = ["--data", str(tiny), "--out", str(out), "--workers", "2", "--set", f"rounds.count={count}"]
    return [str(BIN / "silofold"), "launch", str(recipe), *given, *more]


def in_shell(script: str, *command: str, environment: dict[str, str] | None = None) -> mpirun.Ended:
    return mpirun.run(["bash", "-c", f'{script}; exec "$@"', "bash", *command], 120, environment)


class Case(NamedTuple):
    name: str
    script: str
    says: str
    runs: bool = False
    """Whether ranks are started."""


CASES = [
    Case("SLURM_JOBID", "export SLURM_JOBID=123", "SLURM_JOBID=123: that job is not at work"),
    Case("SLURM_JOB_ID", "export SLURM_JOB_ID=9 SLURM_NODELIST=n1", "SLURM_JOB_ID=9: that job is not at work"),
    Case("PBS_NODEFILE", "export PBS_NODEFILE=/nowhere/nodes", "PBS_NODEFILE=/nowhere/nodes: there is no such file"),
    Case("TMPDIR", "export TMPDIR=/nowhere", "TMPDIR=/nowhere: No such file or directory"),
    Case("HDF5_VOL_CONNECTOR", "export HDF5_VOL_CONNECTOR=foo", "unset HDF5_VOL_CONNECTOR"),
    Case("open files", "ulimit -n 20", "at most 20 files may be open here"),
    Case("current folder", "mkdir here; cd here; rmdir ../here", "the current folder is gone"),
    Case("launcher that is none", "export SILOFOLD_LAUNCHER=/nowhere/mpirun", "/nowhere/mpirun: cannot be started"),
    Case("launcher that starts nothing", "export SILOFOLD_LAUNCHER=true", "no rank came up under true"),
    Case("unknown component", "export OMPI_MCA_pml=nope", "Component: nope", runs=True),
    Case("unknown policy", "export PRTE_MCA_rmaps_default_mapping_policy=nope", "Directive: nope", runs=True),
    Case("python that is none", "export PYTHONSTARTUP= PMIX_MCA_gds=nope", "Component: nope", runs=True),
]


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=whole_run) if case.runs else case for case in CASES], ids=lambda case: case.name
)
def test_what_is_missing_is_told_in_one_line(case: Case, tiny: Path, recipe: Path, tmp_path: Path) -> None:
    if case.runs and launcher.find_mpirun()[1] != "openmpi":
        pytest.skip("a variable of Open MPI's")
    ended = in_shell(f"cd {tmp_path}; {case.script}", *words(tiny, recipe, tmp_path / "run"))
    assert (ended.code, len(ended.err.splitlines())) == (2, 1), ended
    assert case.says in ended.err


@whole_run
@pytest.mark.parametrize(
    "script",
    [
        "unset HOME",
        "export HOME=",
        "export SLURM_JOB_END_TIME=1000000",
        "ulimit -Sn 20",
        "mount -t tmpfs -o ro none /dev/shm",
        "mount -t tmpfs -o size=64k none /dev/shm",
    ],
)
def test_what_can_be_done_without_is(script: str, tiny: Path, recipe: Path, tmp_path: Path) -> None:
    prefix = ["unshare", "--mount", "--map-root-user"] if "mount" in script else []
    if prefix and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no mounts of one's own (unshare)")
    command = words(tiny, recipe, tmp_path / "run")
    ended = mpirun.run([*prefix, "bash", "-c", f'{script}; exec "$@"', "bash", *command])
    assert ended.code == 0, ended
    assert len(ended.err.splitlines()) <= 1, ended
    assert (tmp_path / "run" / "DONE").exists()


@pytest.fixture
def odd_neighbour(tmp_path: Path) -> Iterator[None]:
    """A process of a name, an environment and a command line that are no UTF-8."""
    name = os.fsencode(tmp_path) + b"/sim_\xe9t\xc3"
    shutil.copy(os.fsencode(shutil.which("sleep") or ""), name)
    with subprocess.Popen([name, b"600"], env={b"X": b"\xfe"}) as process:
        yield
        process.kill()


@pytest.mark.usefixtures("odd_neighbour")
@whole_run
def test_a_neighbour_of_an_odd_name_does_not_end_the_guard(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    stop = {VARIABLE: "worker 1: stop @ round 3 after evaluate"}
    with mpirun.started(words(tiny, recipe, out, count=2), stop) as process:
        until((out / "DONE").exists, 120)
        begin = time.monotonic()
        ended = mpirun.wait(process, 60)
    assert ended.code == 0, ended
    assert time.monotonic() - begin < 15
    assert "UnicodeDecodeError" not in ended.err


@pytest.mark.parametrize("which", ["run folder", "data folder", "data folder by a link"])
def test_a_folder_whose_name_is_not_utf8(which: str, tiny: Path, recipe: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xe9"))
    data, out = tiny, tmp_path / "run"
    if which == "run folder":
        out = odd
    else:
        shutil.copytree(tiny, odd)
        (tmp_path / "link").symlink_to(odd)
        data = odd if which == "data folder" else tmp_path / "link"
    ended = mpirun.run(words(data, recipe, out))
    assert (ended.code, len(ended.err.splitlines())) == (2, 1), ended
    assert "not UTF-8" in ended.err
    assert not out.exists()


def in_folder(folder: Path, *command: str, environment: dict[str, str] | None = None) -> mpirun.Ended:
    return in_shell(f"cd {folder}", *command, environment=environment)


def own_files(folder: Path) -> Path:
    for name in SHADOWS:
        (folder / f"{name}.py").write_text("raise RuntimeError('a file of the user')\n")
    (folder / "models.py").write_text(OWN_MODEL)
    return folder


def test_the_current_folder_hides_nothing_and_is_searched_last(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    """By launch, whose ranks run by ``python -m``, and by commands without ranks."""
    own_files(tmp_path)
    ended = in_folder(tmp_path, *words(tiny, recipe, tmp_path / "run", "--set", "model.name=models:Net"))
    assert ended.code == 0, ended
    ended = in_folder(tmp_path, str(BIN / "silofold"), "evaluate", "run", str(tiny))
    assert ended.code == 0, ended


@whole_run
def test_every_command_finds_a_module_of_the_current_folder(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    own_files(tmp_path)
    model = ("--set", "model.name=models:Net")
    assert in_folder(tmp_path, *words(tiny, recipe, tmp_path / "run", *model)).code == 0
    silofold = str(BIN / "silofold")
    baseline = ["baseline", "local", str(recipe), "--data", str(tiny), *model, "--set", "rounds.count=1"]
    for command in (
        [silofold, *baseline, "--out", "alone"],
        [sys.executable, "-m", "silofold", *baseline, "--out", "again"],
        [silofold, "replay", "run", "--out", "replay", "--workers", "1"],
        [silofold, "doctor", str(recipe), "--data", str(tiny), *model, "--workers", "1"],
        [silofold, "compare", "run", "alone"],
        [silofold, "report", "run", "--out", "page.html"],
    ):
        ended = in_folder(tmp_path, *command)
        assert ended.code == 0, (command, ended)
    plain = [
        *launcher.mpirun(),
        "-n",
        "3",
        sys.executable,
        "-m",
        "silofold",
        "train",
        str(recipe),
        "--data",
        str(tiny),
        *model,
    ]
    ended = in_folder(tmp_path, *plain, "--out", "plain", environment=launcher.environment(1))
    assert ended.code == 0, ended


def test_nobody_reads_what_is_said(tiny: Path, tmp_path: Path) -> None:
    del tiny
    program = [str(BIN / "silofold"), "doctor", "--help"]
    for script in ('"$@" | head -c 1; exit ${PIPESTATUS[0]}', '"$@" >&-', '"$@" >&- 2>&-'):
        ended = mpirun.run(["bash", "-c", script, "bash", *program])
        assert (ended.code, ended.err) == (0, ""), (script, ended)
    ended = mpirun.run(["bash", "-c", '"$@" >/dev/full', "bash", str(BIN / "silofold"), "status", str(tmp_path)])
    assert ended.code == 2


@whole_run
def test_a_run_goes_on_when_nobody_reads_what_it_says(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    for name, way in (("head", "| head -n 1"), ("closed", ">&- 2>&-")):
        out = tmp_path / name
        ended = mpirun.run(["bash", "-o", "pipefail", "-c", f'"$@" {way}', "bash", *words(tiny, recipe, out, count=3)])
        assert (ended.code, "Traceback" in ended.err) == (0, False), ended
        assert (out / "DONE").exists()
        for command in (["status", out], ["evaluate", out, tiny], ["compare", out]):
            ended = mpirun.run(
                ["bash", "-o", "pipefail", "-c", f'"$@" {way}', "bash", str(BIN / "silofold"), *map(str, command)]
            )
            assert (ended.code, ended.err) == (0, ""), (command, ended)


def started_rounds(out: Path) -> bool:
    return len(rounds(out)) >= 2


@whole_run
def test_the_terminal_goes_away(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with mpirun.started(words(tiny, recipe, out, count=10**5)) as process:
        until(lambda: started_rounds(out))
        process.send_signal(signal.SIGHUP)
        ended = mpirun.wait(process, 60)
    assert ended.code == 0, ended
    assert "stopped as asked" in ended.out
    with mpirun.started(["nohup", *words(tiny, recipe, tmp_path / "two", count=10**5)]) as process:
        until(lambda: started_rounds(tmp_path / "two"))
        process.send_signal(signal.SIGHUP)
        seen = len(rounds(tmp_path / "two"))
        until(lambda: len(rounds(tmp_path / "two")) > seen + 3)
        process.terminate()
        assert mpirun.wait(process, 60).code == 0


@whole_run
def test_a_killed_launch_leaves_no_ranks(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    out, temporary, begun = tmp_path / "run", tmp_path / "tmp", time.time()
    temporary.mkdir()
    with mpirun.started(words(tiny, recipe, out, count=10**5), {"TMPDIR": str(temporary)}) as process:
        until(lambda: started_rounds(out))
        process.kill()
        process.wait(10)
        begin = time.monotonic()
        until(lambda: subprocess.run(["flock", "--nonblock", out / ".lock", "true"], check=False).returncode == 0, 30)
        assert time.monotonic() - begin < 15
    assert mpirun.run([str(BIN / "silofold"), "status", str(out)]).code == 75
    (left,) = temporary.glob("silofold-*")
    memory = [folder for folder in mpi_session.MEMORY.glob(f"{mpi_session.PREFIX}*") if folder.stat().st_mtime >= begun]
    for folder in (left, *memory):
        os.utime(folder / mpi_session.LOCK, (1, 1))
    assert mpirun.run(words(tiny, recipe, tmp_path / "next"), environment={"TMPDIR": str(temporary)}).code == 0
    assert list(temporary.glob("silofold-*")) == []
    assert memory
    assert not any(folder.exists() for folder in memory)


def test_help_to_a_full_disk_is_told_in_one_line() -> None:
    ended = in_shell("exec > /dev/full", str(BIN / "silofold"), "--help")
    assert (ended.code, len(ended.err.splitlines())) == (2, 1), ended


def test_an_mpirun_that_is_ended_is_no_mistake_of_the_program(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    """Open MPI's ends with 1 when it is asked to end, which is what a rank's internal error would give."""
    out = tmp_path / "run"
    script = tmp_path / "launcher"
    script.write_text(f"#!/bin/sh\necho silofold: rank 0 is up >&2\nmkdir -p {out}\necho {{}} > {out}/run.json\nexit 1\n")
    script.chmod(0o755)
    ended = mpirun.run(words(tiny, recipe, out), 60, {launcher.LAUNCHER: str(script)})
    assert (ended.code, len(ended.err.splitlines())) == (75, 1), ended
    assert "mpirun was ended" in ended.err
    assert mpirun.silofold("status", out, "--requeue", 75).code == 0
