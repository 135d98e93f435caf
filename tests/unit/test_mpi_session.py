"""Places of a job's own for what MPI leaves on a machine."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest

from silofold.commands import mpi_session

OLD = (1, 1)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Let TMPDIR and the memory of this machine be empty folders, on a machine alone."""
    folders = tmp_path / "tmp", tmp_path / "memory"
    for folder in folders:
        folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folders[0]))
    monkeypatch.setattr(mpi_session, "MEMORY", folders[1])
    for name in ("SLURM_JOB_NUM_NODES", *mpi_session.OTHER_MACHINES):
        monkeypatch.delenv(name, raising=False)
    return folders


def test_what_was_left_is_removed_and_what_lives_is_not(places: tuple[Path, Path]) -> None:
    with mpi_session.locked_session() as (environment, _):
        alive = {Path(folder) for folder in environment.values()}
        assert {folder.parent for folder in alive} == set(places)
        left = [place / f"{mpi_session.PREFIX}left" for place in places]
        for folder in left:
            folder.mkdir()
            (folder / mpi_session.LOCK).touch()
        for folder in (*alive, *left):
            os.utime(folder / mpi_session.LOCK, OLD)
        with mpi_session.session():
            assert not any(folder.exists() for folder in left)
            assert all(folder.is_dir() for folder in alive)
    assert not any(any(place.iterdir()) for place in places)


def test_memory_that_another_job_makes_this_instant_stays(places: tuple[Path, Path]) -> None:
    """A rank makes its file first and maps it later: the end of another job must not come between."""
    with mpi_session.session():
        new = places[1] / "sm_segment.host.0.abcd0001.0"
        new.touch()
    assert new.exists()
    mpi_session.sweep(0)
    assert new.exists()


def test_memory_that_was_left_where_all_jobs_keep_it_is_removed(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = places[1] / "sm_segment.host.0.abcd0001.0"
    left.touch()
    monkeypatch.setattr(mpi_session, "MAPPED_BY", -1.0)
    mpi_session.sweep(time.time() + 60)
    assert left.exists(), "older than the job"
    mpi_session.sweep(0)
    assert not left.exists()


@pytest.mark.parametrize(
    ("variables", "alone"),
    [
        ({}, True), ({"SLURM_JOB_NUM_NODES": "1"}, True), ({"SLURM_JOB_NUM_NODES": "2"}, False),
        ({"PBS_NODEFILE": "n"}, False), ({"SILOFOLD_LAUNCHER": "srun"}, False), ({"LSB_DJOB_HOSTFILE": "n"}, False),
    ],
)  # fmt: skip
def test_ranks_on_other_machines_are_told_of_no_folder_of_this_one(
    variables: dict[str, str],
    alone: bool,  # noqa: FBT001
    places: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del places
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with mpi_session.session() as environment:
        assert (mpi_session.MEMORIES[0] in environment) == alone


def test_a_machine_without_memory_to_share_gives_no_place_for_it(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mpi_session, "MEMORY", places[1] / "missing")
    with mpi_session.session() as environment:
        assert set(environment) == set(mpi_session.FOLDERS)
