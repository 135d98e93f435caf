"""What a model is trained for: how a batch is prepared, what is lost on it, and what adds up over images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


class Task(Protocol):
    """What the training and evaluation loops ask of a task; they know nothing else of what a model's output means.

    All of it works on batches that lie on the training device, and never waits for it.
    """

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Turn (B, C, H, W) uint8 images into what the model takes."""

    def check(self, module: torch.nn.Module, output: object, images: int) -> torch.Tensor:
        """See that an output for so many images is what the task asks for, and return it.

        Raises
        ------
        UserCodeError
            It is something else.
        """

    def loss(self, output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of a batch, which training descends."""

    def zeros(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Make the sums of no image, each a scalar by its name; ``loss`` is one of them."""

    def sums(self, output: torch.Tensor, labels: torch.Tensor, loss: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Return what a batch adds to each of the sums.

        Parameters
        ----------
        output, labels
            Of the batch.
        loss
            Its mean loss, where training has computed it; else it is computed as precisely as the task can.
        """

    def answered(self, output: torch.Tensor) -> torch.Tensor:
        """Tell which images have got an answer at all: (B,) bool."""

    def measures(self, sums: Mapping[str, float], examples: int) -> dict[str, float]:
        """Turn sums over so many images into what people read; nothing where there is none."""
