"""The settings of a run, as structs: what there is, its type, its range and its default. Plug-ins declare theirs likewise.

Reading them is `silofold.core.recipes`. This module knows nothing of files, ranks or MPI.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

Count: TypeAlias = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Seconds: TypeAlias = Annotated[float, Meta(gt=0, le=1e7)]
Rate: TypeAlias = Annotated[float, Meta(ge=0, le=1e6)]
Share: TypeAlias = Annotated[float, Meta(gt=0, le=1)]
Table: TypeAlias = dict[str, Any]
"""A plug-in: ``name`` and that plug-in's own settings, checked by the plug-in itself."""


DEFAULT_PLUGINS = {"model": "lenet", "cohort": "all", "strategy": "mean", "server_optimizer": "sgd"}
"""The plug-in that a table without ``name`` means."""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A group of settings; unknown keys are errors."""


class Data(Section, frozen=True):
    """Where the packed silos lie."""

    folder: str = ""
    """Folder of silo files with its ``silos.json``. ``--data`` sets it; one of the two must."""
    memory: Annotated[int, Meta(ge=0)] = 0
    """Megabytes of pictures that a worker keeps in memory. ``0``: all of its silos, read and checked before round 1. With a
    limit a silo is read, and checked, when a round needs it (the next one while one trains), and those used last are kept:
    for thousands of silos of which few train in a round. Each round's cohort is then dealt out anew, the largest silos
    first, to the workers with the least to do, unless silos are tied to their hosts (``roles.near``) or the
    bits rest on who trains what (``reduction = "float32"``)."""


class Roles(Section, frozen=True):
    """How many ranks play which role; rank 0 is the scheduler, all that is left are workers."""

    servers: Count = 1
    """Ranks that own one slice of the model each. ``silofold launch --servers`` sets it."""
    standby: Annotated[int, Meta(ge=0)] = 0
    """Ranks in reserve: they take over the silos of a dead worker, fill the ranks when a server or the scheduler dies, and
    become workers when the job is scaled out. ``silofold launch --standby`` sets it."""
    placement: Literal["packed", "spread"] = "packed"
    """Which ranks are servers. ``packed``: the first ones, which launchers put on the first nodes. ``spread``: one node
    after the other gives one, the scheduler's node last, so that model bytes use every node's network and each node has
    servers and workers."""
    near: bool = False
    """Whether each silo is hosted on a node that sees its file, for silos that lie on the nodes' own disks under the same
    path. Rank 0 needs ``silos.json`` alone. Such silos do not move: those of a dead worker drop out."""


class Rounds(Section, frozen=True):
    """When a round starts, closes and counts."""

    count: Count = 10
    """Rounds that must succeed before the run is done."""
    start_quorum: Count | Share = 1.0
    """Silos that must be ready for a round to start: an integer is a number of silos, at most all; a number with a point is
    a share of all silos, rounded up."""
    start_window: Seconds = 60.0
    """Seconds to wait for workers that are not ready. Then the round starts without them if the start quorum is there; those
    that come later join the next round. Below the quorum the scheduler waits this long once more and then ends the job
    resumably (exit code 75)."""
    update_ratio: Share = 1.0
    """Share of the cohort, rounded up, whose updates must be accepted. Below it the round is void: the global model
    stands."""
    update_window: Seconds | Literal["auto"] = "auto"
    """Seconds from the plan to the close of the round. The round closes before that once every worker has reported. What
    comes later is dropped. ``"auto"``: [by the rounds before](failures.md#the-update-window)."""
    close: Literal["all", "quorum"] = "all"
    """``"all"``: the round waits for every report until its window ends. ``"quorum"``: it closes as soon as enough reports
    for ``update_ratio`` are in, and who comes later is dropped; who that is depends on speed, so the record of who took part
    is what makes the run repeatable."""
    bench_after: Count = 5
    """A silo whose own report says so many times in a row that it failed trains no more. A rank that misses so many windows
    in a row is expelled, where the job survives that."""
    evaluate_every: Count = 1
    """The model after every so-manieth round, and the last one, is evaluated on all test images of all silos."""
    checkpoint_every: Annotated[int, Meta(ge=0)] = 1
    """Rounds from one checkpoint to the next; 0 writes one at the end alone."""
    keep_checkpoints: Count = 3
    """How many of the newest checkpoints are kept."""
    count_void: bool = False
    """Whether a void round uses up one of ``rounds.count``."""
    end_margin: Annotated[float, Meta(ge=0, le=1e6)] = 60.0
    """Seconds before the end of the batch job's allocation by which the run has saved and ended itself (exit code 75): no
    round starts that would, if it takes as long as the longest of the last ten, still run then. Without
    ``SLURM_JOB_END_TIME`` it means nothing."""
    max_void: Count = 3
    """So many void rounds in a row end the job: as diverged (3) or by the user's code (4) where losses or one exception of
    the model made them void, else resumably (75)."""
    worker_checkpoints: bool = False
    """Whether each worker also writes the model it receives, to ``worker_<i>/ckpt/``."""


class Local(Section, frozen=True):
    """Training inside a silo."""

    epochs: Count = 1
    """Passes over the silo's training images in a round."""
    batch_size: Count = 32
    """Images in a step."""
    lr: Rate = 0.01
    """Learning rate."""
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    """Momentum; 0 switches it off."""
    weight_decay: Rate = 0.0
    """Times the weights, added to the gradient."""
    keep_momentum: bool = False
    """Whether a silo's momentum lives on from one of its accepted rounds to the next; otherwise it starts at zero in every
    round."""
    drop_last: bool = False
    """Whether an incomplete batch at the end of an epoch is skipped."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """``bfloat16``: the forward pass of a training step under torch's autocast; parameters, gradients and evaluation stay
    float32. Faster or slower, see [scaling](scaling.md#the-training-step); other bits."""
    compile: bool = False
    """Whether torch compiles the model when a worker starts, which needs a C++ compiler and takes a minute; see
    [scaling](scaling.md#the-training-step). Other bits."""
    cuda_graph: bool = False
    """Whether workers record a step as a CUDA graph and replay it: one call to a GPU instead of a hundred. Small models
    train four times as fast, see [scaling](scaling.md#on-a-gpu). On a CPU it is an error."""
    side_by_side: Annotated[int, Meta(ge=1, le=32)] = 1
    """So many silos of a worker, at most, train at once, each on a stream of its GPU: one with a small model leaves most of
    it idle. Needs ``local.cuda_graph``; takes the memory of so many models; the same bits."""
    threads: Annotated[int, Meta(ge=1, le=4096)] = 1
    """torch threads of a worker. Another number gives other bits."""
    cpu_isa: Literal["auto", "avx2", "avx512"] = "auto"
    """The x86 instructions that workers may use: the same on unequal CPUs gives the [same bits](same_bits.md#unequal-cpus).
    ``auto``: the widest of each CPU, which is the fastest."""


class Settings(Section, frozen=True):
    """All settings of a run; each has a default."""

    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 1
    """All randomness follows from it: initial model, cohorts, order of the examples, and whatever a model draws from the
    global generators of torch, numpy and Python."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where workers train. ``auto``: a GPU where the worker sees one, else the CPU. The workers of a node take its visible
    GPUs in turn."""
    reduction: Literal["exact", "float32"] = "exact"
    """How updates are added. ``exact``: as 64-bit fixed point, so that the sum does not depend on the order or the number of
    ranks. ``float32``: half the bytes up; the last bits may depend on the number of workers."""
    shared_memory: bool = True
    """Whether model bytes go through memory that the ranks of a node share. A node whose ``/dev/shm`` has no room for a
    model and one sum a worker takes collectives instead, as all do with ``false``; the model has the same bits. Strategies
    that need every update always take collectives."""
    data: Data = Data()
    roles: Roles = Roles()
    rounds: Rounds = Rounds()
    local: Local = Local()
    model: Table = msgspec.field(default_factory=lambda: {"name": DEFAULT_PLUGINS["model"]})
    """The classifier. A ``torch.nn.Module`` of your own without ``Settings`` gets the other keys of the table as keyword
    arguments."""
    cohort: Table = msgspec.field(default_factory=lambda: {"name": DEFAULT_PLUGINS["cohort"]})
    """Which of the ready silos train in a round."""
    strategy: Table = msgspec.field(default_factory=lambda: {"name": DEFAULT_PLUGINS["strategy"]})
    """How the updates of a cohort become one update."""
    server_optimizer: Table = msgspec.field(default_factory=lambda: {"name": DEFAULT_PLUGINS["server_optimizer"]})
    """How that update moves the global model."""
    sinks: list[Table] = msgspec.field(default_factory=lambda: [{"name": "console"}, {"name": "csv"}])
    """Where round summaries go besides ``metrics.jsonl``, which is always written."""
