"""The step of a full batch as a CUDA graph: recorded once, then started by one call instead of one for each kernel.

References
----------
PyTorch documentation, "CUDA semantics", section "CUDA Graphs": warm-up on a side stream, static memory, what is captured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from silofold.training.local import Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from silofold.config import Local
    from silofold.training.flat import FlatModel

WARM_UP = 3
"""Steps before the capture, in which libraries make their handles and choose their kernels."""


class GraphStep(Step):
    """A step that replays a CUDA graph for full batches; a short one is trained as by `Step`.

    A graph reads and writes the addresses that it was captured with, so batches and momentum are copied into memory of
    its own. It is captured at the first full batch and serves every silo and round that follows.

    Parameters
    ----------
    model
        What is trained, in place, on a GPU.
    settings
        The optimizer's settings, which become part of the graph.
    """

    def __init__(self, model: FlatModel, settings: Local) -> None:
        super().__init__(model, settings)
        self.momentum = torch.zeros_like(model.gradient)
        self._kept = self.momentum
        """Where the caller wants the momentum."""
        self._replay: Callable[[], None] | None = None
        self._images = self._labels = torch.empty(0)

    def begin(self, momentum: torch.Tensor) -> None:
        """Copy the momentum in, and count from 0."""
        super().begin(self.momentum.copy_(momentum))
        self._kept = momentum

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Move the model by one batch of (B, C, H, W) uint8 images and (B,) int64 labels."""
        if len(labels) < self._settings.batch_size:
            super().__call__(images, labels)
            return
        if self._replay is None:
            self._images, self._labels = images.clone(), labels.clone()
            self._replay = self._captured()
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._replay()

    def end(self) -> tuple[float, int]:
        """Copy the momentum out; return the loss summed over the examples since `begin`, and how many were right."""
        self._kept.copy_(self.momentum)
        return super().end()

    def _captured(self) -> Callable[[], None]:
        """Capture the step, and leave everything that its warm-up moves as it was, dropout's generator included."""
        device = self._model.vector.device
        moved = [*self._model.state, self.momentum, self._loss_sum, self._correct]
        before = [value.clone() for value in moved]
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            replay = capture(lambda: Step.__call__(self, self._images, self._labels), device)
        for value, old in zip(moved, before, strict=True):
            value.copy_(old)
        return replay


def capture(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Run CUDA work a few times, record it without running it, and return what runs it again.

    Parameters
    ----------
    work
        Works on the same memory each time, and never waits for the device.
    device
        The GPU, which need not be the current one.
    """
    with torch.cuda.device(device):
        # one stream for both: what libraries keep for each stream must be there before the capture
        stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        graph = torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        # thread_local: the thread that reads the next silo may move it to the GPU meanwhile
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            work()

    def replay() -> None:
        with torch.cuda.device(device):
            graph.replay()

    return replay
