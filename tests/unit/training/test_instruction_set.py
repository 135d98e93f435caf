from __future__ import annotations

import os
import subprocess
import sys
from typing import get_args, get_type_hints

import pytest

from silofold.config import Local
from silofold.core.errors import ConfigError
from silofold.training import instruction_set


def pinned(wanted: str, *, before: str = "", environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Pin in a process of its own, then say what torch takes."""
    program = (
        f"{before}\nfrom silofold.training import instruction_set\ninstruction_set.pin({wanted!r})\n"
        "import torch\nprint(torch.backends.cpu.get_cpu_capability())"
    )
    clean = {key: value for key, value in os.environ.items() if key not in instruction_set.VARIABLES["avx2"]}
    return subprocess.run(
        [sys.executable, "-c", program], env=clean | (environment or {}), capture_output=True, text=True, check=False
    )


def has(wanted: instruction_set.InstructionSet) -> bool:
    return instruction_set.FLAGS[wanted] <= instruction_set.cpu()[1]


@pytest.mark.parametrize("wanted", ["avx2", "avx512"])
def test_torch_takes_what_is_pinned(wanted: instruction_set.InstructionSet) -> None:
    if not has(wanted):
        pytest.skip(f"this CPU has no {wanted}")
    ended = pinned(wanted)
    assert ended.stdout.strip() == wanted.upper(), ended


def test_a_cpu_without_the_instructions_is_named() -> None:
    with pytest.raises(ConfigError, match=r'local.cpu_isa = "avx512": the CPU \(.*\) lacks avx512bw, avx512cd, .*avx512vl'):
        instruction_set.pin("avx512", frozenset({"avx2", "fma"}))


@pytest.mark.skipif(not has("avx2"), reason="this CPU has no AVX2")
def test_no_silent_no_op() -> None:
    late = pinned("avx2", before="import torch")
    assert "torch was imported before it could be pinned" in late.stderr
    other = pinned("avx2", environment={"ONEDNN_MAX_CPU_ISA": "SSE41"})
    assert "needs ONEDNN_MAX_CPU_ISA=AVX2, found ONEDNN_MAX_CPU_ISA=SSE41 in the environment" in other.stderr
    same = pinned("avx2", environment={"ONEDNN_MAX_CPU_ISA": "AVX2"})
    assert same.returncode == 0, same


def test_auto_touches_nothing() -> None:
    before = dict(os.environ)
    instruction_set.pin("auto", frozenset())
    assert dict(os.environ) == before


def test_settings_and_module_know_the_same_names() -> None:
    assert get_args(get_type_hints(Local)["cpu_isa"]) == get_args(instruction_set.InstructionSet)
    assert set(instruction_set.VARIABLES) == set(instruction_set.FLAGS) == set(get_args(instruction_set.InstructionSet))
