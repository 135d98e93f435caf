"""A model whose parameters are views of one flat vector, so that sending it needs no packing.

The vector holds the trainable parameters in the model's order, then the frozen ones, then the floating-point buffers (the
running statistics of BatchNorm). Its table of elements tells them apart: no server optimizer and no weight decay moves a
buffer. Other buffers start each silo's training as the model was built, so that nothing is carried from silo to silo.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import torch
from torch.nn.parameter import is_lazy

from silofold.core import elements
from silofold.core.errors import PluginError, UserCodeError
from silofold.core.memory import aligned
from silofold.training.tasks.classification import Classification

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from silofold.training.task import Task


class View(NamedTuple):
    """A plain attribute of a module that is a view of a parameter or buffer.

    Attributes
    ----------
    name, of
        The attribute; the parameter or buffer.
    held, key, value
        Where it stands, and what stood there before the parameter moved.
    """

    name: str
    of: str
    held: dict[str, Any]
    key: str
    value: torch.Tensor


class FlatModel:
    """A torch module on one flat vector.

    Parameters
    ----------
    module
        The model; its parameters are moved into the vector.
    device
        Where the model lives.
    task
        What it is trained for; none: classification, whatever the number of classes.

    Attributes
    ----------
    module : torch.nn.Module
        The model itself.
    task : silofold.training.task.Task
        What it is trained for.
    elements : silofold.core.elements.Elements
        What the vector is made of.
    parameters : list of torch.nn.Parameter
        The trainable ones, in the vector's order.
    views : list of View
        Plain attributes that were views of its parameters or buffers before these moved.
    vector : torch.Tensor
        (P,) float32 on `device`; parameters and floating-point buffers are views of it.
    gradient : torch.Tensor
        (T,) float32: gradients of the T trainable elements, which come first in the vector.
    file : list of tuple
        Entries of the state dict, by name and form, when it was looked at before the first round; empty before that.
    host : numpy.ndarray
        (P,) float32 on the host, 64-byte aligned: what MPI reads and writes. On a CPU it is `vector` itself.

    Raises
    ------
    PluginError
        The model has no parameter, or one that is not float32.
    """

    def __init__(self, module: torch.nn.Module, device: torch.device, task: Task | None = None) -> None:
        self.module, self.views = module, _views(module)
        self.task: Task = task or Classification()
        module.to(device)  # before its tensors are looked at: buffers become others by it
        trainable = [(name, value) for name, value in module.named_parameters() if value.requires_grad]
        frozen = [(name, value) for name, value in module.named_parameters() if not value.requires_grad]
        buffers = [(name, value) for name, value in module.named_buffers() if value.is_floating_point()]
        entries = [*trainable, *frozen, *buffers]
        self.parameters = [value for _, value in trainable]
        if not trainable:
            raise PluginError("model-parameters", f"model {type(module).__name__} has no trainable parameter")
        for name, value in entries:
            if value.dtype is not torch.float32:
                raise PluginError(
                    "model-parameters", f"model {type(module).__name__}: {name} is {value.dtype}, expected torch.float32"
                )
        self.elements = elements.lay_out(trained=_shapes(trainable), frozen=_shapes(frozen), buffer=_shapes(buffers))
        self._homes: list[tuple[str, dict[str, torch.Tensor | None], str]] = [
            (f"{path}.{key}" if path else key, held, key)
            for path, one in module.named_modules()
            for held in (one._parameters, one._buffers)  # noqa: SLF001  (what a module holds now is known nowhere else)
            for key, value in held.items() if value is not None
        ]  # fmt: skip
        kept = [value for _, value in module.named_buffers() if not value.is_floating_point()]
        self._kept = [(value, value.clone()) for value in kept]
        self.size = sum(value.numel() for _, value in entries)
        self.host = aligned(self.size)
        self.vector = torch.from_numpy(self.host) if device.type == "cpu" else torch.empty(self.size, device=device)
        self.gradient = torch.zeros(sum(value.numel() for _, value in trainable), device=device)
        start = 0
        with torch.no_grad():
            for _, value in entries:
                span = slice(start, start + value.numel())
                view = self.vector[span].view(value.shape)
                view.copy_(value)
                value.data = view
                start = span.stop
            start = 0
            for _, value in trainable:
                value.grad = self.gradient[start : start + value.numel()].view(value.shape)
                start += value.numel()
        self._places = [self._place(*home[1:]) for home in self._homes]
        self._held: list[tuple[Mapping[str, object], int]] = [
            (held, _count(held))
            for one in module.modules()
            for held in (one._parameters, one._buffers, one._modules)  # noqa: SLF001  (likewise)
        ]
        self._names = _names(module)
        self.file: list[tuple[str, str]] = []
        self.to_host()

    @staticmethod
    def _place(held: dict[str, torch.Tensor | None], key: str) -> tuple[int, int]:
        """Tell where a tensor and its gradient lie."""
        if key not in held or (value := held[key]) is None:  # no get: compiled modules (torch.jit) have none
            return 0, 0
        return value.data_ptr(), value.grad.data_ptr() if value.is_leaf and value.grad is not None else 0

    def check_places(self) -> None:
        """See that every parameter, gradient and buffer still lies where this model has put it.

        Raises
        ------
        UserCodeError
            Code of the user's own wrote ``weight.data = …`` or ``self.buffer = …``, say.
        """
        for (name, held, key), place in zip(self._homes, self._places, strict=True):
            if self._place(held, key) != place:
                raise UserCodeError(
                    "model-tensors",
                    f"model {type(self.module).__name__}: {name} or its gradient was replaced by another tensor while it "
                    "ran: what trains is then not what is sent and saved; expected to be written in place: "
                    "self.x.copy_(…), under torch.no_grad()",
                )
        if any(_count(held) != count for held, count in self._held) and (new := _names(self.module) - self._names):
            raise UserCodeError(
                "model-tensors",
                f"model {type(self.module).__name__}: {', '.join(sorted(new)[:5])} was made while it ran; expected all "
                "parameters and buffers from the start: others are neither sent nor averaged",
            )

    @property
    def trainable(self) -> torch.Tensor:
        """(T,) float32 view of the trainable part of the vector."""
        return self.vector[: len(self.gradient)]

    @property
    def state(self) -> list[torch.Tensor]:
        """All that training may move: the vector, and the buffers that are not in it."""
        return [self.vector, *(value for value, _ in self._kept)]

    def to_host(self) -> None:
        """Copy the vector to `host`; nothing to do on a CPU."""
        if self.vector.device.type != "cpu":
            torch.from_numpy(self.host).copy_(self.vector)

    def load(self, vector: NDArray[np.float32] | torch.Tensor) -> None:
        """Overwrite the model with a (P,) float32 vector, on the host or a device, and set the other buffers back."""
        self.vector.copy_(torch.as_tensor(vector))
        for value, built in self._kept:
            value.copy_(built)

    def encode(self) -> bytes:
        """Encode the module's state dict as a file that ``torch.load(..., weights_only=True)`` opens."""
        state = {
            name: value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value
            for name, value in self.module.state_dict().items()
        }
        file = io.BytesIO()
        torch.save(state, file)
        return file.getvalue()

    def difference(self, file: BinaryIO) -> str:
        """Say in what a file that `encode` wrote, somewhere, differs from the module; empty if in nothing.

        The file must have been looked through as an archive: torch reads it by C++.
        """
        if file.read() == self.encode():
            return ""
        file.seek(0)
        try:
            found = torch.load(file, map_location="cpu", weights_only=True)
            state = self.module.state_dict()
            if not isinstance(found, dict) or set(found) != set(state):
                return "found other names than the model has"
            other = [name for name, value in state.items() if not _equal(found[name], value)]
        except Exception as fault:  # noqa: BLE001  (whatever is in the file: torch, pickle and zip raise what they like)
            return f"cannot be read by torch: {type(fault).__name__}"
        return f"{other[0]}: is not that of the checkpoint" if other else ""


