from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from torch import nn

from silofold.core import memory
from silofold.core.errors import PluginError, UserCodeError
from silofold.training import flat
from silofold.training.flat import FlatModel

CPU = torch.device("cpu")


def values(module: nn.Module) -> list[float]:
    return [float(x) for parameter in module.parameters() for x in parameter.detach().flatten()]


def test_the_vector_holds_the_parameters_in_order() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = values(module)
    model = flat.FlatModel(module, CPU)
    assert model.size == len(model.host) == 9 + 4
    assert model.host.tolist() == before == values(module)
    assert model.host.dtype == np.float32
    assert [name for name, _ in module.named_parameters()] == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_vector_parameters_and_gradient_share_their_memory() -> None:
    module = nn.Linear(2, 1)
    model = flat.FlatModel(module, CPU)
    model.host[:] = [1.0, 2.0, 3.0]
    x = torch.tensor([[10.0, 100.0]])
    assert float(module(x).detach()) == 10 + 200 + 3
    module(x).sum().backward()
    assert model.gradient.tolist() == [10.0, 100.0, 1.0]
    with torch.no_grad():
        model.trainable.add_(model.gradient)
    assert model.host.tolist() == [11.0, 102.0, 4.0]
    model.load(np.array([4.0, 5.0, 6.0], np.float32))
    assert values(module) == [4.0, 5.0, 6.0]
    model.to_host()
    assert model.host.tolist() == [4.0, 5.0, 6.0]


def test_frozen_parameters_and_buffers_come_after_the_trainable_ones() -> None:
    first, norm, last = nn.Linear(1, 1), nn.BatchNorm1d(2), nn.Linear(1, 1, bias=False)
    module = nn.Sequential(first, norm, last)
    first.weight.requires_grad = False
    with torch.no_grad():
        first.weight.fill_(7.0)
        first.bias.fill_(1.0)
        last.weight.fill_(2.0)
    model = flat.FlatModel(module, CPU)
    # bias, gamma (2), beta (2), last weight | frozen weight | running mean (2), running variance (2)
    assert model.host.tolist() == [1.0, 1.0, 1.0, 0.0, 0.0, 2.0, 7.0, 0.0, 0.0, 1.0, 1.0]
    assert len(model.trainable) == len(model.gradient) == 6
    norm(torch.tensor([[1.0, 3.0], [3.0, 3.0]]))  # mean 2 and 3, unbiased variance 2 and 0, momentum 0.1
    assert model.host[7:] == pytest.approx([0.2, 0.3, 1.1, 0.9], abs=1e-6)
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked.dtype == torch.int64  # no number that could be averaged: it stays where it is


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
def test_on_a_gpu_buffers_are_in_the_vector_too() -> None:
    norm = nn.BatchNorm1d(2)
    model = flat.FlatModel(norm, torch.device("cuda", 0))
    norm(torch.tensor([[1.0, 3.0], [3.0, 3.0]], device="cuda"))
    assert norm.num_batches_tracked is not None
    assert int(norm.num_batches_tracked) == 1
    model.to_host()
    assert model.host[4:] == pytest.approx([0.2, 0.3, 1.1, 0.9], abs=1e-6)
    model.load(np.zeros(8, np.float32))
    assert norm.running_var is not None
    assert not norm.running_var.any()
    assert not norm.num_batches_tracked.any()


def test_tied_parameters_are_one() -> None:
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    module[1].weight = module[0].weight
    model = flat.FlatModel(module, CPU)
    assert model.size == 4
    model.host[:] = [1.0, 0.0, 0.0, 2.0]
    assert module(torch.ones(1, 2)).tolist() == [[1.0, 4.0]]
    module(torch.ones(1, 2)).sum().backward()
    assert model.gradient.count_nonzero() == 4


@pytest.mark.parametrize("size", [0, 1, 63, 66404])
def test_aligned(size: int) -> None:
    for _ in range(5):
        array = memory.aligned(size)
        assert array.shape == (size,)
        assert array.dtype == np.float32
        assert not size or array.ctypes.data % 64 == 0
        assert not array.any()


def test_the_models_own_vector_is_aligned() -> None:
    assert flat.FlatModel(nn.Linear(3, 5), CPU).host.ctypes.data % memory.ALIGNMENT == 0


def test_encode_is_a_state_dict_for_a_fresh_module() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model = flat.FlatModel(module, CPU)
    state = torch.load(io.BytesIO(model.encode()), weights_only=True)
    fresh = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    fresh.load_state_dict(state)
    assert values(fresh) == values(module)
    assert state["0.weight"].untyped_storage().nbytes() == 16  # its own four numbers, not the whole vector
    model.host[:] = 0
    assert float(state["1.weight"].sum()) == 2.0


def test_a_model_without_a_trainable_parameter() -> None:
    with pytest.raises(PluginError, match=r"^model Flatten has no trainable parameter$"):
        flat.FlatModel(nn.Flatten(), CPU)
    with pytest.raises(PluginError, match=r"^model Linear has no trainable parameter$"):
        flat.FlatModel(nn.Linear(1, 1).requires_grad_(requires_grad=False), CPU)


def test_a_model_of_another_dtype() -> None:
    with pytest.raises(PluginError, match=r"^model Linear: weight is torch.float64, expected torch.float32$"):
        flat.FlatModel(nn.Linear(1, 1, dtype=torch.float64), CPU)
    module = nn.Linear(1, 1)
    module.register_buffer("scale", torch.ones(1, dtype=torch.float16))
    with pytest.raises(PluginError, match=r"^model Linear: scale is torch.float16, expected torch.float32$"):
        flat.FlatModel(module, CPU)


@pytest.mark.parametrize("what", ["buffer", "layer", "parameter"])
def test_what_is_made_later_is_found_and_named(what: str) -> None:
    """A layer without numbers is no harm."""
    module = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    module[0].register_parameter("late", None)
    model = FlatModel(module, CPU)
    module.append(nn.ReLU())
    model.check_places()
    match what:
        case "buffer":
            module[1].register_buffer("late", torch.ones(2))
        case "layer":
            module.append(nn.Linear(2, 2))
        case _:
            module[0].late = nn.Parameter(torch.ones(2))
    with pytest.raises(UserCodeError, match=r"late|3\.weight"):
        model.check_places()
