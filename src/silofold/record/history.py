"""The run's own record of its rounds, ``metrics.jsonl``: one JSON line a round, read back on resume and replay."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from silofold.core import files, guarded
from silofold.core.errors import RunFolderError
from silofold.core.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from silofold.core.summary import SiloSummary


MOST = 1024 * guarded.MIB
"""Bytes that the file may have: a thousand rounds of ten thousand silos."""


LONGEST = 16 * guarded.MIB
"""Bytes that a line may have."""


class History:
    """Appends summaries to a file that a crash cannot leave inconsistent with the checkpoints.

    Parameters
    ----------
    path
        The file.
    earlier
        Rounds to begin with; whatever else the file holds (rounds after the checkpoint that is resumed) is dropped.
    """

    def __init__(self, path: Path, earlier: Sequence[Summary]) -> None:
        self.earlier = tuple(earlier)
        files.write_atomically(path, b"".join(map(_line, earlier)))
        self._path = path
        self._file = path.open("ab", buffering=0)

    def append(self, summary: Summary) -> None:
        """Write one line and make it durable.

        Raises
        ------
        RunFolderError
            The disk is full, or the file is no longer there.
        """
        self.check()
        try:
            line = memoryview(_line(summary))
            while line:  # a full disk may take a part of it, and only then say so
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as fault:
            raise RunFolderError("run-write", f"{self._path}: {fault.strerror}") from None

    def check(self) -> None:
        """Find out whether the file still lies where it was opened: what is written to another one is lost.

        Raises
        ------
        RunFolderError
            It was removed or replaced, alone or with its folder.
        """
        try:
            there = os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            there = False
        except OSError:  # a file system that does not answer now may do so again; a write says what is wrong
            there = True
        if not there:
            raise RunFolderError(
                "run-vanished",
                f"{self._path}: was removed or replaced while the job was at work: the record of its rounds is lost; "
                "silofold evaluate takes a checkpoint that is left",
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(path: Path) -> list[Summary]:
    """Read all whole lines; a last line that a crash cut short is left out.

    Raises
    ------
    RunFolderError
        The file cannot be read, or a line before the last is damaged.
    """
    try:
        lines = guarded.read(path, MOST).splitlines(keepends=True)
    except OSError as fault:
        raise RunFolderError("run-read", f"{path}: {fault.strerror}") from None
    except guarded.UnfitError as fault:
        raise RunFolderError("run-read", f"{path}: {fault}") from None
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    summaries = []
    for number, line in enumerate(lines, 1):
        try:
            if len(line) > LONGEST:
                raise guarded.UnfitError(f"found {len(line)} bytes, expected at most {LONGEST}")  # noqa: TRY301
            summaries.append(guarded.decode(line, Summary))
        except guarded.UnfitError as fault:
            raise RunFolderError("run-read", f"{path}, line {number}: not the summary of a round: {fault}") from None
        if summaries[-1].round != number:
            raise RunFolderError(
                "run-read", f"{path}, line {number}: found round {summaries[-1].round}, expected round {number}"
            )
    return summaries


def contradictions(rounds: Iterable[Summary], names: Sequence[str]) -> Iterator[str]:
    """Tell what lines say that cannot be of a run on these silos, by the number of the line."""
    for one in rounds:
        told = {*one.cohort, *one.accepted, *(silo.silo for silo in one.silos)}
        if told and not (min(told) >= 0 and max(told) < len(names)):
            yield f"line {one.round}: names silo {max(told)}, expected 0 to {len(names) - 1}"
        elif any(names[silo.silo] != silo.name for silo in one.silos):
            yield f"line {one.round}: names silos otherwise than the run's data"
        if not set(one.accepted) <= set(one.cohort) or any(sorted(set(of)) != of for of in (one.cohort, one.accepted)):
            yield f"line {one.round}: accepted names silos that are not in the cohort, or one twice"
        shares = [one.accuracy, one.accuracy_low, one.accuracy_high, *(silo.accuracy for silo in one.silos)]
        if any(share is not None and not 0 <= share <= 1 for share in shares):
            yield f"line {one.round}: accuracy: found a share that is not from 0 to 1"


def fill_in(summary: Summary, untold: Sequence[SiloSummary]) -> Summary:
    """Add the silos that are left out of the file; `untold` has an entry of each silo."""
    return msgspec.structs.replace(summary, silos=list(({one.silo: one for one in [*untold, *summary.silos]}).values()))


def untested(summary: Summary, silos: int) -> str:
    """Say of an evaluated round which of so many silos its accuracy leaves out, wholly or in part; empty if none."""
    lacking = [silo for silo in summary.silos if silo.untested]
    if not lacking:
        return ""
    first = f"{lacking[0].name}: {lacking[0].untested}"
    were, others = ("was", "") if len(lacking) == 1 else ("were", ", the first one")
    return f"{len(lacking)} of {silos} silos {were} not fully evaluated{others}: {first}"


def untested_last(rounds: Sequence[Summary], silos: int) -> str:
    """Say the same of the last round that was evaluated."""
    last = next((one for one in reversed(rounds) if one.accuracy is not None), None)
    return untested(last, silos) if last else ""


def _line(summary: Summary) -> bytes:
    """Encode a summary, without the silos that have nothing to tell: thousands of them would be most of the file."""
    cohort = set(summary.cohort)
    told = [
        silo for silo in summary.silos if silo.accuracy is not None or silo.reason or silo.untested or silo.silo in cohort
    ]
    return msgspec.json.encode(msgspec.structs.replace(summary, silos=told)) + b"\n"
