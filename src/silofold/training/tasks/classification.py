"""Classification: one class an image. Scaling, cross entropy and the answer are defined here and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from silofold.core.errors import UserCodeError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Classification:
    """Tells images apart by one logit a class; see `silofold.training.task.Task`.

    Parameters
    ----------
    classes
        How many logits an image is to have; 0: that is not looked at.
    """

    def __init__(self, classes: int = 0) -> None:
        self._classes = classes

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Scale (B, C, H, W) uint8 images to float32 from 0 to 1."""
        return images.to(torch.float32).div_(255)

    def check(self, module: torch.nn.Module, output: object, images: int) -> torch.Tensor:
        """See that a model's output is one floating-point logit a class, and return it.

        Raises
        ------
        UserCodeError
            It is something else.
        """
        classes = self._classes
        if (
            isinstance(output, torch.Tensor)
            and output.is_floating_point()
            and (output.shape == (images, classes) or not classes)
        ):
            return output
        found = f"{type(module).__name__} maps {images} images{' in training' * module.training} to "
        if not isinstance(output, torch.Tensor):
            raise UserCodeError("model-output", f"{found}{_kind(output)}, expected one tensor ({images}, {classes})")
        if classes and tuple(output.shape) != (images, classes):
            raise UserCodeError(
                "model-output", f"{found}{tuple(output.shape)}, expected ({images}, {classes}): one logit a class"
            )
        raise UserCodeError("model-output", f"{found}{output.dtype}, expected torch.float32")

    def loss(self, output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean cross entropy of (B, classes) logits and (B,) int64 labels."""
        return functional.cross_entropy(output, labels)

    def zeros(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Make the sums of no image: ``loss`` float64, ``correct`` int64."""
        return {
            "loss": torch.zeros((), dtype=torch.float64, device=device),
            "correct": torch.zeros((), dtype=torch.int64, device=device),
        }

    def sums(self, output: torch.Tensor, labels: torch.Tensor, loss: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Return the summed cross entropy, of float64 logits where it is not at hand, and how many images are right.

        An image without an answer is not right, whatever its label: whoever finds a loss that is not finite asks `answered`.
        """
        if loss is None:
            summed = functional.cross_entropy(output.double(), labels, reduction="sum")
        else:
            summed = loss * len(labels)
        return {"loss": summed, "correct": (output.argmax(1) == labels).sum()}

    def answered(self, output: torch.Tensor) -> torch.Tensor:
        """Tell which images have a largest logit that is finite; NaN is the largest of all."""
        return output.amax(1).isfinite()

    def log_probabilities(self, output: torch.Tensor) -> torch.Tensor:
        """Return the logarithms of the probabilities of the classes, (B, classes) float64."""
        return functional.log_softmax(output.double(), 1)

    def measures(self, sums: Mapping[str, float], examples: int) -> dict[str, float]:
        """Return the mean loss and the share of right images; nothing where there is no image."""
        return {} if not examples else {"loss": sums["loss"] / examples, "accuracy": sums["correct"] / examples}


def _kind(output: object) -> str:
    if isinstance(output, dict):
        return f"a dict with the keys {', '.join(map(str, list(output)[:5]))}"
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {len(output)}"
    return "None" if output is None else f"a {type(output).__name__}"
