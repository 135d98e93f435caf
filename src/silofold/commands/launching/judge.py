"""How a job has ended: by what its folder says, its ranks' words and, last of all, the launcher's exit code."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, NamedTuple

from silofold.commands.launching import relay
from silofold.core import console
from silofold.core.endings import ENDINGS, INTERNAL, INTERRUPTED, RESUMABLE
from silofold.core.errors import SilofoldError, TopologyError
from silofold.record import control, deaths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from silofold.commands.launching.start import Start
    from silofold.core.endings import Ending

CODES = {ending.code for ending in ENDINGS}
KILLS = {signal.SIGKILL, signal.SIGTERM}
"""Signals by which ranks are lost that did nothing wrong: out of memory, or ended by who is in charge of the machine."""


class Observed(NamedTuple):
    """What was seen of a launcher that has ended.

    Attributes
    ----------
    code
        Its exit code.
    program
        Its path.
    family
        Whose it is: ``openmpi``, ``mpich``, or empty where that is not known.
    survives
        Whether its ranks survive each other.
    spread
        Whether other nodes take part: what fails there may not fail again.
    plain
        Whether the job is a run of its own, whose folder tells of its ends: no replay and no rehearsal.
    cut
        Whether the guard has ended it: its exit code then says nothing.
    gone
        Whether no rank was left then.
    born
        Whether ranks were seen.
    lived
        Whether a rank got so far as to say that it is up.
    spoken
        Whether a rank has said why it ends.
    said
        What was said before a rank was up.
    """

    code: int
    program: str
    family: str
    survives: bool
    spread: bool
    plain: bool
    cut: bool
    gone: bool
    born: bool
    lived: bool
    spoken: bool
    said: str

    @property
    def killed(self) -> bool:
        """Whether ranks were lost that did nothing wrong."""
        if self.cut:
            return not self.gone
        return self.code < 0 or self.code - 128 in KILLS or (self.code in KILLS and self.family == "mpich")

    def is_of_a_rank(self, start: Start | None) -> bool:
        """Whether the exit code is that of a rank which has told why.

        Open MPI's mpirun ends with 1 by itself when it is asked to end; a rank that ends so leaves word once the run has
        begun, and where ranks survive each other it ends alone. Code of the user's own, or a library, may call exit() in a
        rank: without a word of that rank's, whatever its number, that is a rank lost.
        """
        if self.cut or (start and (self.code == 0 or (self.code == INTERNAL.code and (start.has_begun() or self.survives)))):
            return False
        return self.code in {0, RESUMABLE.code, INTERRUPTED.code} or (self.code in CODES and self.spoken)

    @property
    def story(self) -> str:
        """What the exit code says where ranks were lost."""
        if self.code < 0:
            return f"mpirun was killed ({signal.Signals(-self.code).name})"
        own = {0: "mpirun ended, but the run has not", INTERNAL.code: "mpirun was ended before the run (exit code 1)"}
        return own.get(self.code, f"a rank was lost (mpirun's exit code {self.code})")


def told(start: Start | None) -> tuple[Ending | None, str]:
    """Return how the job's folder says that it ended, if it does, and the id of the error that ended it."""
    try:
        return start.told() if start else (None, "")
    except SilofoldError as fault:
        return None, fault.id


def never_started(seen: Observed, ending: Ending | None) -> bool:
    """Whether the launcher could not start the ranks: nobody but itself has ended it."""
    return ending is None and not (seen.lived or seen.killed or seen.spread)


def judge(seen: Observed, start: Start | None, ending: Ending | None, cause: str) -> int:
    """Turn what was seen of a job whose ranks were started into an exit code of ours, and tell what its folder does not.

    Parameters
    ----------
    seen
        The launcher's end.
    start
        How the folder stood when the job was started; none for a rehearsal, which leaves nothing there.
    ending, cause
        What `told` has found.
    """
    if ending is None and seen.is_of_a_rank(start):
        if start and seen.code == RESUMABLE.code:
            if seen.plain:  # a full disk: it could not say why in the folder
                control.note_end(start.folder, cause)
            if lost := _lost(start):
                console.say("; ".join(lost))
        return seen.code
    if ending is None:
        ending, cause = RESUMABLE, "rank-lost"
        message = "; ".join([seen.story, *_lost(start)])
        recorded = start.folder.path if start and start.folder.record.exists() else None
        console.say(f"{message}: {f'go on with --resume {recorded}' if recorded and seen.plain else 'start it again'}")
        if start and recorded:
            control.leave_word(start.folder, ending, message, cause)
    if start and seen.plain and ending is RESUMABLE:
        control.note_end(start.folder, cause)
    return ending.code


def _lost(start: Start | None) -> Sequence[str]:
    """Say which ranks died, as far as their nodes tell."""
    return deaths.since(start.folder.path, start.began) if start else ()


def judge_start(seen: Observed, start: Start | None) -> tuple[int, str]:
    """Turn the end of a launcher that has started no rank into an exit code of ours.

    Returns
    -------
    tuple
        The exit code, and the last words of a rank that are still to be passed on.
    """
    words = relay.essence(seen.said)
    # a launcher that cannot start says why, and so does a rank: this one was ended; libraries may have warned before
    if seen.code and (not words or (seen.born and not relay.explains(seen.said))):
        console.say(f"mpirun was ended before a rank was up (exit code {seen.code}), and has not said why: start it again")
        if start and seen.plain:
            control.note_end(start.folder, "rank-lost")
        return RESUMABLE.code, ""
    if seen.code in CODES - {0, INTERNAL.code} and words.startswith("silofold: "):  # a rank's own last words
        return seen.code, f"{words}\n"
    fault = f"no rank came up under {seen.program} (exit code {seen.code}): {words or 'it said nothing'}"
    return console.error(TopologyError("mpi-start", fault)), ""
