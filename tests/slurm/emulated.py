"""A real SLURM of three emulated nodes on this machine: munge, slurmctld and three slurmd on loopback.

Everything lies in one folder and listens on free ports, so that it meets no SLURM that is installed here. Each node has a
host name and a mount table of its own (Linux namespaces): what lies below `Cluster.scratch` is another disk on each node.
Nothing outlives the cluster: daemons are ended by the process ids that we started them with.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

NODES = ("n1", "n2", "n3")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel", "srun", "unshare", "setpriv")
NODE = "CPUs=8 RealMemory=7000 Gres=gpu:2 State=UNKNOWN"
CREDENTIALS = 8
"""Seconds that a job credential lives; a requeued job waits that long (two minutes where SLURM's default stands)."""

CONFIGURATION = """
ClusterName=emulated
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={port}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={credentials}
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
ReturnToService=2
SlurmdParameters=config_overrides
JobRequeue=1
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=sched_min_interval=500000,bf_interval=5
KillWait=5
SlurmdTimeout=20
MessageTimeout=30
CommunicationParameters=NoInAddrAny
{nodes}
PartitionName=batch Nodes=n[1-3] Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES:4
"""


def missing() -> str:
    """Say why a cluster cannot be emulated here; empty where it can."""
    absent = [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]
    if absent:
        return f"no {', '.join(absent)} on this machine: apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "emulated nodes have mount tables of their own, which only root can make"
    if subprocess.run(["unshare", "--mount", "--uts", "true"], capture_output=True, check=False).returncode:
        return "this machine allows no new namespaces (unshare --mount --uts)"
    return ""


class Cluster:
    """Three nodes `n1`, `n2`, `n3` of eight cores each, as long as the ``with`` block lasts.

    Attributes
    ----------
    folder
        Configuration, state and logs of the daemons.
    scratch
        A folder that is another one on each node; on this machine `on_node` has what a node sees there.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="emulated-slurm-"))
        self.folder.chmod(0o755)  # munge's clients of any user pass through
        self.scratch = self.folder / "scratch"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        """Start the daemons and wait until all nodes are idle."""
        try:
            self._configure()
            files = {"socket": "munge.socket", **{f"{what}-file": f"munge.{what}" for what in ("key", "pid", "log", "seed")}}
            options = [f"--{option}={self.folder / name}" for option, name in files.items()]
            self._start("munged", ["munged", "--foreground", "--force", *options])
            until((self.folder / "munge.socket").exists, 20, "munged")
            self._start("slurmctld", ["slurmctld", "-D", "-c"])
            for node in NODES:
                self.start_node(node)
            until(lambda: self._states() == {"idle"}, 60, "idle nodes")
        except BaseException as fault:
            fault.add_note(self._logs())
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End what is left of jobs and daemons."""
        if "slurmctld" in self._daemons:
            self.ask("scancel", "--state=RUNNING")
            self.ask("scancel", "--state=PENDING")
            with_jobs = time.monotonic() + 15
            while self.ask("squeue", "--noheader").stdout.strip() and time.monotonic() < with_jobs:
                time.sleep(0.2)
        for name in reversed(list(self._daemons)):
            self._end(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- daemons -----------------------------------------------------------------------------------------------------

    def _configure(self) -> None:
        ports = _free_ports(1 + len(NODES))
        for name in ("state", "scratch", *(f"spool.{node}" for node in NODES), *(f"scratch.{node}" for node in NODES)):
            (self.folder / name).mkdir()
        for index in range(2):  # what stands for a GPU: SLURM deals out device files and looks no further
            os.mknod(self.folder / f"gpu{index}", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(64))
        key.chmod(0o400)
        hosts = Path("/etc/hosts").read_text(encoding="utf-8")
        (self.folder / "hosts").write_text(f"{hosts}\n127.0.0.1 {' '.join(NODES)}\n", encoding="utf-8")
        nodes = [
            f"NodeName={node} NodeHostname={node} NodeAddr=127.0.0.1 Port={port} {NODE}"
            for node, port in zip(NODES, ports[1:], strict=True)
        ]
        text = CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0], port=ports[0], folder=self.folder, credentials=CREDENTIALS,
            nodes="\n".join(nodes),
        )  # fmt: skip
        (self.folder / "slurm.conf").write_text(text, encoding="ascii")
        gres = f"Name=gpu File={self.folder}/gpu[0-1]\n"
        (self.folder / "gres.conf").write_text(gres, encoding="ascii")

    def start_node(self, node: str) -> None:
        """Start a node's slurmd in namespaces of its own."""
        mounts = {self.on_node(node): self.scratch, self.folder / "hosts": Path("/etc/hosts")}
        steps = [f"hostname {node}", *(f"mount --bind {source} {place}" for source, place in mounts.items())]
        script = " && ".join([*steps, f"exec slurmd -D -c -N {node}"])
        self._start(node, ["unshare", "--mount", "--uts", "bash", "-c", script])

    def kill_node(self, node: str) -> None:
        """Let a node die: its slurmd and all that runs there, at once and without a word."""
        for pid in [*self.processes(node), self._daemons[node].pid]:
            _kill(pid)
        self._daemons.pop(node).wait()

    def on_node(self, node: str) -> Path:
        """Where this machine has what a node sees as `scratch`."""
        return self.folder / f"scratch.{node}"

    def processes(self, node: str) -> list[int]:
        """Processes of jobs on a node: those of its name space of host names but its slurmd."""
        slurmd = self._daemons[node].pid
        space = _space(slurmd)
        if space in {None, _space(os.getpid())}:  # it has ended, or has not entered its own yet: then nothing is the node's
            return []
        return [pid for pid in _pids() if pid != slurmd and _space(pid) == space]

    def running(self, node: str, pattern: str) -> list[int]:
        """Processes of jobs on a node whose command line matches."""
        return [pid for pid in self.processes(node) if re.search(pattern, _command(pid))]

    def _start(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            # ended with us, however we end
            self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *command],
                env=self.environment,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _end(self, name: str) -> None:
        if name in NODES:
            for pid in self.processes(name):
                _kill(pid)
        daemon = self._daemons.pop(name)
        daemon.terminate()
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _logs(self) -> str:
        """The last lines of every daemon, for a fault at start."""
        files = [*self.folder.glob("*.out"), *self.folder.glob("*.log")]
        return "\n".join(f"{path.name}: {path.read_text(errors='replace')[-300:]}" for path in files)

    def _states(self) -> set[str]:
        return set(self.ask("sinfo", "--noheader", "--Node", "--format=%T").stdout.split())

    # --- a user's commands -------------------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a user of this cluster; nothing of a SLURM around us."""
        clean = {
            key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "OMPI_", "PRTE_", "PMIX_"))
        }
        return clean | {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": _path()}

    def ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of SLURM's."""
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL
        )

    def submit(self, script: Path, *options: str, environment: Mapping[str, str] | None = None, folder: Path) -> int:
        """Submit a batch script from a folder and return the job's number."""
        answer = subprocess.run(
            ["sbatch", "--parsable", *options, str(script)], env=self.environment | dict(environment or {}), cwd=folder,
            capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert answer.returncode == 0, answer
        return int(answer.stdout.partition(";")[0])

    def job(self, number: int | str) -> dict[str, str]:
        """What ``scontrol show job`` says."""
        told = self.ask("scontrol", "--oneliner", "show", "job", str(number)).stdout
        return dict(re.findall(r"(\w+(?::\w+)*)=(\S*)", told.partition("\n")[0]))

    def wait(self, jobs: Sequence[int | str], seconds: float, states: frozenset[str] = frozenset()) -> None:
        """Wait until jobs are in one of these states; by default until they are over."""
        over = states or frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "DEADLINE"})
        until(
            lambda: all(self.job(number).get("JobState") in over for number in jobs), seconds, f"jobs {jobs} in {set(over)}"
        )


def until(happened: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for something to happen.

    Raises
    ------
    TimeoutError
        It has not within so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.2)


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _space(pid: int) -> Path | None:
    try:
        return Path(f"/proc/{pid}/ns/uts").readlink()
    except OSError:  # it has ended meanwhile
        return None


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
