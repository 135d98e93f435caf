"""A picture of skew: silos by classes, how much of each silo's pictures every class is (the extra ``report``)."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from silofold.core.console import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_NAMES = 40
"""Silos or classes whose names can be read beside each other."""


def draw(silos: Sequence[str], classes: Sequence[str], counts: Sequence[Sequence[int]], kind: str) -> bytes:
    """Draw counts (S, K) as ``svg`` or ``png``: shares of each silo to the left, its size to the right."""
    numbers = np.array(counts, np.int64)
    shares = numbers / np.maximum(numbers.sum(axis=1, keepdims=True), 1)
    height = 1.6 + 0.26 * min(len(silos), MOST_NAMES)
    with mpl.rc_context({"svg.hashsalt": "silofold", "svg.fonttype": "none", "text.parse_math": False}):
        figure = Figure(figsize=(9.4, height), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[4, 1], sharey=True)
        image = left.imshow(shares, cmap="Blues", vmin=0, aspect="auto", interpolation="nearest")
        figure.colorbar(image, ax=left, label="share of silo", fraction=0.04)
        _names(left.xaxis, classes)
        left.tick_params(axis="x", rotation=90 if max(map(len, classes)) > 3 else 0)
        left.set_xlabel("class")
        right.barh(np.arange(len(silos)), numbers.sum(axis=1), color="#0b62c4")
        right.set_xlabel("pictures")
        right.spines[["top", "right"]].set_visible(False)
        right.tick_params(axis="x", rotation=45)
        _names(left.yaxis, silos)
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of letters that the font lacks
            figure.savefig(file, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return file.getvalue()


def _names(axis: mpl.axis.Axis, names: Sequence[str]) -> None:
    step = -(-len(names) // MOST_NAMES)
    places = range(0, len(names), step)
    axis.set_ticks(list(places), [shown(names[place])[:24] for place in places])
