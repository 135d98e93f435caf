"""Looking at a running job, stopping and scaling it, and what becomes of one that lost a rank or was stopped itself."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import mpirun
from run_folder import rounds, until
from silofold.commands.launching import launcher
from silofold.roles.fault_injection import VARIABLE

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

LONG = ("rounds.count=5000", "local.epochs=1", "rounds.start_window=30.0")


def pids(out: Path) -> dict[str, int]:
    return {rank["role"]: rank["pid"] for rank in json.loads((out / "run.json").read_text())["ranks"]}


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def launched(
    recipe: Path, data: Path, out: Path, *settings: str, shape: tuple[int, int, int] = (1, 0, 3)
) -> Iterator[subprocess.Popen[str]]:
    """Run ``silofold launch`` with (servers, standbys, workers); its ranks are in a session of their own."""
    sets = [part for setting in (*LONG, *settings) for part in ("--set", setting)]
    shaped = [str(part) for pair in zip(("--servers", "--standby", "--workers"), shape, strict=True) for part in pair]
    command = [sys.executable, "-m", "silofold", "launch", str(recipe), "--data", str(data), "--out", str(out)]
    with mpirun.started([*command, *sets, *shaped]) as process:
        try:
            yield process
        finally:
            for pid in pids(out).values() if (out / "run.json").exists() else ():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def ask(*words: object) -> mpirun.Ended:
    return mpirun.run([sys.executable, "-m", "silofold", *map(str, words)])


def test_status_scale_and_stop(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "run", tmp_path / "other"
    assert ask("status", out).code == 2
    kept = "local.keep_momentum=true"  # what silos keep follows them to whoever trains them
    with launched(recipe, tiny, out, kept, shape=(1, 2, 2)) as process, launched(recipe, tiny, other, shape=(1, 0, 1)):
        until(lambda: len(rounds(out)) >= 3 and len(rounds(other)) >= 3)
        seen = ask("status", out)
        assert seen.code == 0, seen
        assert "running for" in seen.out
        assert "worker_0, worker_1" in seen.out
        assert "standby_0, standby_1" in seen.out
        scaled = ask("scale", out, "--workers", "+2")
        assert "workers: 2 -> 4" in scaled.out, scaled
        before = len(rounds(out))
        until(lambda: len(rounds(out)) >= before + 3)
        assert len({rank["role"] for rank in rounds(out)[-1]["ranks"] if rank["role"] != "server_0"}) == 4
        scaled = ask("scale", out, "--workers", "-3")
        assert "workers: 4 -> 1" in scaled.out, scaled
        assert "found 1 workers, expected at least 2" in ask("scale", out, "--workers", "-1").err
        nobody = ask("scale", other, "--workers", "+1")
        assert (nobody.code, len(nobody.faults())) == (2, 1), nobody
        assert "no rank is in reserve" in nobody.err
        stopped = ask("stop", out)
        assert stopped.code == 0
        assert "stopped as asked" in stopped.out, stopped
        assert mpirun.wait(process, 60).code == 0
        assert not (out / "DONE").exists()
        assert ask("status", out).out.count("stopped as asked") == 1
        assert ask("stop", out).code == 2
        assert len(rounds(other)) >= 3  # a neighbour in the same parent folder goes on
        assert "running for" in ask("status", other).out
    count = len(rounds(out)) + 1
    resumed = mpirun.on_ranks(3, ["-m", "silofold", "train", "--resume", str(out), "--set", f"rounds.count={count}",
                                  "--set", "roles.standby=0"])  # fmt: skip
    assert resumed.code == 0, resumed
    replay = ask("replay", out, "--out", tmp_path / "replay", "--workers", 2, "--standby", 0)
    assert replay.code == 0, replay
    until(lambda: "dead" in ask("status", other).out)
    assert ask("status", other).code == 75


def test_signals_end_a_job_in_order(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    for name, number in (("interrupt", signal.SIGINT), ("terminate", signal.SIGTERM)):
        out = tmp_path / name
        with launched(recipe, tiny, out) as process:
            until(lambda out=out: len(rounds(out)) >= 2)  # type: ignore[misc]
            process.send_signal(number)
            ended = mpirun.wait(process, 90)
            assert ended.code == 0, ended
            assert "stopped as asked" in ended.out
            assert (out / "checkpoints" / f"round_{len(rounds(out)):05d}" / "manifest.json").exists()
    out = tmp_path / "mpirun"
    sets = [part for setting in LONG for part in ("--set", setting)]
    program = ["-m", "silofold", "train", str(recipe), "--data", str(tiny), "--out", str(out), *sets]
    with mpirun.started(mpirun.command(4, program), launcher.environment(1)) as process:
        until(lambda: len(rounds(out)) >= 2)
        process.send_signal(signal.SIGUSR1)
        ended = mpirun.wait(process, 90)
        assert ended.code == 0, ended
        assert "stopped as asked" in ended.out


def test_a_signal_while_the_job_starts_is_not_lost(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with launched(recipe, tiny, out) as process:
        until(lambda: (out / ".lock").exists() or any(out.glob("*lock*")))
        process.send_signal(signal.SIGUSR1)
        ended = mpirun.wait(process, 90)
    assert ended.code == 0, ended
    assert "stopped as asked: 1 rounds" in ended.out
    resumed = mpirun.on_ranks(3, ["-m", "silofold", "train", "--resume", str(out), "--set", "rounds.count=2"])
    assert resumed.code == 0, resumed
    assert len(rounds(out)) == 2


def test_stop_at_once(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    """Each full batch sleeps a second: a round takes long, and is lost."""
    out = tmp_path / "run"
    with launched(recipe, tiny, out, "model.name=silofold.training.models.lenet:LeNet", "local.epochs=100000") as process:
        until(lambda: (out / "status.json").exists() and "training" in (out / "status.json").read_text())
        begin = time.monotonic()
        assert ask("stop", out, "--now").code == 0
        ended = mpirun.wait(process, 60)
        assert ended.code == 0, ended
        assert time.monotonic() - begin < 30
        assert not any(is_there(pid) for pid in pids(out).values())


def test_a_lost_rank_without_survivors_is_75(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    """Open MPI without ULFM, and MPICH: mpirun ends the job; the launcher says that it can go on."""
    out = tmp_path / "run"
    (tmp_path / "plain").mkdir()
    real = launcher.find_mpirun()[0]
    plain = tmp_path / "plain" / "mpirun"
    plain.write_text(f'#!/bin/sh\n[ "$1" = --with-ft ] && shift 2\nexec {real} "$@"\n')
    plain.chmod(0o755)
    sets = [part for setting in ("rounds.count=6", "local.epochs=1") for part in ("--set", setting)]
    code = (
        "from silofold import cli; from silofold.commands.launching import launcher; "
        f"launcher.mpirun = lambda: [{str(plain)!r}]; raise SystemExit(cli.main())"
    )
    words = ["launch", str(recipe), "--data", str(tiny), "--out", str(out), *sets, "--workers", "3"]
    begin = time.monotonic()
    ended = mpirun.run(
        [sys.executable, "-c", code, *words], environment={VARIABLE: "worker 1: kill @ round 3 before update"}
    )  # fmt: skip
    assert ended.code == 75, ended
    assert f"go on with --resume {out}" in ended.err
    assert time.monotonic() - begin < 60
    assert ask("status", out).code == 75
    resumed = ask("launch", "--resume", out, "--data", tiny, "--workers", 2)
    assert resumed.code == 0, resumed
    assert len(rounds(out)) == 6
    assert ask("replay", out, "--out", tmp_path / "replay", "--workers", 1).code == 0


def test_a_stopped_worker_costs_one_window_and_comes_back(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    # it may stop before its report, which costs the update window, or after it, which costs the start window
    windows = ("rounds.update_window=3.0", "rounds.start_window=3.0")
    with launched(recipe, tiny, out, *windows, "rounds.update_ratio=0.3", "rounds.start_quorum=0.3") as process:
        until(lambda: len(rounds(out)) >= 3)
        stopped = pids(out)["worker_1"]
        os.kill(stopped, signal.SIGSTOP)
        first = len(rounds(out))
        begin = time.monotonic()
        until(lambda: time.monotonic() - begin > 9 and len(rounds(out)) >= first + 6)
        os.kill(stopped, signal.SIGCONT)
        seen = len(rounds(out))
        until(lambda: any("worker_1" in [rank["role"] for rank in entry["ranks"]] for entry in rounds(out)[seen + 1 :]))
        process.send_signal(signal.SIGINT)
        assert mpirun.wait(process, 90).code == 0
    entries = rounds(out)
    slow = [entry for entry in entries[first:seen] if entry["seconds"]["total"] > 3]
    assert len(slow) <= 1, slow
    assert all(entry["seconds"]["total"] < 3 + 2 + 3 for entry in entries[first:seen])
    resumed = mpirun.on_ranks(
        4, ["-m", "silofold", "train", "--resume", str(out), "--set", f"rounds.count={len(entries) + 1}"]
    )
    assert resumed.code == 0, resumed
    assert ask("replay", out, "--out", tmp_path / "replay", "--workers", 2).code == 0


def test_what_a_killed_job_left_is_no_obstacle(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    """Process numbers come round again: Open MPI's folder of a dead mpirun has the name of the next one's."""
    path, family = launcher.find_mpirun()
    if family != "openmpi":
        pytest.skip("MPICH keeps no folder")
    left, meeting = "${TMPDIR:-/tmp}/ompi.$$", "pmix.$(uname -n).tool"
    script = tmp_path / "mpirun"
    script.write_text(
        f'#!/bin/bash\nmkdir "{left}"\ntouch "{left}/{meeting}"{{,.$$,.prterun-$(uname -n)-$$@0}}\nexec {path} "$@"\n'
    )
    script.chmod(0o755)
    command = ["launch", recipe, "--data", tiny, "--out", tmp_path / "run", "--workers", 1, "--servers", 1]
    (tmp_path / "tmp").mkdir()
    ended = mpirun.silofold(*command, environment={launcher.LAUNCHER: str(script), "TMPDIR": str(tmp_path / "tmp")})
    assert ended.code == 0, ended
    assert [path.name.partition(".")[0] for path in (tmp_path / "tmp").iterdir()] == ["ompi"]


def test_a_void_round_changes_no_byte(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended = mpirun.train(4, recipe, tiny, out, environment={VARIABLE: "worker 0: nan @ round 2"})
    assert ended.code == 0, ended
    entries = rounds(out)
    assert [entry["void"] for entry in entries] == [False, True, False, False]
    assert entries[1]["model_sha256"] == entries[0]["model_sha256"]
    assert entries[1]["bytes_up"] == 0
    assert "the update is not finite: conv1.weight[0, 0, 0, 0] moved by nan" in str(entries[1]["silos"])


def test_a_silo_that_keeps_failing_is_benched(tiny: Path, recipe: Path, tmp_path: Path) -> None:
    """The model refuses a last batch of one picture: silos of 33 and 25 pictures fail at batch size 8, each round."""
    out = tmp_path / "run"
    settings = ("model.name=own_model:Picky", "rounds.update_ratio=0.6", "rounds.bench_after=2", "rounds.count=4")
    where = {"PYTHONPATH": str(mpirun.__file__).rpartition("/")[0]}
    ended = mpirun.train(4, recipe, tiny, out, *settings, environment=where)
    assert ended.code == 0, ended
    assert [entry["cohort"] for entry in rounds(out)] == [[0, 1, 2, 3, 4, 5]] * 2 + [[0, 1, 2, 5]] * 2
    assert "silo 3 failed in 2 rounds in a row and trains no more" in ended.err
