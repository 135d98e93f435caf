"""When a checkpoint is due, what it must hold, and when all of it is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofold.coordination.events import CommitCheckpoint, Warn
from silofold.coordination.facts import Saved

if TYPE_CHECKING:
    from collections.abc import Iterable

    from silofold.coordination.facts import Facts
    from silofold.coordination.states import SiloStates
    from silofold.core import messages
    from silofold.core.messages import Plan
    from silofold.core.reports import StateOf


class Checkpointing:
    """The checkpoint that is being written, and the one before.

    Parameters
    ----------
    facts
        The job.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._last = facts.saved
        self._overdue = False
        self._plan: Plan | None = None
        self._states: dict[int, StateOf] = {}
        self._wanted: set[str] = set()
        self._missing: set[str] = set()
        self._parts: dict[str, messages.Saved] = {}
        self._rounds = 0, 0
        self._digest: str | None = None
        """Of the model that is being saved; none as long as its round is not on record."""

    @property
    def pending(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._plan is not None

    def due(self, number: int, *, last: bool, complete: bool) -> tuple[bool, list[Warn]]:
        """Whether the model that arrives in this round is saved: not twice, and later while a silo's state is away."""
        done, every = number - 1, self._facts.rounds.checkpoint_every
        wanted = last or self._overdue or bool(every and done % every == 0)
        if done < self._facts.start_round or not wanted:
            return False, []
        told = []
        if not complete and not self._overdue:
            told.append(Warn(f"no checkpoint of round {done}: what some silos keep is not on disk yet; "
                             "it is written when their worker is back"))  # fmt: skip
        self._overdue = not complete
        return complete, told

    def begin(self, plan: Plan, states: SiloStates, writers: Iterable[str], counted: int, voids: int) -> None:
        """Wait for the parts of a plan's checkpoint; one that is unfinished by then is overtaken.

        Parameters
        ----------
        plan
            The plan that asks for it, or does not.
        states
            What silos keep.
        writers
            Titles of the ranks that save a part.
        counted, voids
            Rounds up to the one that is saved.
        """
        if plan.checkpoint:
            self._plan, self._states, self._wanted, self._parts = plan, states.snapshot(), set(writers), {}
            self._missing = self._wanted.copy()
            self._rounds, self._digest = (counted, voids), None

    def on_record(self, number: int, digest: str) -> None:
        """Take note that the model that arrived in a round was evaluated; `digest` is empty if nobody could tell it."""
        if self._plan is not None and self._plan.round == number:
            self._digest = digest

    def heard(self, part: messages.Saved) -> bool:
        """Take a part; False if it belongs to no checkpoint that is being written."""
        if self._plan is None or part.round != self._plan.round - 1 or part.title not in self._wanted:
            return False
        self._parts[part.title] = part
        self._missing.discard(part.title)
        return True

    def commit(self) -> CommitCheckpoint | Warn | None:
        """Commit the checkpoint once all its parts are there and its round is on record; none as long as they are not."""
        plan = self._plan
        if plan is None or self._digest is None or self._missing:
            return None
        self._plan = None
        if not self._digest:
            return Warn(f"checkpoint of round {plan.round - 1} given up: nobody could tell the model's digest")
        files = {entry.file: entry.sha256 for part in self._parts.values() for entry in part.files}
        self._last = Saved(plan.round - 1, files)
        slowest = max(part.seconds for part in self._parts.values())
        return CommitCheckpoint(plan.round - 1, *self._rounds, self._digest, files, self._states, slowest)
