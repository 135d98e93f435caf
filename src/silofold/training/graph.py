"""Training steps as CUDA graphs: recorded once, then started by one call instead of one for each kernel.

References
----------
PyTorch documentation, "CUDA semantics", section "CUDA Graphs": warm-up on a side stream, static memory, what is captured.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from silofold.training.local import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from silofold.config import Local
    from silofold.training.flat import FlatModel

WARM_UP = 3
"""Steps before the capture, in which libraries make their handles and choose their kernels."""


class Recorded(NamedTuple):
    """A step that has been captured.

    Attributes
    ----------
    images, labels
        (B, C, H, W) uint8 and (B,) int64: where it reads its batch.
    replay
        Takes the step.
    """

    images: torch.Tensor
    labels: torch.Tensor
    replay: Callable[[], None]


class GraphStep(Step):
    """A step that replays a CUDA graph, of which there is one for each size of a batch, captured when it first comes.

    A graph reads and writes the addresses that it was captured with, so batches and momentum are copied into memory of
    its own. What is captured serves every silo and round that follows.

    Parameters
    ----------
    model
        What is trained, in place, on a GPU.
    settings
        The optimizer's settings, which become part of the graphs.

    Attributes
    ----------
    stream : torch.cuda.Stream or None
        Where steps are captured. Libraries keep their scratch memory by stream, and graphs that were captured on one use the
        same: steps of two models may run at once if their streams differ. None on a CPU, where tests pretend.
    """

    def __init__(self, model: FlatModel, settings: Local) -> None:
        super().__init__(model, settings)
        device = model.vector.device
        self.momentum = torch.zeros_like(model.gradient)
        self._kept = self.momentum
        """Where the caller wants the momentum."""
        self._recorded: dict[int, Recorded] = {}
        self._generator = torch.Generator(device)
        on_gpu = device.type == "cuda"
        self.stream: torch.cuda.Stream | None = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]
        # one for all sizes: they are never at work at once, and nothing of one is left when the next begins
        self._pool = torch.cuda.graph_pool_handle() if on_gpu else None

    def seed(self, seed: int) -> None:
        """Seed what models with dropout draw from in this step, and torch's default generators."""
        super().seed(seed)
        self._generator.manual_seed(seed)

    def begin(self, momentum: torch.Tensor) -> None:
        """Copy the momentum in, and count from 0."""
        super().begin(self.momentum.copy_(momentum))
        self._kept = momentum

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Move the model by one batch of (B, C, H, W) uint8 images and (B,) int64 labels."""
        recorded = self._recorded.get(len(labels))
        if recorded is None:
            recorded = self._recorded[len(labels)] = self._record(images.clone(), labels.clone())
        recorded.images.copy_(images)
        recorded.labels.copy_(labels)
        recorded.replay()

    def end(self) -> dict[str, float]:
        """Copy the momentum out, and return what the task adds up."""
        self._kept.copy_(self.momentum)
        return super().end()

    def _watch(self) -> None:
        """Nothing at the begin of a silo: replays run no hooks."""

    def _record(self, images: torch.Tensor, labels: torch.Tensor) -> Recorded:
        """Capture the step, and leave everything that its warm-up moves as it was, dropout's generator included."""
        moved = [*self._model.state, self.momentum, *self._sums.values()]
        before = [value.clone() for value in moved]
        super()._watch()  # what a graph does is settled when it is captured, whichever silo trains then
        with drawing_from(self._generator):
            replay = capture(lambda: Step.__call__(self, images, labels), self.stream, self._pool)
        self._unreached.leave()
        for value, old in zip(moved, before, strict=True):
            value.copy_(old)
        return Recorded(images, labels, replay)


@contextlib.contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Let models on a GPU draw from a generator instead of torch's default one; afterwards both stand as they stood.

    A graph goes on drawing from the generator that was in place when it was captured. Graphs at work at once must not share
    one, since each replay moves it. On a CPU models draw from the default one.
    """
    if generator.device.type == "cpu":
        with torch.random.fork_rng([]):
            yield
        return
    default, drawn = torch.cuda.default_generators[generator.device.index], generator.get_state()
    kept = default.graphsafe_get_state()
    default.graphsafe_set_state(generator.graphsafe_get_state())
    try:
        yield
    finally:
        default.graphsafe_set_state(kept)
        generator.set_state(drawn)


def capture(work: Callable[[], None], stream: torch.cuda.Stream | None, pool: Any) -> Callable[[], None]:
    """Run CUDA work a few times, record it without running it, and return what runs it again, on the current stream.

    Parameters
    ----------
    work
        Works on the same memory each time, and never waits for the device.
    stream
        Where it is recorded; one for both, since what libraries keep for each stream must be there before the capture.
    pool
        Memory that other graphs may share which are never at work at the same time.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        torch.cuda.synchronize()
        for _ in range(WARM_UP):
            work()
    torch.cuda.synchronize()
    # thread_local: the thread that reads the next silo may move it to the GPU meanwhile
    with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
        work()
    return graph.replay
