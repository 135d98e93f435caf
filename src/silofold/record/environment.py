"""What decides the bits of a run beside its settings and data, as ``run.json`` tells it, and how two runs differ in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

OF_A_WORKER = ("device", "hardware", "cpu", "torch", "threads", "onednn_max_cpu_isa", "aten_cpu_capability", "mkl_cbwr")
"""Keys of a worker in ``ranks`` that can change its bits."""


def differences(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """List what differs, as ``what: then -> now``.

    Parameters
    ----------
    recorded
        A ``run.json``.
    found
        Another one. Ranks are not compared one by one, since their number may differ, but the values that occur.
    """
    then, now = _facts(recorded), _facts(found)
    return [
        f"{key}: {then.get(key, 'not recorded')} -> {now.get(key, 'not recorded')}"
        for key in dict.fromkeys((*now, *then))
        if then.get(key) != now.get(key)
    ]


def unequal(record: Mapping[str, Any]) -> list[str]:
    """List what differs between the workers of one run: the same silo would have other bits on another of them."""
    return [f"{key}: {' and '.join(values)}" for key, values in _of_workers(record).items() if len(values) > 1]


def _facts(record: Mapping[str, Any]) -> dict[str, str]:
    facts = {key: str(value) for key, value in record.get("versions", {}).items()}
    return facts | {key: " and ".join(values) for key, values in _of_workers(record).items()}


def _of_workers(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """Collect the values that occur under each key."""
    workers = [rank for rank in record.get("ranks", []) if "torch" in rank]
    found: dict[str, list[str]] = {}
    for key in OF_A_WORKER:
        values = {str(rank[key]) for rank in workers if key in rank}
        if key == "device":
            values = {value.partition(":")[0] for value in values}  # which GPU it is says nothing: `hardware` names it
        if values:
            found[key] = sorted(value or "unset" for value in values)
    return found
