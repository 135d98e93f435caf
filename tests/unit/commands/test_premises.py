from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

import pytest

from silofold.commands.launching import premises
from silofold.core.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def test_variables_of_a_job_that_is_over() -> None:
    for name in ("SLURM_JOB_ID", "SLURM_JOBID"):
        with pytest.raises(ConfigError, match=f"^{name}=7: that job is not at work") as caught:
            premises.check_variables({name: "7"}, lambda _: False)
        assert caught.value.exit_code == 2
        premises.check_variables({name: "7"}, lambda _: True)


@pytest.mark.parametrize("name", premises.LISTS)
def test_a_list_of_nodes_that_is_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^{name}=.*: there is no such file"):
        premises.check_variables({name: str(tmp_path / "nodes")}, lambda _: True)
    (tmp_path / "nodes").write_text("n1\n")
    premises.check_variables({name: str(tmp_path / "nodes")}, lambda _: True)


def test_without_slurm_no_job_of_its_lives(tmp_path: Path) -> None:
    assert not premises.allocation_lives("7", {"PATH": str(tmp_path)})
    squeue = tmp_path / "squeue"
    for answer, lives in (("echo 7", True), ("true", False), ("exit 1", False)):
        squeue.write_text(f"#!/bin/sh\n{answer}\n")
        squeue.chmod(0o755)
        assert premises.allocation_lives("7", {"PATH": str(tmp_path)}) == lives


def test_no_temporary_folder(tmp_path: Path) -> None:
    premises.check_temporary({"TMPDIR": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="No such file or directory") as caught:
        premises.check_temporary({"TMPDIR": str(tmp_path / "gone")})
    assert caught.value.exit_code == 2


def test_open_files_are_ours_to_raise_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, int]] = []
    sizes = resource.getrlimit(resource.RLIMIT_FSIZE)
    files = [(20, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda what: sizes if what == resource.RLIMIT_FSIZE else files[0])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: given.append(pair))
    premises.check(3, {})
    assert given == [(176, 4096)]
    files[0] = (20, 20)
    with pytest.raises(ConfigError, match="at most 20 files may be open here, expected 44 for 3 ranks"):
        premises.check(3, {})


def test_a_limit_on_the_size_of_files_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8 * premises.MIB, -1))
    with pytest.raises(ConfigError, match="no file may be larger than 8 MiB here, expected 16 MiB") as caught:
        premises.check(3, {})
    assert caught.value.exit_code == 2


def test_a_home_is_named_where_none_is() -> None:
    assert premises.home({"HOME": "/x"}) == {}
    assert os.path.isdir(premises.home({})["HOME"])  # noqa: PTH112
    assert premises.home({"HOME": ""}) == premises.home({})


def test_a_small_shared_memory(tmp_path: Path) -> None:
    assert premises.memory_is_small(10**9, tmp_path)
    assert not premises.memory_is_small(1, tmp_path)
    assert not premises.memory_is_small(1, tmp_path / "gone")
