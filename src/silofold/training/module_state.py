"""What a module holds beside the flat vector: digests of it, and leaving all of it as it was."""

from __future__ import annotations

import contextlib
import copy
import itertools
import pickle
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from silofold.core.digest import sha256

if TYPE_CHECKING:
    from collections.abc import Iterator

    from silofold.training.flat import FlatModel

MANY = 1000
"""Entries of a list or dict that are looked at."""
_INTERNAL = frozenset(torch.nn.Module().__dict__)
_HOLDERS = (torch.Tensor, np.ndarray, np.random.Generator, random.Random, torch.Generator)


@contextlib.contextmanager
def kept(model: FlatModel) -> Iterator[None]:
    """Leave parameters, buffers, gradients, plain attributes, modes and random streams as they are now, bit for bit."""
    tensors = [(value, value.clone()) for value in (*model.state, model.gradient)]
    modes = [(one, one.training) for one in model.module.modules()]
    plain = [(one, _snapshot(one)) for one, _ in modes]
    compiled = model.module.__dict__.pop("_compiled_call_impl", None)  # compiling takes a minute for each shape: not here
    numpys, pythons = np.random.get_state(), random.getstate()  # noqa: NPY002  (what models draw from)
    devices = [model.vector.device] if model.vector.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        np.random.set_state(numpys)  # noqa: NPY002  (as above)
        random.setstate(pythons)
        if compiled is not None:
            model.module.__dict__["_compiled_call_impl"] = compiled
        with torch.no_grad():
            for value, old in tensors:
                value.copy_(old)
        for one, mode in modes:
            one.training = mode
        for one, held in plain:
            _restore(one, held)


def _snapshot(module: torch.nn.Module) -> dict[str, tuple[Any, Any]]:
    """Each plain attribute of a module, with a copy of what may be changed in it."""
    return {key: (value, _copy(value)) for key, value in module.__dict__.items() if key not in _INTERNAL}


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, np.random.Generator):
        return copy.deepcopy(value.bit_generator.state)
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, torch.Generator):
        return value.get_state()
    return value.copy() if isinstance(value, np.ndarray | list | dict | set) else None


def _restore(module: torch.nn.Module, held: dict[str, tuple[Any, Any]]) -> None:
    for key in [key for key in module.__dict__ if key not in held and key not in _INTERNAL]:
        del module.__dict__[key]
    for key, (value, old) in held.items():
        module.__dict__[key] = value
        match value:
            case torch.Tensor():
                if not torch.equal(value.detach(), old):
                    value.detach().copy_(old)
            case np.random.Generator():
                value.bit_generator.state = old
            case random.Random():
                value.setstate(old)
            case torch.Generator():
                value.set_state(old)
            case np.ndarray() | list():
                value[:] = old
            case dict() | set():
                value.clear()
                value.update(old)


def attributes(module: torch.nn.Module, *, holding: bool = False) -> dict[str, str]:
    """Digest each plain attribute that may hold state, by its name; or those alone that hold numbers or a generator."""
    found = {}
    for path, one in module.named_modules():
        for key, value in one.__dict__.items():
            if key not in _INTERNAL and (not holding or isinstance(value, _HOLDERS)) and (digest := mark(value)):
                found[f"{path}.{key}" if path else key] = digest
    return found


def mark(value: object, above: frozenset[int] = frozenset()) -> str:
    """Digest a value; empty for what is no state that could be told. `above`: what holds it, for it may hold itself."""
    if id(value) in above:
        return ""
    within = above | {id(value)}
    parts: list[bytes | memoryview] = []
    match value:
        case torch.Tensor():
            parts = [as_bytes(value)]
        case np.ndarray():
            parts = [value.tobytes()]
        case np.random.Generator() | random.Random() | torch.Generator():
            parts = [repr(_copy(value)).encode()]
        case bool() | int() | float() | str() | None:
            parts = [repr(value).encode()]
        case list() | tuple():
            parts = [mark(one, within).encode() for one in value[:MANY]]
        case dict():
            parts = [f"{key!r} {mark(one, within)}".encode() for key, one in itertools.islice(value.items(), MANY)]
    return sha256(*parts)[:16] if parts else ""


def streams(model: FlatModel) -> tuple[bytes, ...]:
    """Where the global generators stand: torch's, numpy's, Python's."""
    device = model.vector.device
    drawn = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.default_generator.get_state()
    numpys = np.random.get_state(legacy=False)  # noqa: NPY002  (what models draw from)
    return drawn.numpy().tobytes(), pickle.dumps(numpys), pickle.dumps(random.getstate())


def as_bytes(value: torch.Tensor) -> memoryview:
    """Show a tensor's numbers as bytes."""
    flat = value.detach().resolve_conj().cpu().contiguous().flatten()
    flat = torch.view_as_real(flat) if flat.is_complex() else flat
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def tensors(model: FlatModel) -> dict[str, tuple[object, ...]]:
    """Shape, dtype and whether it is trained, of every parameter and buffer."""
    named = [*model.module.named_parameters(), *model.module.named_buffers()]
    return {key: (tuple(value.shape), str(value.dtype), value.requires_grad) for key, value in named}


def structure(model: FlatModel) -> str:
    """Digest names, shapes, dtypes and order of parameters and buffers: a vector means the same where it is the same."""
    return sha256(repr(tensors(model)).encode())


def told_of(facts: tuple[object, ...] | None) -> str:
    """Put into words what `tensors` says of one."""
    if facts is None:
        return "gone"
    return f"{facts[1]} {facts[0]}, {'trained' if facts[2] else 'not trained'}"
