"""Measure a federation of thousands of silos of which a few train in each round.

The shape is that of the public benchmark of FLUTE (arXiv:2203.13789): 3,400 silos as large as FEMNIST's writers, 10 a round,
batches of 20, one epoch, a network of two convolutions and 1.2 million parameters. The pictures are made up: time does not
depend on them. Prints seconds from start to round 1, seconds a round (median of the later half), memory of all ranks after
the first and after the last round, and one JSON object.

N rounds with an evaluation of all silos every E of them take start + N × round + N / E × evaluation seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from aggregation import memory
from silofold.data import silo as silos

READY: Final = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) scheduler INFO ready", re.MULTILINE)
CLASSES: Final = 62
SIDE: Final = 28
MODELS: Final = {"lenet": "lenet", "convolutions": "many_silos:Convolutions"}
MEAN_EXAMPLES: Final = 197
"""Of FEMNIST's 671,585 training pictures of 3,400 writers."""
RECIPE: Final = """
[data]
memory = 100
[rounds]
count = {rounds}
start_window = 300
evaluate_every = {rounds}
checkpoint_every = {rounds}
[local]
epochs = 1
batch_size = 20
lr = 0.1
momentum = 0.0
[cohort]
name = "sample"
size = 10
[model]
name = "{model}"
"""


class Convolutions(nn.Module):
    """The network of FedAvg's successors on FEMNIST (arXiv:2003.00295): 1,206,590 parameters at 28×28 pixels, 62 classes.

    Parameters
    ----------
    classes
        Number of classes.
    image_shape
        (H, W).
    """

    def __init__(self, classes: int, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        height, width = ((side - 4) // 2 for side in image_shape[:2])
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3)
        self.fc1, self.fc2 = nn.Linear(64 * height * width, 128), nn.Linear(128, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (B, 1, H, W) to (B, classes) logits."""
        x = functional.relu(self.conv1(images))
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = functional.dropout(x, 0.25, self.training).flatten(1)
        x = functional.dropout(functional.relu(self.fc1(x)), 0.5, self.training)
        logits: torch.Tensor = self.fc2(x)
        return logits


def make(folder: Path, count: int) -> None:
    """Write silos of made-up pictures, as unequal in size as people are diligent."""
    rng = np.random.default_rng(1)
    layout = silos.Layout(tuple(str(index) for index in range(CLASSES)), (SIDE, SIDE), "none", "made up")
    sizes = np.maximum(20, rng.lognormal(np.log(MEAN_EXAMPLES) - 0.08, 0.4, count)).astype(int)
    pictures = rng.integers(0, 256, (int(sizes.max()) + count, SIDE, SIDE), np.uint8)
    infos = []
    for index, size in enumerate(map(int, sizes)):
        splits: dict[silos.SplitName, silos.SplitStream] = {}
        for split, examples in (("train", size), ("test", max(2, size // 9))):
            labels = rng.integers(0, CLASSES, examples).astype(np.int32)
            batch = (pictures[index : index + examples], labels, np.zeros(examples, np.int32))
            splits[split] = silos.SplitStream(examples, [batch])  # type: ignore[index]
        name = f"silo_{index:04d}"
        infos.append(silos.write_silo(folder / f"{name}.h5", name, (f"writer {index}",), layout, splits))
    silos.write_manifest(folder, layout, infos)


def watch(out: Path, seen: list[int], ended: threading.Event) -> None:
    """Note the memory of all ranks each time that a round has been recorded."""
    while not ended.wait(0.2):
        lines = (out / "metrics.jsonl").read_bytes().count(b"\n") if (out / "metrics.jsonl").exists() else 0
        if lines > len(seen):
            ranks = json.loads((out / "run.json").read_text(encoding="utf-8"))["ranks"]
            seen += [sum(memory(Path(f"/proc/{rank['pid']}")) for rank in ranks)] * (lines - len(seen))


def federation(data: Path, model: str, rounds: int, roles: tuple[int, int], settings: list[str]) -> dict[str, Any]:
    """Run one federation and measure it."""
    with tempfile.TemporaryDirectory() as folder:
        recipe, out = Path(folder) / "run.toml", Path(folder) / "run"
        recipe.write_text(RECIPE.format(rounds=rounds, model=model), encoding="ascii")
        command = [sys.executable, "-m", "silofold", "launch", str(recipe), "--data", str(data), "--out", str(out)]
        servers, workers = map(str, roles)
        command += ["--servers", servers, "--workers", workers, *(f"--set={setting}" for setting in settings)]
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        seen: list[int] = []
        ended = threading.Event()
        watcher = threading.Thread(target=watch, args=(out, seen, ended))
        watcher.start()
        began = time.time()
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
        seconds = time.time() - began
        ended.set()
        watcher.join()
        if done.returncode:
            sys.exit(f"error: the federation ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        lines = (out / "metrics.jsonl").read_bytes().splitlines()
        ready = READY.search((out / "scheduler" / "scheduler.log").read_text(encoding="utf-8"))
        start = datetime.strptime(ready[1], "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp() - began if ready else 0.0
    entries = [json.loads(line)["seconds"] for line in lines]
    each = [entry["total"] for entry in entries]
    return {
        "model": model.rpartition(":")[2],
        "servers": roles[0],
        "workers": roles[1],
        "rounds": rounds,
        "whole_seconds": seconds,
        "start_seconds": start,
        "round_seconds": median(each[len(each) // 2 :]),
        "evaluation_seconds": seconds - start - sum(each),
        "bytes_of_record_a_round": max(map(len, lines)),
        "phases": {phase: round(median(entry[phase] for entry in entries), 4) for phase in entries[-1]},
        "gigabytes_after_round_1": seen[0] / 1e9,
        "gigabytes_halfway": seen[len(seen) // 2] / 1e9,
        "gigabytes_at_most": max(seen) / 1e9,
        "gigabytes_at_the_end": seen[-2] / 1e9,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--silos", type=int, default=3400, help="how many (default: 3400)")
    parser.add_argument("--data", type=Path, help="where they lie, or are left for the next time")
    parser.add_argument("--rounds", type=int, default=60, help="rounds of each federation (default: 60)")
    parser.add_argument("--servers", type=int, default=1, help="server ranks (default: 1)")
    parser.add_argument("--workers", type=int, default=2, help="worker ranks (default: 2)")
    parser.add_argument("--models", nargs="+", default=[*MODELS], choices=MODELS, help="which (default: all)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting, as in silofold launch")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = given.data or Path(folder)
        if not (data / silos.MANIFEST).exists():
            data.mkdir(parents=True, exist_ok=True)
            make(data, given.silos)
        rows = [
            federation(data, MODELS[model], given.rounds, (given.servers, given.workers), given.set)
            for model in given.models
        ]
    for row in rows:
        print(
            "  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
        )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
