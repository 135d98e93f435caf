"""What a model says of test images: a word that training makes, evaluation reads and the record keeps."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

TOP = 5
"""Classes that are kept of each image, the most probable ones."""


@dataclass(frozen=True)
class Predictions:
    """Predictions on M test images, by ascending silo and, within a silo, in the order of its file.

    Attributes
    ----------
    silo
        (M,) int32 index of the silo that holds the image.
    label
        (M,) int32 true class.
    top
        (M, T) int32 most probable classes, the first one first; T is `TOP` or the number of classes, if that is less.
    confidence
        (M,) float32 probability of the first one.
    loss
        (M,) float64 cross entropy.
    """

    silo: NDArray[np.int32]
    label: NDArray[np.int32]
    top: NDArray[np.int32]
    confidence: NDArray[np.float32]
    loss: NDArray[np.float64]

    @property
    def predicted(self) -> NDArray[np.int32]:
        """(M,) int32 class that the model answers."""
        return self.top[:, 0]

    @property
    def right(self) -> NDArray[np.bool_]:
        """(M,) whether the answer is the true class."""
        return np.equal(self.predicted, self.label)


def join(parts: Sequence[Predictions]) -> Predictions:
    """Put the predictions of several silos one after the other."""
    return Predictions(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Predictions)))
