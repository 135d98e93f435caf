"""The scheduler's decisions: events in, actions out. `Coordinator.handle` is the only thing that changes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from silofold.coordination.events import Asked, Died, EndKind, Heard, Send, Tick, TimeIsShort
from silofold.coordination.facts import BEAT, GRACE, OVERSLEPT
from silofold.coordination.phases import WITH_ROUND, Applying, Closed, Evaluating, Gathering, Reducing, Training
from silofold.coordination.state import State
from silofold.coordination.steps import applying, evaluating, gathering, reducing, training
from silofold.core.endings import RESUMABLE, STOPPED
from silofold.core.messages import Alive, Applied, Evaluation, Moved, Ready, Reports, Saved

if TYPE_CHECKING:
    from silofold.coordination.events import Action, Event
    from silofold.coordination.facts import Facts
    from silofold.coordination.membership import Membership
    from silofold.coordination.phases import Phase
    from silofold.coordination.states import SiloStates
    from silofold.core.endings import Ending
    from silofold.core.messages import AnyMessage


class Step(Protocol):
    """What may follow in a phase; it returns whether another step may."""

    def __call__(self, state: State, phase: Any, now: float, *, timed_out: bool) -> bool: ...  # noqa: D102


STEPS: dict[type[Phase], Step] = {
    Gathering: gathering.advance,
    Training: training.advance,
    Reducing: reducing.advance,
    Applying: applying.advance,
    Evaluating: evaluating.advance,
}


class Coordinator:
    """The protocol of rank 0.

    Parameters
    ----------
    facts
        The job.
    now
        When it begins, on any clock of seconds that does not run backwards; the same clock as that of `handle`.
    """

    def __init__(self, facts: Facts, now: float) -> None:
        self._state = State.begin(facts, Gathering(now + facts.rounds.start_window))
        self._beat_at = now

    @property
    def phase(self) -> Phase:
        """What is waited for."""
        return self._state.phase

    @property
    def number(self) -> int:
        """Round under way or next."""
        return self._state.progress.number

    @property
    def counted(self) -> int:
        """Rounds that count so far."""
        return self._state.progress.counted

    @property
    def voids(self) -> int:
        """Void rounds in a row."""
        return self._state.progress.voids

    @property
    def members(self) -> Membership:
        """The ranks."""
        return self._state.members

    @property
    def states(self) -> SiloStates:
        """What silos keep."""
        return self._state.states

    @property
    def ending(self) -> tuple[Ending, str] | None:
        """How the job ends before the last round, and why."""
        return self._state.progress.ending

    @property
    def benched(self) -> set[int]:
        """Silos that failed too often in a row."""
        return self._state.benched

    @property
    def wake_at(self) -> float:
        """When it must be told the time, at the latest."""
        return min(self.phase.deadline, self._beat_at)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take an event, and return what is to be done, in this order.

        Parameters
        ----------
        event
            What has happened.
        now
            When, seconds.
        """
        state = self._state
        state.out = []
        # what has arrived is heard before the time is told: what came in time counts, though this rank was stopped then
        is_time = isinstance(event, Tick) and not self._overslept(now)
        match event:
            case Heard(rank, message):
                self._take(rank, message, now)
            case Died(rank):
                self._remove_dead(rank)
            case Asked(stop, scale):
                state.scale += scale
                if stop == "now":
                    state.finish(EndKind.STOP_NOW)
                elif stop:
                    self.end_early(STOPPED, "stopped as asked")
            case TimeIsShort(story):
                self.end_early(RESUMABLE, story)
        while step := STEPS.get(type(state.phase)):
            if not step(state, state.phase, now, timed_out=is_time and now >= state.phase.deadline):
                break
        if now >= self._beat_at and not isinstance(state.phase, Closed):
            # to all who live: who of them waits need not be guessed, and who does not finds it later and passes on
            self._beat_at = now + BEAT * state.facts.rounds.start_window
            state.out += [Send(rank, Alive()) for rank in sorted(state.members.living)]
        return state.out

    def _overslept(self, now: float) -> bool:
        """Wait a little longer where this rank was stopped as its deadline passed."""
        if now < self.phase.deadline + OVERSLEPT:
            return False
        self.phase.deadline = now + GRACE
        return True

    def end_early(self, ending: Ending, story: str) -> None:
        """End the job after this round, with a checkpoint to go on from."""
        if self.ending is None:
            self._state.warn(f"{story}: the job ends after this round")
            self._state.progress.ending = ending, story

    def awaited(self) -> tuple[str, set[int]]:
        """Name what it is about, and the living ranks that it waits for."""
        members, phase = self.members, self.phase
        match phase:
            case Gathering():
                return "waiting for ready ranks", (members.awaited(late_too=phase.second) - members.ready) & members.living
            case Training():
                return "training", set(phase.round.unreported)
            case Reducing():
                return "reduction", set(phase.silent)
            case Applying():
                ranks = list(self._state.facts.layout.server_ranks)
                return "server step", {rank for shard, rank in enumerate(ranks) if shard not in phase.applied}
            case Evaluating():
                return "last evaluation", set(phase.round.unevaluated)
        return "", set()

    # --- what is heard -----------------------------------------------------------------------------------------------

    def _take(self, rank: int, message: AnyMessage, now: float) -> None:
        phase = self.phase
        under = phase.round if isinstance(phase, WITH_ROUND) else None
        current = under.plan.round if under else 0
        match message:
            case Ready():
                self.states.written(rank)
                self.members.heard_ready(rank)
            case Saved():
                self._state.checkpoints.heard(message)
            case Evaluation() if under and message.round == current:
                under.hear_evaluation(rank, message)
            case Reports() if isinstance(phase, Training) and message.round == current:
                phase.round.hear_reports(rank, message)
                phase.round.arrived[rank] = now
            case Moved() if isinstance(phase, Reducing) and (message.round, message.attempt) == (
                current,
                phase.tally.attempt,
            ):
                phase.hear(rank, message)
            case Applied() if isinstance(phase, Applying) and message.round == current:
                phase.applied[message.shard] = message
        if under and not under.evaluated and not under.unevaluated and not under.lost_evaluation:
            self._state.tell_evaluation(under)
        if self._state.checkpoints.pending:
            self._state.commit()

    def _remove_dead(self, rank: int) -> None:
        title = self._state.facts.layout.title(rank)
        self._state.warn(f"{title} is dead")
        self.members.remove_dead(rank)
        if isinstance(self.phase, WITH_ROUND):
            self.phase.round.remove_dead(rank, training=isinstance(self.phase, Training))
        if isinstance(self.phase, Reducing):
            self.phase.silent.discard(rank)
        if rank in self.members.servers:
            self._state.finish(EndKind.LOST, why=f"{title} is dead")
        elif rank in self.states.writers:
            self._state.lose((), f"{title} is dead, and with it what its silos keep")
