"""Processes that hold an object: they answer, their faults are told, and none outlives who started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from silofold.core.errors import ConfigError, RequeueError
from silofold.core.processes import Pool


class Held:
    """What a process holds."""

    def __init__(self, number: int) -> None:
        if number < 0:
            raise ConfigError("option-value", f"found {number}")
        self.number = number

    def add(self, more: int) -> int:
        return self.number + more

    def pid(self) -> int:
        return os.getpid()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def fail(self) -> None:
        raise ConfigError("option-value", f"process {self.number} fails")


class Late(Held):
    """Fails after some time."""

    def __init__(self, number: int, seconds: float) -> None:
        super().__init__(number)
        self.seconds = seconds

    def fail(self) -> None:
        time.sleep(self.seconds)
        super().fail()


def test_each_process_answers_for_its_own_object() -> None:
    with Pool(Held, [(1,), (20,)]) as pool:
        assert pool.ask_all("add", [(2,), (3,)]) == [3, 23]
        assert pool.ask("add", 5) == 6
        pids = pool.ask_all("pid")
        assert len({*pids, os.getpid()}) == 3
    assert not any(lives(pid) for pid in pids)


def test_a_fault_is_that_of_the_process() -> None:
    with Pool(Held, [(1,), (2,)]) as pool, pytest.raises(ConfigError, match="process 1 fails") as caught:
        pool.ask_all("fail")
    assert caught.value.id == "option-value"
    with Pool(Held, [(1,), (-2,)]) as pool, pytest.raises(ConfigError, match="found -2"):
        pool.ask_all("add", [(1,), (1,)])


def test_a_fault_that_nobody_hears_any_more_is_no_second_one(capfd: pytest.CaptureFixture[str]) -> None:
    """The first process's fault ends the waiting; that of the second one comes later."""
    with pytest.raises(ConfigError, match="process 1 fails"), Pool(Late, [(1, 0.0), (2, 1.5)]) as pool:
        pool.ask_all("fail")
    assert "Traceback" not in capfd.readouterr().err


def test_a_process_that_is_gone_is_named() -> None:
    with Pool(Held, [(1,), (2,)]) as pool:
        os.kill(pool.ask_all("pid")[1], signal.SIGKILL)
        with pytest.raises(RequeueError, match="process 1 is gone"):
            pool.ask_all("add", [(1,), (1,)])


def test_who_waits_may_look_around_and_give_up() -> None:
    looks = []

    def look() -> None:
        looks.append(1)
        if len(looks) == 2:
            raise InterruptedError

    began = time.monotonic()
    with Pool(Held, [(1,)]) as pool:
        assert pool.ask_all("add", [(1,)], int) == [2]
        with pytest.raises(InterruptedError):
            pool.ask_all("sleep", [(300.0,)], look)
    assert time.monotonic() - began < 120  # who does not end by itself is ended


@pytest.mark.parametrize("name", ["SIGINT", "SIGUSR1"])
def test_a_signal_to_all_is_for_the_first_process(name: str) -> None:
    with Pool(Held, [(1,)]) as pool:
        os.kill(pool.ask("pid"), getattr(signal, name))
        assert pool.ask("add", 1) == 2


def test_none_outlives_who_started_it(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(
        "import sys, time\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from silofold.core.processes import Pool\n"
        "import test_processes\n"
        "if __name__ == '__main__':\n"
        "    pool = Pool(test_processes.Held, [(1,), (2,)])\n"
        "    print(*pool.ask_all('pid'), flush=True)\n"
        "    time.sleep(300)\n",
        encoding="ascii",
    )
    with subprocess.Popen([sys.executable, str(tmp_path / "parent.py")], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(lives(pid) for pid in pids)
        parent.kill()
    deadline = time.monotonic() + 60
    while any(lives(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2][0] not in {"Z", "X"}
    except FileNotFoundError:
        return False
