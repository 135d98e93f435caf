"""Fit what a round costs beside training, and check the fit on jobs of other sizes and shapes.

A round of P parameters among W workers and S servers on C cores takes

    t = round + rank × (W + S) + work × W × (4 P + w P) / min(C, W) + sum × W × w P / min(C, S)    seconds,

w being 8 bytes a parameter for exact sums and 4 for float32: each worker reads the model and writes its sum, and each
server adds up its slice of all of them. The four coefficients are fitted to the jobs of ``FITTED`` (least squares of the
relative error, none below 0) for each plane of benchmarks/aggregation.py; the jobs of ``CHECKED`` are not used for that.
The memory of all ranks together is fitted as rank × (1 + W + S) + model × (4 P + W × (4 P + w P)) bytes. Prints
coefficients, measured and foretold figures, and one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from statistics import median
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

import aggregation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray


class Shape(NamedTuple):
    """A job: parameters, servers, workers, and how updates are added up."""

    parameters: int
    servers: int
    workers: int
    mode: str

    @property
    def width(self) -> int:
        """Bytes of one parameter of a sum."""
        return 8 if self.mode == "exact" else 4


FITTED: Final = [
    Shape(*values)
    for values in itertools.product((66_404, 1_000_000, 8_000_000), (1, 4), (2, 7), ("exact", "float32"))
]  # fmt: skip
CHECKED: Final = [
    Shape(*values)
    for values in (
        (300_000, 2, 5, "exact"), (3_000_000, 3, 11, "exact"), (3_000_000, 1, 5, "float32"), (16_000_000, 2, 4, "exact"),
        (25_000_000, 2, 7, "exact"), (25_000_000, 2, 7, "float32"), (1_000_000, 8, 12, "float32"),
    )
]  # fmt: skip
CORES: Final = len(os.sched_getaffinity(0))


def time_terms(shape: Shape) -> list[float]:
    """Return what the four coefficients of the time are multiplied by."""
    size, servers, workers, _ = shape
    width = shape.width
    return [
        1.0,
        workers + servers,
        workers * (4 + width) * size / min(CORES, workers),
        workers * width * size / min(CORES, servers),
    ]


def memory_terms(shape: Shape) -> list[float]:
    """Return what the two coefficients of the memory are multiplied by."""
    size, servers, workers, _ = shape
    return [1 + servers + workers, 4 * size + workers * (4 + shape.width) * size]


def fit(terms: Sequence[Sequence[float]], measured: Sequence[float]) -> NDArray[np.float64]:
    """Find coefficients, none below 0, with the least sum of squares of the relative errors.

    Parameters
    ----------
    terms
        (N, K) factors of the coefficients for each job.
    measured
        (N,) figures, above 0.

    Returns
    -------
    numpy.ndarray
        (K,) float64.
    """
    rows = np.asarray(terms) / np.asarray(measured)[:, None]
    found, least = np.zeros(rows.shape[1]), np.inf
    for kept in itertools.product((False, True), repeat=rows.shape[1]):  # K is small: every choice of those that are 0
        chosen = np.flatnonzero(kept)
        values = np.linalg.lstsq(rows[:, chosen], np.ones(len(rows)), rcond=None)[0]
        error = float(((rows[:, chosen] @ values - 1) ** 2).sum())
        if (values >= 0).all() and error < least:
            found, least = np.zeros(rows.shape[1]), error
            found[chosen] = values
    return found


def measure(shape: Shape, plane: str, rounds: int) -> tuple[float, float]:
    """Return a job's median seconds a round, and the largest memory of all its ranks in bytes."""
    where = (shape.servers, shape.workers)
    timed = aggregation.federation(shape.parameters, where, shape.mode, plane, rounds)
    watched = aggregation.federation(shape.parameters, where, shape.mode, plane, rounds, watched=True)
    return median(timed["seconds"]), watched["bytes"]


def told(
    name: str, coefficients: NDArray[np.float64], terms: Callable[[Shape], list[float]], rows: dict[Shape, float]
) -> None:
    """Print measured and foretold figures of jobs that the fit has not seen."""
    for shape, value in rows.items():
        expected = float(coefficients @ terms(shape))
        print(f"  {name} {shape.parameters:>11,} {shape.servers:2} servers {shape.workers:2} workers {shape.mode:8}"
              f" measured {value:10.4g}  foretold {expected:10.4g}  ratio {expected / value:5.2f}")  # fmt: skip


def main() -> None:
    """Measure, fit, check and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=16, help="rounds of a job, the first of which is not counted")
    parser.add_argument("--planes", nargs="+", choices=["shared", "collectives"], default=["shared", "collectives"])
    given = parser.parse_args()
    found: dict[str, Any] = {}
    for plane in given.planes:
        measured = {shape: measure(shape, plane, given.rounds) for shape in (*FITTED, *CHECKED)}
        seconds = {shape: first for shape, (first, _) in measured.items()}
        memory = {shape: second for shape, (_, second) in measured.items()}
        time = fit([time_terms(shape) for shape in FITTED], [seconds[shape] for shape in FITTED])
        space = fit([memory_terms(shape) for shape in FITTED], [memory[shape] for shape in FITTED])
        print(f"{plane}: round {1e3 * time[0]:.3g} ms, rank {1e3 * time[1]:.3g} ms, "
              f"work {1e9 * time[2]:.3g} s/GB, sum {1e9 * time[3]:.3g} s/GB; "
              f"memory: rank {space[0] / 1e6:.3g} MB, model × {space[1]:.3g}")  # fmt: skip
        told("seconds", time, time_terms, {shape: seconds[shape] for shape in CHECKED})
        told("bytes", space, memory_terms, {shape: memory[shape] for shape in CHECKED})
        found[plane] = {
            "time": time.tolist(),
            "memory": space.tolist(),
            "jobs": [[*shape, *measured[shape], shape in FITTED] for shape in measured],
        }
    print(json.dumps({"cores": CORES} | found))


if __name__ == "__main__":
    main()
