"""The line that a round leaves in the run's record, ``metrics.jsonl``."""

from __future__ import annotations

import math

import msgspec

from silofold.core.reports import Cause


class SiloSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One silo in the summary of a round."""

    silo: int
    name: str
    accuracy: float | None
    """Share of its test images that the model after this round gets right."""
    test_examples: int
    train_examples: int
    train_loss: float | None
    """Mean loss over this round's steps; none when it did not train."""
    reason: str = ""
    """Why its update was not accepted."""
    failed: bool = False
    """Whether it reported so itself, in time: its data or its model is at fault, and not the rank it runs on."""
    cause: Cause = Cause.NONE
    """The same as a word; empty in records of versions before 0.9."""
    raised: str = ""
    """Class and place of the exception that its model raised."""
    untested: str = ""
    """Why the model after this round was not evaluated on it, or not on all of its images; empty where it was."""
    worker: str = ""
    """Title of the worker that was to train it; empty when it was not asked to, and in older records."""


class Phases(msgspec.Struct, frozen=True, kw_only=True):
    """Where the seconds of a round went; `total` is the scheduler's clock from plan to plan."""

    broadcast: float
    """Slowest worker: from the plan to the model's arrival."""
    evaluate: float
    """Slowest worker: evaluating the arriving model (of the round before)."""
    train: float
    """Slowest worker: training all its silos."""
    wait: float
    """Fastest worker: from its report to the tally."""
    reduce: float
    """Slowest server: the weighted reduction."""
    apply: float
    """Slowest server: strategy and server optimizer."""
    total: float


class RankPhases(msgspec.Struct, frozen=True, kw_only=True):
    """Where the seconds of one rank's round went; phases that a rank has no part in are 0."""

    role: str
    """Role and index, as its folder in the run folder is named."""
    broadcast: float = 0.0
    evaluate: float = 0.0
    train: float = 0.0
    reduce: float = 0.0
    apply: float = 0.0


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``metrics.jsonl``; see docs/metrics.md for each key."""

    round: int
    void: bool
    cohort: list[int]
    accepted: list[int]
    train_loss: float | None
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    test_loss: float | None
    test_examples: int
    silos: list[SiloSummary]
    seconds: Phases
    ranks: list[RankPhases] = []
    bytes_down: int
    bytes_up: int
    model_sha256: str
    shard_sha256: list[str]
    states: dict[int, str] = {}
    """Of silos that keep a state and whose updates count: the sha256 of what each keeps."""
    window: float = 0.0
    """Seconds of its update window; 0 in older records, which do not tell the next two either."""
    last_report: float | None = None
    """Seconds from its plan to the last report that was accepted; none if none was."""
    timed_out: bool = False
    """Whether its window closed it, or cut a worker's training short."""

    def curves(self) -> dict[str, float]:
        """Return the round's point on every curve that a tracker draws, of what was measured and is finite."""
        named = {key: getattr(self, key) for key in ("accuracy", "test_loss", "train_loss")}
        named |= {f"silo/{silo.name}": silo.accuracy for silo in self.silos}
        named |= {f"seconds/{phase}": value for phase, value in msgspec.structs.asdict(self.seconds).items()}
        return {key: value for key, value in named.items() if value is not None and math.isfinite(value)}
