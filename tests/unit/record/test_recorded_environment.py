from __future__ import annotations

from typing import Any

from silofold.record import environment


def record(*workers: dict[str, str], numpy: str = "2.4.6") -> dict[str, Any]:
    """A run.json with a scheduler and these workers."""
    fixed = {"torch": "2.13.0", "device": "cpu", "hardware": "AVX512", "onednn_max_cpu_isa": ""}
    return {"versions": {"numpy": numpy}, "ranks": [{"rank": 0}, *(fixed | worker for worker in workers)]}


def test_equal_on_another_number_of_ranks() -> None:
    assert environment.differences(record({}), record({}, {})) == []
    gpus = [{"device": f"cuda:{index}", "hardware": "H200"} for index in range(2)]
    assert environment.differences(record(gpus[0]), record(*gpus)) == []


def test_names_what_differs() -> None:
    then = record({"torch": "2.12.0", "onednn_max_cpu_isa": "AVX2", "hardware": "AVX2"}, numpy="2.3.0")
    assert environment.differences(then, record({}, {"hardware": "AVX2"})) == [
        "numpy: 2.3.0 -> 2.4.6",
        "hardware: AVX2 -> AVX2 and AVX512",
        "torch: 2.12.0 -> 2.13.0",
        "onednn_max_cpu_isa: AVX2 -> unset",
    ]


def test_a_record_of_an_older_version() -> None:
    assert environment.differences({}, record({})) == [
        "numpy: not recorded -> 2.4.6",
        "device: not recorded -> cpu",
        "hardware: not recorded -> AVX512",
        "torch: not recorded -> 2.13.0",
        "onednn_max_cpu_isa: not recorded -> unset",
    ]


def test_unequal_workers() -> None:
    assert environment.unequal(record({}, {})) == []
    assert environment.unequal(record({}, {"hardware": "AVX2"})) == ["hardware: AVX2 and AVX512"]
