"""Which device a worker trains on, and how many threads torch takes."""

from __future__ import annotations

import torch

from silofold.core.errors import ConfigError
from silofold.training import instruction_set


def choose(setting: str, local_index: int, threads: int) -> torch.device:
    """Choose the device of a worker and pin torch's threads.

    Parameters
    ----------
    setting
        ``auto``, ``cpu`` or ``cuda``.
    local_index
        Index of this worker among the workers of its node: GPUs are dealt out in turn.
    threads
        torch threads of this process.

    Raises
    ------
    ConfigError
        ``cuda`` is asked for and no GPU is visible.
    """
    torch.set_num_threads(threads)
    visible = torch.cuda.device_count() if setting != "cpu" else 0
    if setting == "cuda" and not visible:
        raise ConfigError(
            "device-none", 'device = "cuda": torch sees no GPU here; expected one, or device = "auto" or "cpu"'
        )
    if not visible:
        return torch.device("cpu")
    # CUDA alone: the call imports 800 modules, which doubles the start-up of a worker, and with its threads pinned the CPU
    # repeats its bits without it
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    # all is written before it is read: a tenth of a small step went into filling memory first
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch's stubs leave it out
    torch.backends.cudnn.benchmark = False
    place = torch.device("cuda", local_index % visible)
    torch.cuda.set_device(place)
    return place


def census() -> tuple[int, str]:
    """Count the GPUs that torch can use here, and name torch and them."""
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA in it"
    return len(names), ", ".join([f"torch {torch.__version__} ({build})", *names])


def describe(device: torch.device) -> dict[str, str]:
    """Name what decides the bits on this worker: device, torch, instruction set, threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "device": str(device),
        "hardware": name,
        "torch": str(torch.__version__),
        "threads": str(torch.get_num_threads()),
        "cpu": instruction_set.cpu()[0],
        **instruction_set.variables(),
    }
