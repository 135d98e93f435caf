"""What a run is going to take, in words: which rank runs where, memory of each, bytes of a round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from silofold.core.topology import Layout
    from silofold.roles.job import Job

SHOWN = 16
"""Nodes that are shown; run.json has all."""
MIB = 2**20


def places(layout: Layout, rank_facts: Sequence[dict[str, Any]]) -> str:
    """Tell node by node which roles run there, on which cores and GPUs; a line each.

    Parameters
    ----------
    layout
        Roles of the ranks.
    rank_facts
        What each rank runs on.
    """
    nodes: dict[str, list[int]] = {}
    for rank, one in enumerate(rank_facts):
        nodes.setdefault(one["host"], []).append(rank)
    lines = []
    for node, ranks in list(nodes.items())[:SHOWN]:
        cores = sorted({rank_facts[rank]["core_list"] for rank in ranks})
        gpus = [
            f"{layout.title(rank)} on {rank_facts[rank]['device']}"
            for rank in ranks
            if "cuda" in rank_facts[rank].get("device", "")
        ]
        granted = f"; GPUs {rank_facts[ranks[0]]['gpus']}" if rank_facts[ranks[0]]["gpus"] else ""
        dealt = f": {', '.join(gpus)}" if gpus else ""
        roles = ", ".join(layout.title(rank) for rank in ranks)
        lines.append(f"{node}: {roles}; cores {' and '.join(cores)}{granted}{dealt}")
    if len(nodes) > SHOWN:
        lines.append(f"and {len(nodes) - SHOWN} nodes more, see run.json")
    return "".join(f"{line}\n" for line in lines)


def story(job: Job, slices: Sequence[slice], rank_facts: Sequence[dict[str, Any]]) -> str:
    """Tell what a run is going to take, before its first round.

    Parameters
    ----------
    job
        The run.
    slices
        Slice of each shard in the flat vector.
    rank_facts
        What each rank runs on; ``memory`` is what it holds now, bytes.
    """
    parameters, layout, rounds = slices[-1].stop, job.layout, job.settings.rounds
    width, hosted = job.uplink.dtype.itemsize, job.hosted()
    senders = job.uplink.senders(len(hosted), len(job.data.silos))
    left = rounds.count - job.counted
    at_once = job.settings.local.side_by_side
    beside = 3 * at_once if at_once > 1 else 0  # weights, momentum and gradient of each silo of a group
    begins = "goes on with" if job.start_round > 1 else "begins with"
    down, up, saved = (4 * parameters * len(hosted), width * parameters * senders, 4 * parameters)
    told = (
        f"a rehearsal: nothing is trained, nothing is left in {job.folder.path}\n"
        f"{begins} round {job.start_round}; {left} of {rounds.count} rounds to go, {job.settings.local.epochs} epochs each, "
        f"cohort {job.settings.cohort['name']!r} of {len(job.data.silos)} silos\n"
        f"a round moves {down / MIB:.2f} MiB down to {len(hosted)} workers and at most {up / MIB:.2f} MiB up to "
        f"{layout.servers} servers; a checkpoint takes {saved / MIB:.2f} MiB and the server optimizer's state, "
        f"{rounds.keep_checkpoints} are kept\n"
        "memory now, and at least what the rounds add:\n"
    )
    for rank, one in enumerate(rank_facts):
        role, index = layout.role(rank)
        more = 0
        if role == "server":
            length = slices[index].stop - slices[index].start
            more = (4 + width + 8) * length  # the slice, the sum that arrives, the update of it
        elif role in {"worker", "standby"}:
            more = (4 + width + 4 + 4 + 4 * beside) * parameters  # the model before, the sum, one update, momentum
        silos = hosted.get(rank, ())
        images = f", {len(silos)} silos, {sum(job.examples[silo] for silo in silos):,} training images" if silos else ""
        told += (
            f"  rank {rank} {layout.title(rank)} on {one['host']}: "
            f"{one['memory'] / MIB:.0f} MiB + {more / MIB:.2f} MiB{images}\n"
        )
    return told + places(layout, rank_facts)
