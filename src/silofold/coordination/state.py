"""What the coordinator knows of a job, and the few changes that its phases have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from silofold.coordination import quorum
from silofold.coordination.checkpoints import Checkpointing
from silofold.coordination.events import EndKind, Evaluated, Expel, Finished, Warn
from silofold.coordination.membership import Membership
from silofold.coordination.phases import Closed
from silofold.coordination.states import SiloStates
from silofold.core.endings import STOPPED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from silofold.coordination.events import Action
    from silofold.coordination.facts import Facts
    from silofold.coordination.phases import Phase, Underway
    from silofold.coordination.quorum import Verdict
    from silofold.coordination.window import Lap
    from silofold.core.endings import Ending


@dataclass
class Progress:
    """How far a run has come."""

    number: int
    """Round under way or next."""
    counted: int
    """Rounds that count so far."""
    voids: int
    """Void rounds in a row."""
    failures: Mapping[int, int]
    """Failures in a row of each silo."""
    laps: tuple[Lap, ...]
    """How long the last rounds took to report."""
    replans: int = 0
    """How often the end was planned again."""
    ending: tuple[Ending, str] | None = None
    """How the job ends before the last round, and why."""


@dataclass
class State:
    """What is known of a job.

    Attributes
    ----------
    facts
        What was known before the first event.
    progress
        How far the run has come.
    phase
        What is waited for.
    members
        The ranks.
    states
        What silos keep.
    checkpoints
        The one that is being written.
    scale
        Workers that are to be added, or taken away.
    out
        What is to be done because of the event at hand, in this order.
    """

    facts: Facts
    progress: Progress
    phase: Phase
    members: Membership
    states: SiloStates
    checkpoints: Checkpointing
    scale: int = 0
    out: list[Action] = field(default_factory=list)

    @classmethod
    def begin(cls, facts: Facts, phase: Phase) -> State:
        """Begin with the facts alone."""
        progress = Progress(facts.start_round, facts.counted, facts.voids, dict(facts.failures), facts.laps)
        return cls(facts, progress, phase, Membership(facts), SiloStates(facts), Checkpointing(facts))

    @property
    def benched(self) -> set[int]:
        """Silos that failed too often in a row; a replay follows its record instead."""
        limit = self.facts.rounds.bench_after
        return set() if self.facts.script else {silo for silo, count in self.progress.failures.items() if count >= limit}

    @property
    def is_over(self) -> bool:
        """Whether the next plan is that of the end."""
        progress, script = self.progress, self.facts.script
        # a wish that comes before the first round ends the job after it: a job that is warned early again and again gets on
        if progress.ending and (progress.number > self.facts.start_round or progress.ending[0] is not STOPPED):
            return True
        return progress.number > max(script) if script else progress.counted >= self.facts.rounds.count

    def warn(self, text: str) -> None:
        """Tell the user."""
        self.out.append(Warn(text))

    def listeners(self, under: Underway) -> list[int]:
        """Return the living ranks that have heard the plan of the round under way."""
        return sorted(self.members.living & {*self.members.servers, *under.plan.members.workers})

    def judge(self, under: Underway) -> Verdict:
        """Decide whose updates count, of those that have been reported."""
        return quorum.judge(
            under.cohort, [sent.reports for sent in under.reports.values()], self.facts.examples, self.facts.weights,
            self.facts.rounds.update_ratio, self.facts.elements,
        )  # fmt: skip

    def tell_evaluation(self, under: Underway) -> None:
        """Tell how the arriving model does, once, with what has been heard of it by now."""
        if under.evaluated or (under.plan.last and not all(one.arrived for one in under.evaluations.values())):
            return  # in the second case it is sent again
        under.evaluated = True
        self.out.append(Evaluated(dict(under.evaluations)))
        digest = next((one.model_sha256 for one in under.evaluations.values() if one.model_sha256), "")
        self.checkpoints.on_record(under.plan.round, digest)
        self.commit()

    def commit(self) -> None:
        """Commit the checkpoint that is being written, once all of it is there."""
        if done := self.checkpoints.commit():
            self.out.append(done)

    def note_late(self, ranks: Iterable[int], number: int) -> None:
        """Count the windows that these ranks missed in a row, and expel who has missed too many."""
        missing = sorted(ranks)
        expelled = self.members.miss(missing)
        for rank in missing:
            title = self.facts.layout.title(rank)
            self.warn(f"round {number}: nothing of {title} in time")
            if rank in expelled:
                self.warn(f"{title} missed {self.members.late[rank]} windows in a row and is expelled")
                self.out.append(Expel(rank, self.members.beside(rank)))

    # --- the end: each returns that no step follows -------------------------------------------------------------------

    def lose(self, servers: Iterable[int], why: str) -> bool:
        """Go on without servers that live but do not answer, where the survivors can."""
        ranks = tuple(sorted(servers))
        story = f"{', '.join(map(self.facts.layout.title, ranks))} {why}".strip()
        if not self.facts.survives:
            return self.finish(EndKind.RESUMABLE, "rank-lost", f"{story}; resume the run")
        self.warn(story)
        return self.finish(EndKind.LOST, why=story, suspects=ranks)

    def finish(self, kind: EndKind, error: str = "", why: str = "", code: int = 0, suspects: tuple[int, ...] = ()) -> bool:
        """End, unless it has ended."""
        if not isinstance(self.phase, Closed):
            # they have stopped, perhaps
            silent = tuple(sorted(set(self.members.late) & self.members.living))
            self.out.append(Finished(kind, error, why, code, suspects, silent))
            self.phase = Closed()
        return False
