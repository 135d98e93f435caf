from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import msgspec
import pytest

import run_folder
from records import summary
from silofold import cli
from silofold.commands import launch
from silofold.commands.launching import guard, live_view
from silofold.commands.launching.start import Start
from silofold.core import machine
from silofold.core.endings import DONE, STOPPED, USER_CODE
from silofold.core.errors import TopologyError
from silofold.record import control
from silofold.record.rundir import RunFolder

if TYPE_CHECKING:
    import argparse
    from pathlib import Path


def options(recipe: Path, data: Path, *more: str) -> argparse.Namespace:
    return cli.parser("launch").parse_args(["launch", str(recipe), "--data", str(data), "--out", "run", *more])


def test_plan_counts_ranks_and_keeps_what_the_user_set(recipe: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    command, environment, rounds = launch.plan(options(recipe, tiny, "--servers", "2", "--workers", "3"))
    first = command.index("-n")
    assert command[first : first + 7] == ["-n", "6", sys.executable, "-P", "-m", "silofold", "train"]
    assert command[-4:] == ["--set", "roles.servers=2", "--set", "roles.standby=0"]
    assert environment["OMP_NUM_THREADS"] == "3"
    assert rounds == 3
    cores = len(os.sched_getaffinity(0))
    command, _, _ = launch.plan(options(recipe, tiny))
    assert command[first + 1] == str(2 + min(cores, 6))
    command, _, _ = launch.plan(options(recipe, tiny, "--standby", "2"))
    assert command[first + 1] == str(4 + min(cores, 6))


@pytest.mark.parametrize(("granted", "workers"), [("0,1", 2), ("0,1,2,3,4,5,6,7", 6)])
def test_with_graphs_there_is_a_worker_a_gpu(
    recipe: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, granted: str, workers: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", granted)
    command, _, _ = launch.plan(options(recipe, tiny, "--set", "local.cuda_graph=true"))
    assert command[command.index("-n") + 1] == str(2 + workers)
    command, _, _ = launch.plan(options(recipe, tiny, "--set", "local.cuda_graph=true", "--workers", "3"))
    assert command[command.index("-n") + 1] == "5"


def test_more_workers_than_silos(recipe: Path, tiny: Path) -> None:
    with pytest.raises(TopologyError, match="found 6 silos for 7 workers"):
        launch.plan(options(recipe, tiny, "--workers", "7"))


PROGRAM = """
import sys, time
from pathlib import Path
from silofold.commands.launching import live_view
from silofold.record.rundir import RunFolder
folder = RunFolder(Path(sys.argv[1]))
records = folder.metrics.with_suffix(".all").read_text().splitlines(keepends=True)
def lines():
    for number, record in enumerate(records, 1):
        with folder.metrics.open("a") as file:
            file.write(record)
        yield f"round {number:>3}  line\\n"
    yield "done: 3 rounds\\n"
live_view.show(lines(), 8, folder)
"""


def test_view_below_the_lines_on_a_terminal(tmp_path: Path) -> None:
    """What a terminal of 100 columns shows: whole lines, and the numbers of the record below them."""
    records = [summary(number, void=number == 2) for number in (1, 2, 3)]
    (tmp_path / "metrics.all").write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in records))
    leader, follower = pty.openpty()
    environment = dict(os.environ) | {"COLUMNS": "100", "TERM": "xterm"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, stdout=follower, stderr=follower, env=environment) as process:
        os.close(follower)
        seen = b""
        while True:
            try:
                part = os.read(leader, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            seen += part
    os.close(leader)
    text = seen.decode()
    assert process.returncode == 0, text
    for line in ("round   1  line", "round   2  line", "round   3  line", "done: 3 rounds"):
        assert f"{line}\r\n" in text
    assert re.findall(r"rounds   (\d)/8", text)[-1] == "2"  # a void round is none of those that count
    assert "accuracy 50.00% [31.9%, 68.1%] of 20" in text
    assert "left out round 3: silo_0 (out of time)" in text


def test_another_launcher(recipe: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SILOFOLD_LAUNCHER", "srun --mpi=pmix --label")
    command, _, _ = launch.plan(options(recipe, tiny, "--workers", "2"))
    assert command[:5] == ["srun", "--mpi=pmix", "--label", "-n", "4"]


def test_an_mpirun_that_stays_without_ranks_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "FAREWELL", 0.5)
    monkeypatch.setattr(guard, "LOOKS_EVERY", 0.1)
    script = f"{sys.executable} -c 'import time; time.sleep(1)' -m silofold train & wait; sleep 60"
    with subprocess.Popen(["bash", "-c", script], text=True) as process:
        guard.guard(process, None, threading.Event())
        assert process.wait(5) == -signal.SIGTERM
    with subprocess.Popen(["bash", "-c", "sleep 1.5"], text=True) as process:  # one that has not started its ranks yet
        guard.guard(process, None, threading.Event())
        assert process.wait(5) == 0


def test_what_a_rank_starts_is_no_rank() -> None:
    """Also while it still bears the rank's name; else it would be missed once it is gone."""
    start = f"import subprocess as s; s.run([{sys.executable!r}, '-c', 'import time; time.sleep(3)', '-m silofold '])"
    with subprocess.Popen(["bash", "-c", f'{sys.executable} -c "{start}" -m silofold train; true']) as process:
        run_folder.until(lambda: len(machine.descendants(process.pid)) == 2, 3)
        assert all(" -m silofold " in child.command for child in machine.descendants(process.pid))
        assert [child.parent for child in guard.ranks(process.pid)] == [process.pid]
        process.wait(10)


@pytest.mark.parametrize(
    ("record", "other", "ended"),
    [("{}", "kill -STOP $!", True), ("", "true", True), ("{}", "true", False)],
    ids=["a stopped rank is all that is left", "a rank is lost before the run has begun", "survivors"],
)
def test_an_mpirun_that_waits_for_a_rank_is_ended(
    record: str, other: str, *, ended: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "FAREWELL", 0.5)
    monkeypatch.setattr(guard, "LOOKS_EVERY", 0.1)
    folder = RunFolder(tmp_path)
    start = Start.now(folder)
    if record:
        folder.record.write_text(record)
    rank = f"{sys.executable} -c 'import time; time.sleep({{}})' -m silofold train &"
    script = f"{rank.format(1)} {rank.format(3)} sleep 0.3; {other}; wait"
    with subprocess.Popen(["bash", "-c", script], start_new_session=True, text=True) as process:
        told = threading.Event()
        try:
            guard.guard(process, start, told)
            assert process.wait(5) == (-signal.SIGTERM if ended else 0)
            assert told.is_set() == ended
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_an_mpirun_that_stays_after_the_last_word_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a rank is still there, since it is stopped; the DONE of a run that is made longer is no last word."""
    monkeypatch.setattr(guard, "FAREWELL", 0.5)
    monkeypatch.setattr(guard, "LOOKS_EVERY", 0.1)
    folder = RunFolder(tmp_path)
    for before, after, code in (("old", "", 0), ("", "new", -signal.SIGTERM), ("old", "new", -signal.SIGTERM)):
        folder.done.unlink(missing_ok=True)
        if before:
            folder.done.write_text(before)
        start = Start.now(folder)
        write = f"rm -f {folder.done}; echo {after} > {folder.done}; sleep 60" if after else "true"
        script = f"{sys.executable} -c 'import time; time.sleep({5 if after else 2})' -m silofold train & sleep 1; {write}"
        with subprocess.Popen(["bash", "-c", f"{script}; wait"], text=True) as process:
            guard.guard(process, start, threading.Event())
            assert process.wait(5) == code


def test_what_is_told_while_ranks_start(tmp_path: Path) -> None:
    folder, since = RunFolder(tmp_path), time.time() - 1
    assert "the ranks start" in live_view.beginning(folder, since)
    for title in ("scheduler", "worker_0"):
        folder.rank(title).mkdir()
        folder.log(title).touch()
    assert "logs opened: 2" in live_view.beginning(folder, since)
    assert "logs opened: 0" in live_view.beginning(folder, since + 60)  # those of an earlier start
    folder.write_record({})
    assert "the first round begins" in live_view.beginning(folder, since)
    folder.status.write_text("{damaged", encoding="utf-8")
    assert "the first round begins" in live_view.beginning(folder, since)


def test_a_guard_that_meets_an_exception_says_so_once_and_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guard, "FAREWELL", 0.5)
    monkeypatch.setattr(guard, "LOOKS_EVERY", 0.1)
    real, calls = machine.descendants, [0]

    def fails_at_first(pid: int) -> list[machine.Child]:
        calls[0] += 1
        if calls[0] < 4:
            raise UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "somebody's name")
        return real(pid)

    monkeypatch.setattr(machine, "descendants", fails_at_first)
    script = f"{sys.executable} -c 'import time; time.sleep(2)' -m silofold train & wait; sleep 60"
    with subprocess.Popen(["bash", "-c", script], text=True) as process:
        guard.guard(process, None, threading.Event())
        assert process.wait(5) == -signal.SIGTERM
    err = capsys.readouterr().err
    assert err.count("has met UnicodeDecodeError") == 1, err


def test_a_job_tells_how_it_ended(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    control.leave_word(folder, STOPPED, "stopped as asked")
    start = Start.now(folder)
    assert not start.is_over(), "the last word of an earlier job"
    time.sleep(0.02)
    control.leave_word(folder, USER_CODE, "Net raised", "model-build")
    assert start.told() == (USER_CODE, "model-build")
    time.sleep(0.02)
    control.leave_word(folder, DONE, "done")
    assert not start.is_over(), "done is who has written DONE"
    folder.done.write_text("x")
    assert start.told() == (DONE, "")
