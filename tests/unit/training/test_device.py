from __future__ import annotations

import pytest
import torch

from silofold.core.errors import ConfigError
from silofold.training import device


@pytest.mark.parametrize("threads", [1, 2])
def test_the_cpu_with_so_many_threads(threads: int) -> None:
    assert device.choose("cpu", 3, threads) == torch.device("cpu")
    assert torch.get_num_threads() == threads
    seen = device.describe(torch.device("cpu"))
    assert (seen["device"], seen["threads"], seen["torch"]) == ("cpu", str(threads), torch.__version__)
    assert seen["hardware"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu() -> None:
    assert device.choose("auto", 0, 1) == torch.device("cpu")
    with pytest.raises(ConfigError, match=r'^device = "cuda": torch sees no GPU here'):
        device.choose("cuda", 0, 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
def test_gpus_are_dealt_out_in_turn() -> None:
    count = torch.cuda.device_count()
    assert [device.choose("auto", index, 1).index for index in range(count + 1)] == [*range(count), 0]
    assert torch.are_deterministic_algorithms_enabled()
