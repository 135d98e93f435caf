"""The same settings under another commit: every round's digest must be the same, but where a row says why not.

    python tests/same_as.py 69677e6 [--rows PATTERN] [--record]

plays each row of the table by the commit, in a worktree in build/ that is removed afterwards, and by this checkout, with the
packages of the environment that runs it, on silos that the commit packs. ``--record`` keeps the commit's digests of the rows
that every test run repeats, in tests/same_bits.json, for this CPU and torch. Ends with 1 if a digest differs.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import mpirun
from silofold.training import instruction_set

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "tests" / "same_bits.json"
RECIPE = """
seed = 5
device = "cpu"
[rounds]
count = 3
[local]
epochs = 2
batch_size = 8
lr = 0.05
"""


class Row(NamedTuple):
    """Settings whose model must have the same bits.

    Attributes
    ----------
    settings
        ``key=value`` each.
    shape
        Servers and workers; of a baseline its processes alone.
    differs
        Why the commit's digests may be others; empty: they may not.
    repeated
        Whether every test run repeats it.
    kind
        ``run``, or a baseline: ``local``, ``central``.
    personalise
        Epochs of further training in each silo, by ``evaluate`` of what was trained.
    """

    settings: tuple[str, ...] = ()
    shape: tuple[int, int] = (1, 2)
    differs: str = ""
    repeated: bool = False
    kind: Literal["run", "local", "central"] = "run"
    personalise: int = 0


def own(name: str, *settings: str) -> tuple[str, ...]:
    """Name a model of tests/own_model.py."""
    return (f"model.name=own_model:{name}", *settings)


ADAM = ("server_optimizer.name=adaptive", "server_optimizer.rule=adam")
MOMENTUM = ("server_optimizer.momentum=0.9", "server_optimizer.lr=0.5")
SAMPLE = ("cohort.name=sample", "cohort.size=3")
BUFFERS = "before the table of elements, server optimizers moved buffers as if they were parameters"
DECAY = "before the table of elements, weight decay moved parameters that have no gradient"
ROWS = {
    "mean": Row(("rounds.count=5",)),
    "equal weights": Row(("strategy.weights=equal",)),
    "median": Row(("strategy.name=median",), (1, 1), repeated=True),
    "server momentum": Row(MOMENTUM, (2, 2)),
    "adam": Row((*ADAM, "local.weight_decay=0.01"), (1, 1), repeated=True),
    "yogi": Row(("server_optimizer.name=adaptive", "server_optimizer.rule=yogi")),
    "adagrad": Row(("server_optimizer.name=adaptive", "server_optimizer.rule=adagrad"), (3, 2)),
    "median under adam": Row(("strategy.name=median", *ADAM), (2, 2)),
    "float32 on one worker": Row(("reduction=float32",), (1, 1)),
    "float32 under momentum": Row(("reduction=float32", *MOMENTUM), (2, 1)),
    "dropped last batches": Row(("local.drop_last=true",)),
    "weight decay": Row(("local.weight_decay=0.01",)),
    "no momentum": Row(("local.momentum=0",)),
    "kept momentum": Row(("local.keep_momentum=true", *SAMPLE, "rounds.count=4"), (1, 1), repeated=True),
    "sampled cohorts": Row((*SAMPLE, "rounds.count=5")),
    "dealt cohorts": Row((*SAMPLE, "data.memory=1", "rounds.count=5"), (1, 3)),
    "several threads": Row(("local.threads=2",), (1, 1)),
    "bfloat16": Row(("local.precision=bfloat16",), (1, 1), repeated=True),
    "pinned to AVX2": Row(("local.cpu_isa=avx2",)),
    "evaluated at times": Row(("rounds.evaluate_every=2", "rounds.checkpoint_every=0")),
    "no shared memory": Row(("shared_memory=false",), (2, 2)),
    "several servers": Row(("seed=6",), (4, 3)),
    "color channels": Row(("model.channels=3",)),
    "own model": Row(own("Plain", "local.weight_decay=0.1"), (2, 2)),
    "frozen layer under adam": Row(own("Frozen", *ADAM)),
    "batch normalisation": Row(own("Pictures", "local.weight_decay=0.01"), (1, 1), repeated=True),
    "batch normalisation, median": Row(own("Pictures", "strategy.name=median"), (2, 2)),
    "batch normalisation, float32": Row(own("Pictures", "reduction=float32"), (1, 1)),
    "batch normalisation under momentum": Row(own("Pictures", *MOMENTUM), differs=BUFFERS),
    "batch normalisation under adam": Row(own("Pictures", *ADAM), differs=BUFFERS),
    "a parameter without gradient": Row(own("Spare")),
    "a parameter without gradient under weight decay": Row(own("Spare", "local.weight_decay=0.1"), differs=DECAY),
    "compiled": Row(("local.compile=true", "rounds.count=2"), (1, 1)),
    "baseline local": Row(kind="local", personalise=2, repeated=True),
    "baseline local, one process": Row(shape=(0, 1), kind="local"),
    "baseline local, kept momentum": Row(("local.keep_momentum=true", "rounds.checkpoint_every=2"), kind="local"),
    "baseline local, batch normalisation": Row(own("Pictures", "local.weight_decay=0.01"), kind="local"),
    "baseline local, bfloat16": Row(("local.precision=bfloat16", "local.momentum=0"), kind="local"),
    "baseline local, decay of what has no gradient": Row(
        own("Spare", "local.weight_decay=0.1"), kind="local", differs=DECAY
    ),
    "baseline local, several threads": Row(("local.threads=2", "local.drop_last=true"), (0, 1), kind="local"),
    "baseline central": Row(kind="central", personalise=1, repeated=True),
    "baseline central, kept momentum": Row(("local.keep_momentum=true", "local.epochs=3"), kind="central"),
    "baseline central, batch normalisation": Row(own("Pictures", "local.weight_decay=0.01"), kind="central"),
    "baseline central, dropped last batches": Row(("local.drop_last=true", "rounds.evaluate_every=2"), kind="central"),
    "baseline central, decay of what has no gradient": Row(
        own("Spare", "local.weight_decay=0.1"), kind="central", differs=DECAY
    ),
    "personalised": Row(personalise=2, repeated=True),
    "personalised, batch normalisation": Row(own("Pictures", "local.weight_decay=0.01"), personalise=1),
    "personalised, kept momentum": Row(("local.keep_momentum=true", "local.drop_last=true"), (1, 1), personalise=3),
    "personalised, bfloat16": Row(("local.precision=bfloat16",), (1, 1), personalise=1),
}


def machine() -> str:
    """Name all that decides the bits here: CPU and caches, its instructions, libraries, and variables that they read."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    facts = dict(
        re.findall(r"^(vendor_id|cpu family|model|stepping|model name|cache size|flags)\s*: (.*)$", text, re.MULTILINE)
    )
    flags = hashlib.sha256(facts.pop("flags", "").encode()).hexdigest()[:8]
    packages = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "numpy")]
    variables = [f"{key}={value}" for key, value in sorted(instruction_set.variables().items())]
    return ", ".join([*packages, *(f"{key} {value}" for key, value in sorted(facts.items())), f"flags {flags}", *variables])


