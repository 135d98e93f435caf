"""Kill whole jobs at random instants and resume them on other ranks: the models must be those of an undisturbed run.

Each trial starts a run, ends all its processes at once by SIGKILL (ranks and mpirun alike), resumes it on another number of
ranks and compares every round's digest. The model and what is saved with it (Adam's two moments, momentum of every silo)
are large for their training, so that much of a round is the writing of its checkpoint; every other trial waits until one
is being written. Prints a line a trial and a JSON object at the end; ends with 1 if any digest differs or no
kill struck a checkpoint in the making.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import NamedTuple

import mpirun
import tiny_silos
from silofold.commands.launching import launcher

ROUNDS = 20
SETTINGS = (
    f"rounds.count={ROUNDS}", "model.name=own_model:Net", "model.width=2000", "server_optimizer.name=adaptive",
    "local.keep_momentum=true", "local.drop_last=true", "local.epochs=1", "rounds.checkpoint_every=1",
)  # fmt: skip
SHAPES = [(servers, workers) for servers in (1, 2, 3) for workers in (1, 2, 3, 4)]
SECONDS = 150.0


class Trial(NamedTuple):
    """What one kill left, and how the run went on."""

    killed: tuple[int, int]
    """Servers and workers of the job that was killed."""
    resumed: tuple[int, int]
    recorded: int
    """Rounds in metrics.jsonl when it was killed."""
    checkpoint: int
    """Newest checkpoint."""
    draft: tuple[str, ...]
    """Files of the checkpoint that was being written."""
    equal: bool
    """Whether every round of the resumed run has the digest of the undisturbed run."""


def command(shape: tuple[int, int], recipe: Path, data: Path, out: Path) -> list[str]:
    """Command line of the run on so many servers and workers."""
    servers, workers = shape
    sets = [part for setting in (*SETTINGS, f"roles.servers={servers}") for part in ("--set", setting)]
    program = ["-m", "silofold", "train", str(recipe), "--data", str(data), "--out", str(out), *sets]
    return mpirun.command(1 + servers + workers, program)


def digests(out: Path) -> list[str]:
    """Digest of every round that is on record."""
    path = out / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line)["model_sha256"] for line in lines if line.endswith(b"\n")]


def environment(mark: str) -> dict[str, str]:
    """What the ranks need, and the mark by which they are killed."""
    return launcher.environment(1) | {"PYTHONPATH": str(Path(__file__).parent), mpirun.MARK: mark}


def attempt(number: int, expected: list[str], recipe: Path, data: Path, out: Path, rng: random.Random) -> Trial:
    """Start, kill, resume, compare.

    Raises
    ------
    AssertionError
        The job did not get as far as it should, or the resumed run failed.
    """
    killed = rng.choice(SHAPES)
    resumed = rng.choice([shape for shape in SHAPES if sum(shape) != sum(killed)])
    instant, aimed = rng.randrange(ROUNDS - 2), number % 2 == 1
    pause = rng.uniform(0, 0.03) if aimed else rng.uniform(0, 0.4)
    mark = uuid.uuid4().hex
    with mpirun.started(command(killed, recipe, data, out), environment(mark)) as process:
        deadline = time.monotonic() + SECONDS
        while len(digests(out)) < instant or (aimed and not list(out.glob("checkpoints/.round_*"))):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(pause)
        assert mpirun.kill(mark) >= 1 + sum(killed)
    drafts = sorted(path.name for path in out.glob("checkpoints/.round_*/*"))
    published = [int(path.name.removeprefix("round_")) for path in out.glob("checkpoints/round_*")]
    recorded = len(digests(out))
    ended = mpirun.run(command(resumed, recipe, data, out), SECONDS, environment(uuid.uuid4().hex))
    assert ended.code == 0, ended
    equal = digests(out) == expected and (out / "DONE").read_text().strip() == expected[-1]
    return Trial(killed, resumed, recorded, max(published, default=0), tuple(drafts), equal)


def run(kills: int, seed: int, folder: Path) -> list[Trial]:
    """Run the trials in a folder, after an undisturbed run."""
    data, recipe = tiny_silos.pack(folder / "silos"), folder / "run.toml"
    recipe.write_text(tiny_silos.RECIPE, encoding="utf-8")
    whole = mpirun.run(command((1, 2), recipe, data, folder / "whole"), SECONDS, environment(uuid.uuid4().hex))
    assert whole.code == 0, whole
    expected = digests(folder / "whole")
    rng, trials = random.Random(seed), []  # noqa: S311  (instants, no secrets)
    for number in range(kills):
        trial = attempt(number, expected, recipe, data, folder / f"run_{number}", rng)
        print(
            f"kill {number + 1:2}  {trial.killed} -> {trial.resumed} servers, workers  rounds on record {trial.recorded:2}  "
            f"checkpoint {trial.checkpoint:2}  draft of {len(trial.draft)} files  {'equal' if trial.equal else 'DIFFERENT'}",
            flush=True,
        )
        trials.append(trial)
    return trials


def main() -> int:
    """Run the trials and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25, help="trials (default: 25)")
    parser.add_argument("--seed", type=int, default=1, help="of instants and shapes (default: 1)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trials = run(given.kills, given.seed, Path(folder))
    result = {
        "mpi": launcher.find_mpirun()[1],
        "kills": len(trials),
        "equal": sum(trial.equal for trial in trials),
        "left_a_draft": sum(bool(trial.draft) for trial in trials),
        "left_a_draft_with_manifest": sum("manifest.json" in trial.draft for trial in trials),
        "before_the_first_checkpoint": sum(not trial.checkpoint for trial in trials),
    }
    print(json.dumps(result, indent=2))
    return int(result["equal"] != len(trials) or not result["left_a_draft"])


if __name__ == "__main__":
    sys.exit(main())
