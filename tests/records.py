"""Records of rounds: read from a run, or made for tests of what shows them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from silofold.core.summary import Phases, RankPhases, SiloSummary, Summary

if TYPE_CHECKING:
    from pathlib import Path


def rounds(out: Path) -> list[dict[str, Any]]:
    """Read a run's ``metrics.jsonl`` as any program would."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def summary(number: int, **changes: Any) -> Summary:
    """One round of one silo, half of whose 20 test images are right; any key can be another."""
    values: dict[str, Any] = {
        "round": number,
        "void": False,
        "cohort": [0],
        "accepted": [],
        "train_loss": 2.0 / number,
        "accuracy": 0.5,
        "accuracy_low": 0.319,
        "accuracy_high": 0.681,
        "test_loss": 1.5,
        "test_examples": 20,
        "silos": [
            SiloSummary(silo=0, name="silo_0", accuracy=0.5, test_examples=20, train_examples=30, train_loss=1.0,
                        reason="out of time")
        ],
        "seconds": Phases(broadcast=0.1, evaluate=0.2, train=3.0, wait=0.5, reduce=0.1, apply=0.1, total=4.0),
        "ranks": [
            RankPhases(role="server_0", reduce=0.1, apply=0.1),
            RankPhases(role="worker_0", broadcast=0.1, evaluate=0.2, train=3.0),
            RankPhases(role="worker_1", broadcast=0.1, evaluate=0.2, train=1.0),
        ],
        "bytes_down": 1000,
        "bytes_up": 2000,
        "model_sha256": f"{number:064x}",
        "shard_sha256": [],
    }  # fmt: skip
    return Summary(**values | changes)