def pack(source: Path, folder: Path) -> None:
    """Write the tiny silos, by the program and the test that lie in `source`."""
    code = "import pathlib, sys, tiny_silos; tiny_silos.pack(pathlib.Path(sys.argv[1]))"
    where = os.pathsep.join(map(str, (source / "src", source / "tests")))
    subprocess.run([sys.executable, "-c", code, str(folder)], env=os.environ | {"PYTHONPATH": where}, check=True)


def play(source: Path, row: Row, data: Path, folder: Path) -> list[str]:
    """Play a row by the program that lies in `source`: the model's digest and the digest of the figures of each round.

    A run without what follows it has the model's digests alone.

    Raises
    ------
    RuntimeError
        It failed.
    """
    folder.mkdir(parents=True)
    (folder / "run.toml").write_text(RECIPE, encoding="ascii")
    servers, workers = row.shape
    verb = ["launch"] if row.kind == "run" else ["baseline", row.kind]
    words = [*verb, str(folder / "run.toml"), "--data", str(data), "--out", str(folder / "run"), "--workers", str(workers)]
    words += ["--servers", str(servers)] if row.kind == "run" else []
    command(source, [*words, *(word for setting in row.settings for word in ("--set", setting))])
    known = subprocess.run(
        ["git", "-C", str(source), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout
    played = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))["git_revision"]
    if not known.startswith(played.removesuffix("-dirty")[:40]):
        raise RuntimeError(f"{source} is {known}, but {played} was played")
    rounds = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found = [one["model_sha256"] for one in rounds]
    if row.kind != "run":
        found = [f"{digest} {figures(one)}" for digest, one in zip(found, rounds, strict=True)]
    if row.personalise or row.kind == "local":
        out = folder / "found.json"
        command(source, ["evaluate", str(folder / "run"), "--personalise", str(row.personalise), "--out", str(out)])
        found.append(evaluated(json.loads(out.read_text(encoding="utf-8"))))
    return found


