"""The CPU instruction set that a worker's libraries may use, pinned before torch is imported.

torch computes by three libraries that each look at the CPU and take the widest kernels it offers, which round differently:
oneDNN (convolutions), MKL (matrix products) and its own loops. Each reads an environment variable, once. This module must
not import torch.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from silofold.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

InstructionSet: TypeAlias = Literal["auto", "avx2", "avx512"]
# MKL has AVX2 and AVX-512 branches for Intel's processors alone and passes over the wish elsewhere without a word:
# COMPATIBLE is the one branch that all processors share
VARIABLES: dict[InstructionSet, dict[str, str]] = {
    "auto": {},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE"},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "ATEN_CPU_CAPABILITY": "avx512", "MKL_CBWR": "COMPATIBLE"},
}
FLAGS: dict[InstructionSet, frozenset[str]] = {
    "auto": frozenset(),
    "avx2": frozenset({"avx2", "fma"}),
    "avx512": frozenset({"avx2", "fma", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
}
CPU_INFO = Path("/proc/cpuinfo")


def widest(flags: AbstractSet[str] | None = None) -> InstructionSet:
    """Name the widest instruction set that a CPU with these flags can be pinned to; ``auto`` if it has none of them."""
    known = cpu()[1] if flags is None else flags
    return next((name for name in ("avx512", "avx2") if FLAGS[name] <= known), "auto")


def pin(wanted: InstructionSet, flags: AbstractSet[str] | None = None, *, for_children: bool = False) -> None:
    """Set the variables of this process; must come before torch.

    Parameters
    ----------
    wanted
        ``local.cpu_isa``; ``auto`` leaves all to the libraries.
    flags
        Flags of the CPU as the kernel names them; none: those of this machine.
    for_children
        Whether processes that this one is going to start shall train, and not this one itself.

    Raises
    ------
    ConfigError
        The CPU does not have the instructions, torch is there already, or the environment says otherwise.
    """
    if wanted == "auto":
        return
    if missing := FLAGS[wanted] - (cpu()[1] if flags is None else flags):
        raise ConfigError(
            "device-isa",
            f'local.cpu_isa = "{wanted}": the CPU ({cpu()[0]}) lacks {", ".join(sorted(missing))}; expected one that all '
            "workers have",
        )
    if "torch" in sys.modules and not for_children:
        raise ConfigError(
            "device-isa", f'local.cpu_isa = "{wanted}": torch was imported before it could be pinned, by a module of yours?'
        )
    for name, value in VARIABLES[wanted].items():
        if os.environ.get(name, value) != value:
            raise ConfigError(
                "device-isa",
                f'local.cpu_isa = "{wanted}" needs {name}={value}, found {name}={os.environ[name]} in the environment',
            )
        os.environ[name] = value


def cpu() -> tuple[str, frozenset[str]]:
    """Return model name and instruction flags of the first CPU; empty where the kernel does not tell."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "", frozenset()
    table = [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]
    facts = dict(reversed(table))
    return facts.get("model name", ""), frozenset(facts.get("flags", "").split())


def variables() -> dict[str, str]:
    """Return what this process's environment says to the three libraries; empty where it says nothing."""
    return {name.lower(): os.environ.get(name, "") for name in VARIABLES["avx2"]}
