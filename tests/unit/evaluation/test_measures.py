from __future__ import annotations

import string

import numpy as np
import pytest

from silofold.core.predictions import Predictions, join
from silofold.evaluation import measures

CLASSES = ["C", "c", "7", "d"]


def predictions(silo: list[int], label: list[int], top: list[list[int]], confidence: list[float]) -> Predictions:
    return Predictions(
        np.array(silo, np.int32), np.array(label, np.int32), np.array(top, np.int32), np.array(confidence, np.float32),
        -np.log(np.array(confidence, np.float64)),
    )  # fmt: skip


FOUND = predictions([0, 0, 1, 1, 1], [0, 1, 2, 3, 0], [[0, 1], [0, 1], [2, 0], [2, 0], [1, 2]], [0.95, 0.9, 0.55, 0.5, 1.0])


def test_measures_by_hand() -> None:
    found = measures.measure(FOUND, CLASSES, 3)
    assert (found.pooled.correct, found.pooled.examples, found.pooled.accuracy) == (2, 5, 0.4)
    assert [one.accuracy for one in found.silos] == [0.5, pytest.approx(1 / 3), None]
    assert found.worst == 1
    assert found.mean == pytest.approx((0.5 + 1 / 3) / 2)
    assert found.top5 is None  # of four classes it would always be right
    more = measures.measure(FOUND, [*CLASSES, "e", "f"], 3).top5
    assert more is not None
    assert more.correct == 3  # the second image too
    assert found.merged is not None
    assert (found.merged.correct, found.merged_classes) == (4, 3)  # C and c are one
    assert found.confusion == [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]]
    assert found.loss == pytest.approx(-np.log([0.95, 0.9, 0.55, 0.5, 1.0]).mean())


def test_calibration_by_hand() -> None:
    bins = measures.measure(FOUND, CLASSES, 2).calibration
    assert [one.examples for one in bins] == [0] * 5 + [2, 0, 0, 0, 3]
    assert [bins[5].confidence, bins[5].accuracy] == pytest.approx([0.525, 0.5])
    assert [bins[9].confidence, bins[9].accuracy] == pytest.approx([0.95, 1 / 3])
    error = measures.measure(FOUND, CLASSES, 2).calibration_error
    assert error == pytest.approx((2 * 0.025 + 3 * (0.95 - 1 / 3)) / 5, abs=1e-6)


def test_the_62_classes_become_47() -> None:
    classes = string.digits + string.ascii_uppercase + string.ascii_lowercase
    into = measures.merge(list(classes))
    assert len(set(into)) == 47
    assert [classes[k] for k, target in enumerate(into) if target != k] == list("cijklmopsuvwxyz")
    assert measures.merge(["cat", "dog", "x"]) == [0, 1, 2]
    assert measures.measure(FOUND, ["a", "b", "n", "d"], 2).merged is None


def test_no_images_at_all() -> None:
    none = Predictions(
        *(np.empty(shape, kind) for shape, kind in [(0, "i4"), (0, "i4"), ((0, 2), "i4"), (0, "f4"), (0, "f8")])
    )
    found = measures.measure(none, CLASSES, 2)
    assert (found.pooled.accuracy, found.worst, found.mean, found.loss, found.calibration_error) == (None,) * 5
    assert len(join([FOUND, none]).label) == 5
