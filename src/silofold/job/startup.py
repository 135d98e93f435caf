"""A rank of a job from the start of MPI to its last word. Start-up fails on every rank or on none; then come the rounds."""

from __future__ import annotations

import itertools
import logging
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from silofold.comm import world as worlds
from silofold.core import console, topology
from silofold.core.endings import RESUMABLE, STOPPED
from silofold.core.errors import SilofoldError, UserCodeError
from silofold.core.messages import Broken
from silofold.job import assemble, inputs, survive
from silofold.record import control
from silofold.record.rundir import RunFolder
from silofold.roles import fault_injection
from silofold.roles.job import StopNow
from silofold.roles.listening import Listener, RankLost, RunOver
from silofold.roles.round import play

if TYPE_CHECKING:
    from silofold.comm.fabric import Fabrics
    from silofold.comm.world import World
    from silofold.job.request import Request
    from silofold.roles.job import Job
    from silofold.roles.round import Role
    from silofold.roles.scheduler import Scheduler

logger = logging.getLogger(__name__)


def train(request: Request) -> int:
    """Run a federation, resume one, or replay one; called on every rank. Past the start it ends the process itself.

    Returns
    -------
    int
        Exit code of this rank: 0 on success, 2 on bad input, 75 if the run can be resumed.
    """
    # a model may change the current folder: what is told by its relative path would lie elsewhere from then on
    request = replace(request, out=request.out.absolute(), replay=request.replay.absolute() if request.replay else None)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # mpirun hands it to every rank; it is for the scheduler
    try:
        world = worlds.connect()
    except SilofoldError as fault:
        console.up()
        return fault.exit_code if fault.told_elsewhere else console.error(fault)
    if world.rank == 0:
        console.up()
    try:
        for generation in itertools.count(1):
            if world.rank == 0 and not request.rehearse:  # whoever leads the survivors, too
                heed_signals(RunFolder(request.out))
            world, request = _live(world, request, generation)
    except BaseException:  # noqa: BLE001  (whatever it is, the other ranks must not wait for this one)
        survive.abort(world, request)
    raise AssertionError


def heed_signals(folder: RunFolder) -> None:
    """Take a signal of the batch system for a wish like any other; that it cannot be noted must not end the round."""

    def wish(*_: object) -> None:
        try:
            control.ask_stop(folder, now=False)
        except SilofoldError as fault:
            logger.warning("a signal asks for a stop, but %s", fault)

    for name in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(name, wish)


def _live(world: World, request: Request, generation: int) -> tuple[World, Request]:
    """Play the run to its end, which ends this process; return only when ranks were lost that it cannot go on without."""
    world, (role, job, fabrics) = _begin(world, request)
    planned = fault_injection.planned(job.layout.title(world.rank)) if generation == 1 else []
    played = cast("Role", fault_injection.FaultInjector(role, planned, job.start_round)) if planned else role
    scheduler = _scheduler(world, role)
    try:
        code = _rounds(world, played, job, fabrics)
        if scheduler:
            from silofold.job import tell  # noqa: PLC0415  (rank 0 alone)

            tell.close(scheduler, job)
            scheduler.dismiss(code)
        worlds.finish(world, code)
    except StopNow:
        if scheduler:
            scheduler.close("stopped at once, as asked", STOPPED)
        sys.stdout.write(f"stopped at once, as asked; go on with --resume {job.folder.path}\n")
        world.abort(RESUMABLE.code)  # with 0, Open MPI takes it for the end of one rank alone
    except RankLost as loss:
        fault_injection.strike(planned, 0, "before", "regroup")
        order = survive.without(loss, scheduler, job, world, request)
        fault_injection.strike(planned, 0, "after", "regroup")
        world = world.among(order.ranks, generation)
        fault_injection.strike(planned, 0, "before", "restart")
        overrides = (*request.overrides, *survive.shape_of(world, job))
        return world, replace(request, recipe=None, resume=True, out=job.folder.path, overrides=overrides)


def _scheduler(world: World, role: Role) -> Scheduler | None:
    return cast("Scheduler", role) if world.rank == topology.SCHEDULER else None


def _begin(world: World, request: Request) -> tuple[World, tuple[Role, Job, Fabrics]]:
    """Give each rank its number and make its role; a fault, or the end of a rehearsal, ends this process."""
    try:
        found = inputs.read_inputs(world, request)
        roles = found[0].roles
        world = world.reordered(topology.arrange([host for host, _ in world.places], roles.servers, roles.placement))
        return world, assemble.prepare(world, request, found)
    except RunOver as over:
        worlds.finish(world, over.exit_code)
    except SilofoldError as fault:  # agreed on by all ranks
        if world.rank == 0:
            survive.leave_word(request, fault)
            console.error(fault)
        worlds.finish(world, fault.exit_code)


def _rounds(world: World, role: Role, job: Job, fabrics: Fabrics) -> int:
    """Play the rounds, and return the exit code."""
    try:
        return play(role, job, fabrics)
    except RunOver as over:
        return over.exit_code
    except UserCodeError as fault:
        if not world.rank:
            raise
        logger.info("rank %d ends the job", world.rank, exc_info=fault)
        world.say(Broken(fault.id, fault.message), topology.SCHEDULER)  # who tells it once, and ends all ranks
        return Listener(world, job).dismissal()
