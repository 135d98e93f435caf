"""``silofold status``, ``stop`` and ``scale``: look at a job and ask it things, by the files of its run folder alone."""

from __future__ import annotations

import socket
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from silofold.commands import options as shared
from silofold.core import console
from silofold.core.endings import DONE, ENDINGS, RESUMABLE, STOPPED, of_code
from silofold.core.errors import ConfigError, RunFolderError
from silofold.record import control, history, losses
from silofold.record.rundir import RunFolder

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from silofold.core.endings import Ending
    from silofold.core.summary import Summary
    from silofold.record.control import End, Status

WARNED = "warned"
"""Cause of an end that the batch system asked for: the time limit, or pre-emption."""
PATIENCE = {WARNED: 3, "rank-lost": 3, "rank-silent": 3}
"""Cause of an end → starts in a row that may end by it without a new checkpoint; of all others two."""
MOST = 2**16
"""Workers by which a job can be scaled."""
SILENCE = 15.0
"""Seconds without a sign of life after which a job is taken for dead."""


def add(subparsers: shared.Subparsers) -> None:
    """Add the three commands' options."""
    status, stop, scale = (subparsers.add_parser(name) for name in ("status", "stop", "scale"))
    for parser in (status, stop, scale):
        shared.add_folder(parser)
        parser.set_defaults(main=main)
    requeue = "for batch scripts, after `launch` ended with CODE: exit with 0 if the job is to be put back into the queue"
    status.add_argument("--requeue", type=int, metavar="CODE", help=requeue)
    status.add_argument("--warned", action="store_true", help="with --requeue: the batch system had asked the job to end")
    stop.add_argument("--now", action="store_true", help="in the middle of its round: that round is lost")
    for parser, wait, until in ((stop, 600, "the end of the job"), (scale, 60, "the next round")):
        told = f"for {until} (default: {wait})"
        parser.add_argument("--wait", type=shared.seconds, default=float(wait), metavar="SECONDS", help=told)
    scale.add_argument("--workers", type=int, required=True, metavar="CHANGE", help="by how many: +2, -1")


def main(options: argparse.Namespace) -> int:
    """Do one of the three, and return the exit code."""
    folder = RunFolder(options.run)
    if options.command == "status" and options.requeue is not None:
        return _requeue(folder, options.requeue, warned=options.warned)
    if options.command == "status":
        return _status(folder)
    if not _lives(folder, control.read_status(folder)):
        raise RunFolderError("job-none", f"{folder.path}: no job is at work in it; silofold status tells more")
    if options.command == "stop":
        return _stop(folder, now=options.now, wait=options.wait)
    return _scale(folder, options.workers, options.wait)


def _status(folder: RunFolder) -> int:
    """Print what a job is about, or how it ended; the exit code is that of its ending, 0 while it runs, 75 if it is dead."""
    status = control.read_status(folder)
    lives = _lives(folder, status)
    known = folder.record.exists() or not (lives or status)
    record = folder.read_record() if known else None
    rounds = history.read(folder.metrics) if folder.metrics.exists() else []
    again = (
        f"go on with --resume {folder.path}" if not record or record.baseline == "federated" else "the same command goes on"
    )
    state, ending = _state(folder, status, len(rounds), again, lives=lives)
    lines = [
        ("run folder", str(folder.path)),
        ("state", state),
        ("", "; ".join(filter(None, (_latest(rounds), losses.told(rounds))))),
        ("", history.untested_last(rounds, len(record.silos) if record else 0)),
    ]
    if ending and ending.code:
        lines.append(("next", ending.remedy))
    if status:
        lines += _people(status, record.ranks if record else ())
        lines.append(("last round", _phases(rounds[-1]) if rounds else ""))
    sys.stdout.write("".join(f"{console.shown(name):<12} {console.shown(text)}\n" for name, text in lines if text))
    return ending.code if ending else 0


def _state(folder: RunFolder, status: Status | None, rounds: int, again: str, *, lives: bool) -> tuple[str, Ending | None]:
    """Say how a job stands, and how it ended; no ending while it runs."""
    if folder.done.exists():
        return (status.ended if status and status.ended else "done"), DONE
    if lives and (status is None or status.ended):
        return f"at work after round {rounds}" if rounds else "starting: no round was begun yet", None
    if status is None:  # with rounds, a baseline that was interrupted or killed
        begun = f"ended after round {rounds}, and has said nothing: the same command goes on"
        return begun if rounds else f"no round was begun; start again with --resume {folder.path}", RESUMABLE
    age = time.time() - status.written
    if status.ended and not lives:
        # files of older versions name no ending, and tell of none but a stop or a save
        ending = next((ending for ending in ENDINGS if ending.name == status.ending), STOPPED)
        return f"{status.ended}{f' [{status.cause}]' if status.cause else ''}", ending
    if not lives:
        return f"dead: no sign of life for {_span(age)}; {again}", RESUMABLE
    left = max(0, status.wanted - status.counted) * status.usual_seconds
    story = f"running for {_span(time.time() - status.started)}: {status.counted} of {status.wanted} rounds done, "
    story += f"round {status.round}: {status.phase} for {_span(status.round_seconds + age)}"
    return story + (f"; about {_span(left)} left" if left else ""), None