def _equal(found: object, expected: object) -> bool:
    """Whether two values of a state dict are the same: tensors to the last bit."""
    if isinstance(found, torch.Tensor) and isinstance(expected, torch.Tensor):
        there = found.layout is torch.strided and found.dtype is expected.dtype and found.shape == expected.shape
        return there and torch.equal(found, expected.cpu())
    return type(found) is type(expected) and bool(found == expected)


def _names(module: torch.nn.Module) -> set[str]:
    return {name for name, _ in (*module.named_parameters(), *module.named_buffers())}


def _count(held: Mapping[str, object]) -> int:
    return sum(value is not None for value in held.values())


def _shapes(named: Sequence[tuple[str, torch.Tensor]]) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(value.shape)) for name, value in named]


def _views(module: torch.nn.Module) -> list[View]:
    """Find the plain attributes that are views of a parameter or buffer, and not that tensor itself."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    lies = {value.untyped_storage().data_ptr(): name for name, value in tensors if not is_lazy(value)}
    themselves = {id(value) for _, value in tensors}
    return [
        View(f"{path}.{key}" if path else key, of, one.__dict__, key, value)
        for path, one in module.named_modules()
        for key, value in one.__dict__.items()
        if isinstance(value, torch.Tensor) and value.numel() and id(value) not in themselves
        and (of := lies.get(value.untyped_storage().data_ptr(), ""))
    ]  # fmt: skip
