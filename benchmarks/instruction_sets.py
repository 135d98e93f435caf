"""Measure what ``local.cpu_isa`` costs, and whether it gives the same bits on CPUs that are not the same.

Trains LeNet on pictures of noise, each time in a process of its own, the instruction sets by turns. Prints one JSON object:
for each instruction set the digest of the trained model and its seconds in relation to ``auto``. With ``--emulate`` a short
training also runs under `qemu-x86_64 -cpu NAME` (Debian: qemu-user), which tells the libraries that this is another CPU and
computes as that one would; its seconds mean nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from statistics import median
from typing import Final

SETS: Final = ("auto", "avx2", "avx512")
CHILD: Final = "--train"


def train(wanted: str, images: int) -> None:
    """Pin, train once, and print digest and seconds; runs in a process of its own."""
    from silofold.training import instruction_set  # noqa: PLC0415

    instruction_set.pin(wanted)  # type: ignore[arg-type]  # from our own command line
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415

    from silofold.config import Local  # noqa: PLC0415
    from silofold.core import digest, seeds  # noqa: PLC0415
    from silofold.training import build, device, local  # noqa: PLC0415

    place = device.choose("cpu", 0, 1)
    model = build.build({"name": "lenet", "channels": 3}, [str(label) for label in range(62)], (32, 32), 1, place)
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 256, (images, 32, 32)).astype(np.uint8)
    samples = local.load(pictures, rng.integers(0, 62, images), place)
    begin = time.perf_counter()
    local.Training(
        model, samples, Local(epochs=2), torch.zeros_like(model.gradient), seeds.generator(1, "shuffle"), 1e18
    ).to_end()
    print(digest.sha256(model.host.data)[:16], time.perf_counter() - begin, torch.backends.cpu.get_cpu_capability())


def measure(wanted: str, images: int, prefix: tuple[str, ...] = ()) -> tuple[str, float, str]:
    """Train in a process of its own.

    Raises
    ------
    SystemExit
        It failed.
    """
    ended = subprocess.run(
        [*prefix, sys.executable, __file__, CHILD, wanted, str(images)], capture_output=True, text=True, check=False
    )
    if ended.returncode:
        sys.exit(f"error: {wanted} {' '.join(prefix)}: {ended.stderr.strip()[-300:]}")
    digest, seconds, capability = ended.stdout.split()
    return digest, float(seconds), capability


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == [CHILD]:
        train(sys.argv[2], int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1600, help="pictures of a training (default: 1600)")
    parser.add_argument("--repeats", type=int, default=5, help="how often each is measured (default: 5)")
    parser.add_argument(
        "--emulate", action="append", default=[], metavar="CPU", help="also under QEMU as this CPU; repeatable"
    )
    given = parser.parse_args()
    measured = [{wanted: measure(wanted, given.images) for wanted in SETS} for _ in range(given.repeats)]
    seconds = {wanted: median(turn[wanted][1] for turn in measured) for wanted in SETS}
    short = {"this": {wanted: measure(wanted, 96)[0] for wanted in SETS}}
    for name in given.emulate:
        prefix = ("qemu-x86_64", "-cpu", name)
        short[name] = {wanted: measure(wanted, 96, prefix)[0] for wanted in ("auto", "avx2")}
    result = {
        "digests": {wanted: sorted({turn[wanted][0] for turn in measured}) for wanted in SETS},
        "torch_takes": {wanted: measured[0][wanted][2] for wanted in SETS},
        "seconds_over_auto": {wanted: round(seconds[wanted] / seconds["auto"], 2) for wanted in SETS},
        "digests_of_96_images": short,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