def _requeue(folder: RunFolder, code: int, *, warned: bool) -> int:
    """Answer a batch script: exit code 0 if its job is to be put back into the queue, 1 if not, and why in one line."""
    ending = of_code(code)
    try:
        status = control.read_status(folder)
    except RunFolderError:  # cut off by the crash of a node, say: the exit code decides
        status = None
    if warned and code == 0:
        end = control.note_end(folder, WARNED)
    elif code != ending.code:  # launch itself was killed, and has noted nothing
        end = control.note_end(folder, "rank-lost")
    else:
        end = control.read_end(folder)
        if ending is RESUMABLE and (end.asked or not end.times):  # who started the ranks has noted nothing
            end = control.note_end(folder, status.cause if status and status.ending == ending.name else "rank-lost")
    again, story = requeues(ending, end, warned=warned, done=folder.done.exists())
    if again and not control.keep_end(
        folder, msgspec.structs.replace(end, asked=True)
    ):  # or a full disk would be tried again for ever
        again, story = False, f"not requeued: {folder.path} cannot be written; make room, and submit again"
    told = f": {status.ended}" if status and status.ended and not again and code else ""
    console.say(f"{story}{told}")
    if not again:
        control.forget_end(folder)  # who submits the job once more has mended something
    return 0 if again else 1


def requeues(ending: Ending, end: End, *, warned: bool, done: bool) -> tuple[bool, str]:
    """Decide whether a batch job starts again, and say why.

    Parameters
    ----------
    ending
        How it ended, by the exit code of `launch`.
    end
        How its last starts ended.
    warned
        Whether the batch system asked it to end: then a run that stopped as asked is to go on.
    done
        Whether the run is complete.
    """
    if done:
        return False, "the run is complete"
    if not (ending.requeue or (warned and ending.code == 0)):
        return (
            False,
            f"not requeued, {ending.name}: {ending.remedy}"
            if ending.code
            else "stopped as asked: submit again, and it goes on",
        )
    most = PATIENCE.get(end.cause, 2)
    if end.times >= most:
        return False, f"not requeued: {end.times} starts in a row ended by {end.cause} and without a new checkpoint"
    return True, "not finished: back into the queue"


def _people(status: Status, ranks: Sequence[Mapping[str, object]]) -> list[tuple[str, str]]:
    hosts = {str(rank["role"]): str(rank.get("host", "?")) for rank in ranks}
    by_host: dict[str, list[str]] = {}
    for title, host in hosts.items():
        by_host.setdefault(host, []).append(title)
    lines = [(f"on {host}", ", ".join(titles)) for host, titles in by_host.items()]
    late = ", ".join(f"{title} ({count} windows)" for title, count in status.late.items())
    return [
        *lines,
        ("training", ", ".join(status.workers)),
        ("in reserve", ", ".join(status.standbys)),
        ("waiting for", ", ".join(status.waiting_for)),
        ("late", late),
        ("dead", ", ".join(status.dead)),
        ("benched", ", ".join(f"silo {silo}" for silo in status.benched)),
    ]


def _latest(rounds: list[Summary]) -> str:
    best = next((summary for summary in reversed(rounds) if summary.accuracy is not None), None)
    if best is None or best.accuracy is None:
        return ""
    return f"round {best.round}: accuracy {best.accuracy:.2%} of {best.test_examples} test images"


def _phases(summary: Summary) -> str:
    seconds = summary.seconds
    names = ("broadcast", "evaluate", "train", "wait", "reduce", "apply")
    parts = ", ".join(f"{name} {getattr(seconds, name):.2f}" for name in names)
    return f"round {summary.round} took {seconds.total:.2f} s: {parts}"


def _lives(folder: RunFolder, status: Status | None) -> bool:
    """Whether a job is at work: by its lock, or where locks are not shared between machines by its sign of life."""
    if control.is_running(folder):
        return True
    elsewhere = status is not None and not status.ended and status.host != socket.gethostname()
    return bool(status and elsewhere and time.time() - status.written < SILENCE)


def _stop(folder: RunFolder, *, now: bool, wait: float) -> int:
    control.ask_stop(folder, now=now, to=_job(folder))
    if not _until_gone(folder, wait):
        sys.stdout.write(
            f"asked: the job ends {'now' if now else 'after its round'}; silofold status {folder.path} tells when\n"
        )
        return 0
    status = control.read_status(folder)
    sys.stdout.write(f"{console.shown(status.ended) if status and status.ended else 'the job has ended'}\n")
    return 0


def _scale(folder: RunFolder, change: int, wait: float) -> int:
    if not 0 < abs(change) <= MOST:
        raise ConfigError("job-change", f"--workers {change}: expected a change by 1 to {MOST} workers: +2, -1")
    before = control.read_status(folder)
    if before and change > 0 and not before.standbys:
        raise RunFolderError(
            "job-scale", f"{folder.path}: no rank is in reserve, expected some: start with --standby to scale out later"
        )
    if before and change < 0 and len(before.workers) <= 1:
        raise RunFolderError(
            "job-scale", f"{folder.path}: found {len(before.workers)} workers, expected at least 2 to send one back"
        )
    control.ask_scale(folder, change, _job(folder))
    deadline = time.monotonic() + wait
    while time.monotonic() < deadline and control.is_running(folder):
        after = control.read_status(folder)
        if before and after and len(after.workers) != len(before.workers):
            sys.stdout.write(f"workers: {len(before.workers)} -> {len(after.workers)}, in reserve: {len(after.standbys)}\n")
            return 0
        time.sleep(0.1)
    reserve = len(before.standbys) if before else 0
    sys.stdout.write(
        f"asked: by {change:+d} workers from the next round on, as far as there are ranks in reserve ({reserve}), silos and "
        f"workers for it; silofold status {folder.path} tells\n"
    )
    return 0


def _job(folder: RunFolder) -> float:
    """Return the name of the job that is at work, by which it is asked; 0 while it starts."""
    status = control.read_status(folder)
    return status.started if status and not status.ended else 0.0


def _until_gone(folder: RunFolder, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while control.is_running(folder):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.1)
    return True


def _span(seconds: float) -> str:
    minutes, rest = divmod(max(0.0, seconds), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest:.0f} s" if minutes else f"{rest:.1f} s"
