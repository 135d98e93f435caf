from __future__ import annotations

import pytest

from silofold.core.summary import Phases, SiloSummary, Summary


@pytest.fixture
def summary() -> Summary:
    """Round 1 of two silos, the second of which was too late."""
    return Summary(
        round=1,
        void=False,
        cohort=[0, 1],
        accepted=[0],
        train_loss=2.5,
        accuracy=0.25,
        accuracy_low=0.125,
        accuracy_high=0.5,
        test_loss=2.0,
        test_examples=40,
        silos=[
            SiloSummary(silo=0, name="north", accuracy=0.5, test_examples=20, train_examples=90, train_loss=2.5),
            SiloSummary(
                silo=1, name="south", accuracy=0.0, test_examples=20, train_examples=80, train_loss=None, reason="late"
            ),
        ],
        seconds=Phases(broadcast=0.5, evaluate=0.25, train=4.0, wait=1.0, reduce=0.125, apply=0.0625, total=6.0),
        bytes_down=800,
        bytes_up=1600,
        model_sha256="ab" * 32,
        shard_sha256=["cd" * 32, "ef" * 32],
    )