def command(source: Path, words: list[str]) -> None:
    """Let the program that lies in `source` do something.

    Raises
    ------
    RuntimeError
        It failed.
    """
    where = os.pathsep.join(map(str, (source / "src", ROOT / "tests")))
    ended = mpirun.run([sys.executable, "-m", "silofold", *words], 300, {"PYTHONPATH": where})
    if ended.code:
        raise RuntimeError(f"{' '.join(words)} of {source} ended with {ended.code}: {ended.err.strip()[-800:]}")


SHOWN = ("accepted", "train_loss", "accuracy", "accuracy_low", "accuracy_high", "test_loss", "test_examples", "shard_sha256")


def figures(summary: dict[str, Any]) -> str:
    """Digest all that a round of a baseline says of losses and accuracies, to the last bit."""
    silos = [
        [one[key] for key in ("name", "accuracy", "train_loss", "train_examples", "reason")] for one in summary["silos"]
    ]
    return _digest([[summary[key] for key in SHOWN], silos])


def evaluated(result: dict[str, Any]) -> str:
    """Digest all that `silofold evaluate` counts and adds up, to the last bit."""
    measured = [result[key] for key in ("global_model", "personalised") if result.get(key)]
    told = [
        [one["loss"], one["confusion"], one["calibration_error"], [silo["correct"] for silo in one["silos"]]]
        for one in measured
    ]
    matrix = [[one["correct"] for one in row] for row in result.get("matrix") or []]
    return _digest([result["model_sha256"], told, matrix])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """Check a commit out in a worktree of its own, which is removed afterwards."""
    git = ["git", "-C", str(ROOT), "worktree"]
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="same_as_") as folder:
        place = Path(folder) / "base"
        subprocess.run([*git, "add", "--quiet", "--detach", str(place), commit], check=True)
        try:
            yield place
        finally:
            subprocess.run([*git, "remove", "--force", str(place)], check=True)


def compare(base: Path, names: list[str], folder: Path) -> tuple[dict[str, list[str]], int]:
    """Play rows by both programs and tell of each; return the digests of the base, and how many are not as they must be."""
    pack(base, folder / "silos")
    seen: dict[str, list[str]] = {}
    wrong = 0
    for number, name in enumerate(names):
        began, row = time.monotonic(), ROWS[name]
        try:
            seen[name] = play(base, row, folder / "silos", folder / f"{number}_base")
            found = play(ROOT, row, folder / "silos", folder / f"{number}_here")
        except RuntimeError as fault:
            print(f"FAILED   {name}: {fault}", flush=True)
            wrong += 1
            continue
        equal = seen[name] == found
        wrong += not equal and not row.differs
        word = "equal" if equal else "differs" if row.differs else "DIFFERS"
        why = f" ({row.differs})" if row.differs else ""
        told = f"{len(found)} rounds, {seen[name][-1][:12]} {found[-1][:12]}, {time.monotonic() - began:.0f} s"
        print(f"{word:8} {name}: {told}{why}", flush=True)
    return seen, wrong


def main() -> int:
    """Compare, and record if that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", metavar="COMMIT", help="what must have had the same bits")
    parser.add_argument("--rows", default="*", metavar="PATTERN", help="rows of the table, as 'batch*' (default: all)")
    parser.add_argument("--record", action="store_true", help="keep the digests of the repeated rows for this machine")
    given = parser.parse_args()
    can = "avx2" in instruction_set.cpu()[1]
    names = [name for name in ROWS if fnmatch.fnmatch(name, given.rows) and (can or name != "pinned to AVX2")]
    with checked_out(given.base) as base, tempfile.TemporaryDirectory() as folder:
        seen, wrong = compare(base, names, Path(folder))
    expected = sum(bool(ROWS[name].differs) for name in names)
    print(f"{len(names)} rows, {expected} of them may differ; not as they must be: {wrong}")
    if given.record and not wrong:
        kept = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
        kept.setdefault(machine(), {}).update({name: digests for name, digests in seen.items() if ROWS[name].repeated})
        RECORDED.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
