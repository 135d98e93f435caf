"""What becomes of a job whose ranks are lost or fail: it goes on without them, or ends with a word about why."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import TYPE_CHECKING, NoReturn

from silofold.comm import world as worlds
from silofold.coordination import recovery
from silofold.core import console
from silofold.core.endings import INTERNAL, INTERRUPTED
from silofold.core.error_table import ERRORS
from silofold.core.errors import RequeueError, RunFolderError, SilofoldError
from silofold.record import control
from silofold.roles.listening import regroup

if TYPE_CHECKING:
    from silofold.comm.world import World
    from silofold.core.endings import Ending
    from silofold.core.messages import Regroup
    from silofold.job.request import Request
    from silofold.roles.job import Job
    from silofold.roles.listening import RankLost
    from silofold.roles.scheduler import Scheduler

logger = logging.getLogger(__name__)


def without(loss: RankLost, scheduler: Scheduler | None, job: Job, world: World, request: Request) -> Regroup:
    """Find the survivors, who go on as if the job had been started anew, but at once."""
    if request.replay:
        raise RequeueError("rank-lost", f"{loss}; start the replay again")
    if job.folder.done.exists():  # lost after its last word
        worlds.finish(world, 0)
    logger.warning("%s: going on from the newest checkpoint", loss)
    if scheduler:
        scheduler.close()
        job.folder.release()
    return regroup(world, job, loss.loss)


def shape_of(world: World, job: Job) -> tuple[str, str]:
    """Give the roles of the survivors as settings."""
    roles = job.settings.roles
    servers, standby = recovery.shape(world.size, job.layout.size - world.size, roles.servers, roles.standby)
    return f"roles.servers={servers}", f"roles.standby={standby}"


def abort(world: World, request: Request) -> NoReturn:
    """End all ranks because of the exception at hand, in one line where it is a fault that we know.

    A rank that fails by a mistake of the program dies alone where the others survive that: they have not made it.
    """
    fault = sys.exc_info()[1]
    ending = INTERNAL
    if isinstance(fault, SilofoldError):
        ending = ERRORS[fault.id].ending
        console.error(fault)
    elif isinstance(fault, OSError):
        vanished = isinstance(fault, FileNotFoundError)
        broken = RunFolderError("run-vanished" if vanished else "run-write", f"rank {world.rank}: {fault}")
        ending = ERRORS[broken.id].ending
        console.error(broken)
    elif isinstance(fault, KeyboardInterrupt):
        ending = INTERRUPTED
        console.say(f"rank {world.rank} was interrupted (SIGINT)")
    else:
        sys.stderr.write(f"silofold: rank {world.rank}: internal error\n{traceback.format_exc()}")
    logger.info("rank %d ends the job", world.rank, exc_info=fault)  # the file alone: standard error has it in one line
    if ending is INTERNAL and not isinstance(fault, SilofoldError) and world.survives:
        world.end_rank(world.rank)
    leave_word(request, fault, ending)
    world.abort(ending.code)


def leave_word(request: Request, fault: BaseException | None, ending: Ending = INTERNAL) -> None:
    """Write into the folder's status how the job ends, if the folder is this job's."""
    if request.folder.ours:
        known = isinstance(fault, SilofoldError)
        cause = fault.id if isinstance(fault, SilofoldError) else ""
        control.leave_word(
            request.folder, ERRORS[cause].ending if known else ending, str(fault) or type(fault).__name__, cause
        )
