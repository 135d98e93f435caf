"""The ways to end, in one table: exit code, whether a batch script starts the job again, and what it means.

Code, batch scripts, ``status`` and the page of docs read this table. It knows nothing of errors, runs or MPI.
"""

from __future__ import annotations

from typing import NamedTuple


class Ending(NamedTuple):
    """One way to end.

    Attributes
    ----------
    name
        Its short stable name, in ``status.json`` and in the docs.
    code
        Exit code of the process.
    requeue
        Whether a repetition can mend it: a batch script puts the job back into the queue.
    meaning
        What it says of the run.
    remedy
        What to do next.
    """

    name: str
    code: int
    requeue: bool
    meaning: str
    remedy: str


DONE = Ending("done", 0, requeue=False, meaning="All rounds are done; every promised file is there and reads back.",
              remedy="Nothing.")  # fmt: skip
STOPPED = Ending("stopped", 0, requeue=False, meaning="The job was stopped as asked, with a checkpoint to go on from.",
                 remedy="The same command goes on.")  # fmt: skip
OWN_RULE = Ending("own rule", 0, requeue=False, meaning="A rule of the settings ended the run before its last round.",
                  remedy="Nothing.")  # fmt: skip
INTERNAL = Ending("internal error", 1, requeue=False, meaning="A mistake of the program itself.",
                  remedy="Report it, with the logs of the run folder.")  # fmt: skip
BAD_INPUT = Ending("bad input", 2, requeue=False,
                   meaning="Settings, data, files or surroundings that no repetition mends; nothing was lost.",
                   remedy="Change what the line names.")  # fmt: skip
DIVERGED = Ending("diverged", 3, requeue=False, meaning="Updates or losses are not finite or out of range.",
                  remedy="A lower learning rate, or what the line names.")  # fmt: skip
USER_CODE = Ending("user code", 4, requeue=False,
                   meaning="Code of the user's own raised, or returned what it must not.",
                   remedy="Mend that code; the line names where.")  # fmt: skip
REPLAY_DIFFERS = Ending("replay differs", 5, requeue=False, meaning="A replay gave other bits than its record.",
                        remedy="Compare the environments that the line names.")  # fmt: skip
RESUMABLE = Ending("resumable", 75, requeue=True,
                   meaning="Ended early: a rank or node was lost, the time is over, or a disk is full.",
                   remedy="The same command, or --resume RUN_DIR, goes on from the newest checkpoint.")  # fmt: skip
INTERRUPTED = Ending("interrupted", 130, requeue=False, meaning="Interrupted at the terminal.",
                     remedy="The same command again.")  # fmt: skip

ENDINGS = (
    DONE, STOPPED, OWN_RULE, RESUMABLE, BAD_INPUT, DIVERGED, USER_CODE, REPLAY_DIFFERS, INTERNAL, INTERRUPTED,
)  # fmt: skip


def of_code(code: int) -> Ending:
    """Return the ending that a process's exit code means.

    Of 0 it is `DONE`: whether the run was stopped stands in its status. A code that is not in the table is that of a
    process that was killed: `RESUMABLE`.
    """
    return next((ending for ending in ENDINGS if ending.code == code), RESUMABLE)
