"""The scheduler's decisions: events in, actions out. `Coordinator.handle` is the only thing that changes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofold.coordination import planning, quorum, tallying, window
from silofold.coordination.checkpoints import Checkpointing
from silofold.coordination.events import (
    Again,
    Asked,
    Died,
    EndKind,
    Evaluated,
    Expel,
    Finished,
    Heard,
    Opened,
    RoundClosed,
    Send,
    Tallied,
    Tick,
    TimeIsShort,
    Warn,
)  # fmt: skip
from silofold.coordination.facts import BEAT, GRACE, OVERSLEPT
from silofold.coordination.membership import Membership
from silofold.coordination.phases import WITH_ROUND, Applying, Closed, Evaluating, Gathering, Reducing, Training, Underway
from silofold.coordination.states import SiloStates
from silofold.coordination.window import Lap
from silofold.core.endings import RESUMABLE, STOPPED
from silofold.messages import (
    Alive,
    Applied,
    Evaluation,
    Moved,
    Ready,
    Replan,
    Reports,
    Saved,
    Settled,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from silofold.coordination.events import Action, Event
    from silofold.coordination.facts import Facts
    from silofold.coordination.phases import Phase
    from silofold.coordination.quorum import Verdict
    from silofold.core.endings import Ending
    from silofold.messages import AnyMessage


class Coordinator:
    """The protocol of rank 0.

    Parameters
    ----------
    facts
        The job.
    now
        When it begins, on any clock of seconds that does not run backwards; the same clock as that of `handle`.

    Attributes
    ----------
    phase : Phase
        What is waited for.
    number, counted, voids : int
        Round under way or next, rounds that count so far, void rounds in a row.
    members : Membership
        The ranks.
    states : SiloStates
        What silos keep.
    ending : tuple of Ending and str, or None
        How the job ends before the last round, and why.
    """

    def __init__(self, facts: Facts, now: float) -> None:
        self._facts = facts
        self.members = Membership(facts)
        self.states = SiloStates(facts)
        self._checkpoints = Checkpointing(facts)
        self.number, self.counted, self.voids = facts.start_round, facts.counted, facts.voids
        self._failures, self._laps = dict(facts.failures), facts.laps
        self.phase: Phase = Gathering(now + facts.rounds.start_window)
        self.ending: tuple[Ending, str] | None = None
        self._scale, self._replans = 0, 0
        self._beat_at, self._is_time = now, False
        self._out: list[Action] = []
        self._steps: dict[type[Phase], Callable[..., bool]] = {
            Gathering: self._gather,
            Training: self._close_training,
            Reducing: self._close_reduction,
            Applying: self._close_step,
            Evaluating: self._close_run,
        }

    @property
    def wake_at(self) -> float:
        """When it must be told the time, at the latest."""
        return min(self.phase.deadline, self._beat_at)

    @property
    def benched(self) -> set[int]:
        """Silos that failed too often in a row; a replay follows its record instead."""
        limit = self._facts.rounds.bench_after
        return set() if self._facts.script else {silo for silo, count in self._failures.items() if count >= limit}

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take an event, and return what is to be done, in this order.

        Parameters
        ----------
        event
            What has happened.
        now
            When, seconds.
        """
        self._out = []
        # what has arrived is heard before the time is told: what came in time counts, though this rank was stopped then
        self._is_time = isinstance(event, Tick) and not self._overslept(now)
        match event:
            case Heard(rank, message):
                self._take(rank, message, now)
            case Died(rank):
                self._remove_dead(rank)
            case Asked(stop, scale):
                self._scale += scale
                if stop == "now":
                    self._finish(EndKind.STOP_NOW)
                elif stop:
                    self.end_early(STOPPED, "stopped as asked")
            case TimeIsShort(story):
                self.end_early(RESUMABLE, story)
        while self._advance(now):
            pass
        if now >= self._beat_at and not isinstance(self.phase, Closed):
            # to all who live: who of them waits need not be guessed, and who does not finds it later and passes on
            self._beat_at = now + BEAT * self._facts.rounds.start_window
            self._out += [Send(rank, Alive()) for rank in sorted(self.members.living)]
        return self._out

    def _overslept(self, now: float) -> bool:
        """Wait a little longer where this rank was stopped as its deadline passed."""
        if now < self.phase.deadline + OVERSLEPT:
            return False
        self.phase.deadline = now + GRACE
        return True

    def end_early(self, ending: Ending, story: str) -> None:
        """End the job after this round, with a checkpoint to go on from."""
        if self.ending is None:
            self._out.append(Warn(f"{story}: the job ends after this round"))
            self.ending = ending, story

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
                ranks = list(self._facts.layout.server_ranks)
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
                self._checkpoints.heard(message)
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
            self._tell_evaluation(under)
        if self._checkpoints.pending:
            self._commit()

    def _remove_dead(self, rank: int) -> None:
        title = self._facts.layout.title(rank)
        self._out.append(Warn(f"{title} is dead"))
        self.members.remove_dead(rank)
        if isinstance(self.phase, WITH_ROUND):
            self.phase.round.remove_dead(rank, training=isinstance(self.phase, Training))
        if isinstance(self.phase, Reducing):
            self.phase.silent.discard(rank)
        if rank in self.members.servers:
            self._finish(EndKind.LOST, why=f"{title} is dead")
        elif rank in self.states.writers:
            self._lose((), f"{title} is dead, and with it what its silos keep")

    def _tell_evaluation(self, under: Underway) -> None:
        """Tell how the arriving model does, once, with what has been heard of it by now."""
        if under.evaluated or (under.plan.last and not all(one.arrived for one in under.evaluations.values())):
            return  # in the second case it is sent again
        under.evaluated = True
        self._out.append(Evaluated(dict(under.evaluations)))
        digest = next((one.model_sha256 for one in under.evaluations.values() if one.model_sha256), "")
        self._checkpoints.on_record(under.plan.round, digest)
        self._commit()

    def _commit(self) -> None:
        if done := self._checkpoints.commit():
            self._out.append(done)

    # --- what follows: each step returns whether another may ---------------------------------------------------------

    def _advance(self, now: float) -> bool:
        phase = self.phase
        step = self._steps.get(type(phase))
        return step is not None and step(phase, now, timed_out=self._is_time and now >= phase.deadline)

    def _gather(self, phase: Gathering, now: float, *, timed_out: bool) -> bool:
        members, rounds = self.members, self._facts.rounds
        if not timed_out and not members.all_ready(late_too=phase.second):
            return False
        if self._scale:
            self._rescale()
            return True
        for rank in members.give_up_waiting():
            self._out.append(Warn(f"{self._facts.layout.title(rank)} is not ready: nobody waits for it until it is"))
        self._out += map(Warn, members.settle_hosts())
        present, held = members.present()
        silos = sorted(held - self.benched - self.states.unwritten)
        wanted = quorum.start_quorum(rounds.start_quorum, len(self._facts.examples) - len(self.benched))
        # the last checkpoint must name what every silo keeps
        short = len(silos) < wanted or (bool(self.states.writers) and self._is_over())
        if short and not phase.second:  # late ones too get their chance before the job is given up
            self.phase = Gathering(now + rounds.start_window, second=True)
            return True
        if missing := members.servers - members.ready:
            return self._lose(missing, "are not ready for the next round")
        if short:
            return self._give_up_waiting(len(silos), wanted)
        self._open(present, silos, now)
        return True

    def _give_up_waiting(self, found: int, wanted: int) -> bool:
        """End the job because too few silos are ready."""
        if away := self.states.writers:
            return self._lose(away, "did not write what their silos keep")
        members, window = self.members, self._facts.rounds.start_window
        if len(self.benched) == len(self._facts.examples):
            why = f"round {self.number}: no silo is left that may train (rounds.bench_after)"
            return self._finish(EndKind.VOID, why=why)
        absent = ", ".join(map(self._facts.layout.title, sorted(members.hosting.hosts - members.ready))) or "no rank"
        return self._finish(
            EndKind.RESUMABLE, "start-quorum",
            f"round {self.number}: {found} silos were ready within rounds.start_window = {window} s, "
            f"rounds.start_quorum asks for {wanted}; missing: {absent}",
        )  # fmt: skip

    def _rescale(self) -> None:
        change, self._scale = self._scale, 0
        if self._facts.tied:
            self._out.append(Warn("not scaled: silos cannot leave their files (roles.near)"))
            return
        changed = self.members.hosting.scale(change, self.members.ready)
        self._out.append(Warn(f"scaled by {changed:+d} of {change:+d} workers: now {len(self.members.hosting.hosts)}"))

    def _open(self, present: list[int], silos: list[int], now: float) -> None:
        """Plan the round, and tell everyone that is ready."""
        facts, members = self._facts, self.members
        last = self._is_over()
        cohort = () if last else tuple(self._draw(silos, self.number))
        due, told = self._checkpoints.due(self.number, last=last, complete=not self.states.writers)
        self._out += told
        plan = planning.make(
            facts, members, self.number, present, cohort, self._laps,
            checkpoint=due, last=last, exit_code=self.ending[0].code if self.ending else 0,
        )  # fmt: skip
        self._checkpoints.begin(plan, self.states, map(facts.layout.title, members.servers), self.counted, self.voids)
        upcoming = self._draw(silos, self.number + 1) if facts.foresees and not last and not facts.script else []
        self._out.append(Opened(plan, cohort))
        sent = list(planning.handed_out(facts, members, plan, cohort, upcoming, self.states))
        self._out += [Send(rank, mine) for rank, mine in sent]
        members.ready -= members.servers | set(plan.members.workers)
        under = Underway.begin(plan, cohort, {silo: rank for rank, mine in sent for silo in mine.dealt}, now)
        self.phase = (Evaluating if last else Training)(under, now + plan.window + GRACE)

    def _is_over(self) -> bool:
        if self.ending:
            return True
        if self._facts.script:
            return self.number > max(self._facts.script)
        return self.counted >= self._facts.rounds.count

    def _draw(self, silos: list[int], number: int) -> list[int]:
        script = self._facts.script
        return script[number][0] if script else self._facts.draw(silos, number)

    def _close_training(self, phase: Training, now: float, *, timed_out: bool) -> bool:
        under, plan, members = phase.round, phase.round.plan, self.members
        early = self._is_enough(under)
        if under.unreported and not early and not timed_out:
            return False
        missing = set(under.unreported)
        under.timed_out = quorum.cut_short(under.reports.values()) or (bool(missing) and not early)
        if missing and not early:
            self._note_late(missing, plan.round)
        for rank in missing:
            members.late.setdefault(rank, 0)
        if missing or under.lost_report:
            members.epoch += 1
        verdict = self._judge(under)
        script = self._facts.script.get(plan.round)
        met = verdict.quorum_met and bool(under.cohort) if script is None else not script[1]
        self._tell_evaluation(under)
        self._say_tally(under, verdict, 1, now, now, met=met)
        return True

    def _is_enough(self, under: Underway) -> bool:
        rounds = self._facts.rounds
        if rounds.close == "all" or self._facts.script:
            return False
        return under.finished >= quorum.needed(rounds.update_ratio, len(under.cohort))

    def _judge(self, under: Underway) -> Verdict:
        return quorum.judge(
            under.cohort, [sent.reports for sent in under.reports.values()], self._facts.examples,
            self._facts.weights, self._facts.rounds.update_ratio, self._facts.elements,
        )  # fmt: skip

    def _say_tally(self, under: Underway, verdict: Verdict, attempt: int, tallied: float, now: float, *, met: bool) -> None:
        """Tell whose updates count to every rank that heard the plan; those that are late find it when they come."""
        facts, members = self._facts, self.members
        silos = tallying.shares(verdict, under.reports)
        tally = tallying.make(facts, members, under.plan.round, attempt, silos, quorum_met=met)
        self._out.append(Tallied(tally, verdict))
        told = tallying.handed_out(facts, members, tally, verdict, silos, self._listeners(under))
        self._out += [Send(rank, mine) for rank, mine in told]
        deadline = now + under.plan.window + GRACE
        if not met:
            self._close_round(Applying(under, tally, verdict, tallied, deadline), now)
        elif tally.certain:
            self.states.count(tally.round, silos, under.reports)
            self.phase = Applying(under, tally.as_settled(), verdict, tallied, deadline)
        else:
            everyone = members.living & {*members.servers, *silos}
            self.phase = Reducing(under, tally, verdict, tallied, deadline, everyone, silos, set(members.servers))

    def _listeners(self, under: Underway) -> list[int]:
        return sorted(self.members.living & {*self.members.servers, *under.plan.members.workers})

    def _close_reduction(self, phase: Reducing, now: float, *, timed_out: bool) -> bool:
        members, under, tally = self.members, phase.round, phase.tally
        # what a dead member's silos keep would be lost if its sum counted
        lost = self._facts.keeps_state and not members.living.issuperset(phase.silos)
        whole = not phase.lacking and not lost
        if not whole and not phase.grace:
            if timed_out or phase.broken or lost:
                # a server's word that comes only now still counts: what is added up in workers' memory is not there twice
                phase.deadline, phase.grace = now + GRACE, True
                return True
            return False
        if not whole and phase.silent and not timed_out:
            return False
        members.epoch += phase.broken
        if unsound := next((word.unsound for word in phase.words.values() if word.unsound), ""):
            verdict = quorum.Verdict((), (), dict.fromkeys(phase.verdict.accepted, unsound), quorum_met=False)
            self._say_tally(under, verdict, tally.attempt + 1, phase.tallied, now, met=False)
            return True
        if whole:
            settled = tally.as_settled()
            self.states.count(tally.round, phase.silos, under.reports)
            self._out.append(Tallied(settled, phase.verdict))
            self._out += [Send(rank, Settled(tally.round, tally.attempt)) for rank in self._listeners(under)]
            deadline = now + under.plan.window + GRACE
            self.phase = Applying(under, settled, phase.verdict, phase.tallied, deadline)
            return True
        return self._tally_again(phase, set(phase.silent), now)

    def _tally_again(self, phase: Reducing, silent: set[int], now: float) -> bool:
        """Tally without the members that were lost in the reduction: nothing has moved yet."""
        members, under, tally = self.members, phase.round, phase.tally
        members.epoch += 1
        if lost := silent & members.servers:
            return self._lose(lost, "did not answer after the reduction")
        if tally.attempt > len(tally.members.workers):
            why = f"round {tally.round}: the reduction broke {tally.attempt} times; resume the run"
            return self._finish(EndKind.RESUMABLE, "rank-lost", why)
        self._note_late(silent, tally.round)
        under.reports = {
            rank: sent for rank, sent in under.reports.items() if rank in members.living and rank in phase.words
        }
        verdict = self._judge(under)
        self._say_tally(under, verdict, tally.attempt + 1, phase.tallied, now, met=verdict.quorum_met)
        return True

    def _close_step(self, phase: Applying, now: float, *, timed_out: bool) -> bool:
        ranks = self._facts.layout.server_ranks
        if len(phase.applied) == len(ranks):
            if not all(message.finite for message in phase.applied.values()):
                why = f"round {self.number}: the global model is no longer finite after the servers' step"
                return self._finish(EndKind.NOT_FINITE, why=why)
            self._close_round(phase, now)
            return True
        if not timed_out:
            return False
        missing = {ranks[shard] for shard in set(range(len(ranks))) - set(phase.applied)}
        return self._lose(missing, "did not apply the update")

    def _close_round(self, phase: Applying, now: float) -> None:
        under, tally, rounds = phase.round, phase.tally, self._facts.rounds
        accepted = set(phase.verdict.accepted)
        sent = {rank for rank, found in under.reports.items() if any(one.silo in accepted for one in found.reports)}
        last_report = max((under.arrived[rank] - under.began for rank in sent), default=None)
        dead = frozenset(under.dealt.values()) - self.members.living
        self._out.append(RoundClosed(
            under.plan, under.cohort, tally, phase.verdict, under.reports, under.evaluations, phase.applied, under.dealt,
            dead, under.began, phase.tallied, last_report, under.timed_out,
        ))  # fmt: skip
        if tally.quorum_met and last_report is not None and not under.timed_out:
            trained = sum(self._facts.examples[silo] for silo in accepted)
            lap = Lap(last_report, trained, under.plan.evaluate)
            self._laps = window.remember(self._laps, lap)
        self.number += 1
        self.voids = 0 if tally.quorum_met else self.voids + 1
        self.counted += tally.quorum_met or rounds.count_void
        self._count_failures(phase)
        self.phase = Gathering(now + rounds.start_window)
        if self.voids >= rounds.max_void and not self._facts.script:
            self._finish(EndKind.VOID, why=f"{self.voids} void rounds in a row (rounds.max_void)")

    def _count_failures(self, phase: Applying) -> None:
        if not phase.verdict.refused and not self._failures:
            return
        reports = {report.silo: report for sent in phase.round.reports.values() for report in sent.reports}
        failed = {silo for silo in phase.verdict.refused if quorum.own_fault(reports.get(silo))}
        before, limit = self.benched, self._facts.rounds.bench_after
        self._failures = quorum.count_failures(self._failures, phase.round.cohort, set(phase.verdict.refused), failed, limit)
        for silo in sorted(self.benched - before):
            self._out.append(Warn(f"silo {silo} failed in {self._failures[silo]} rounds in a row and trains no more"))

    def _close_run(self, phase: Evaluating, now: float, *, timed_out: bool) -> bool:
        under = phase.round
        if not under.evaluated:
            if under.unevaluated and not timed_out:
                return False
            return self._plan_the_end_again(under, now)
        if self._checkpoints.pending:
            why = "the last model was not saved in time; resume the run"
            return timed_out and self._finish(EndKind.RESUMABLE, "rank-silent", why)
        return self._finish(EndKind.OVER, code=under.plan.exit_code)

    def _plan_the_end_again(self, under: Underway, now: float) -> bool:
        """Send the last model again, without who was lost before it had been evaluated everywhere."""
        self._replans += 1
        if self._replans > len(self._facts.layout.worker_ranks) + 1:
            why = f"the last model did not arrive in {self._replans - 1} attempts; resume the run"
            return self._finish(EndKind.RESUMABLE, "rank-silent", why)
        members = self.members
        workers = members.living & set(under.plan.members.workers)
        self._note_late(under.unevaluated, under.plan.round)
        members.epoch += 1
        self._out.append(Again())
        self._out += [Send(rank, Replan(under.plan.round)) for rank in sorted(workers | (members.living & members.servers))]
        self.phase = Gathering(now + self._facts.rounds.start_window)
        return True

    # --- losses and the end --------------------------------------------------------------------------------------------

    def _note_late(self, ranks: Iterable[int], number: int) -> None:
        """Count the windows that these ranks missed in a row, and expel who has missed too many."""
        missing = sorted(ranks)
        expelled = self.members.miss(missing)
        for rank in missing:
            title = self._facts.layout.title(rank)
            self._out.append(Warn(f"round {number}: nothing of {title} in time"))
            if rank in expelled:
                self._out.append(Warn(f"{title} missed {self.members.late[rank]} windows in a row and is expelled"))
                self._out.append(Expel(rank, self.members.beside(rank)))

    def _lose(self, servers: Iterable[int], why: str) -> bool:
        """Go on without servers that live but do not answer, where the survivors can."""
        ranks = tuple(sorted(servers))
        story = f"{', '.join(map(self._facts.layout.title, ranks))} {why}".strip()
        if not self._facts.survives:
            return self._finish(EndKind.RESUMABLE, "rank-lost", f"{story}; resume the run")
        self._out.append(Warn(story))
        return self._finish(EndKind.LOST, why=story, suspects=ranks)

    def _finish(
        self,
        kind: EndKind,
        error: str = "",
        why: str = "",
        code: int = 0,
        suspects: tuple[int, ...] = (),
    ) -> bool:
        if not isinstance(self.phase, Closed):
            self._out.append(Finished(kind, error, why, code, suspects, self._silent()))
            self.phase = Closed()
        return False

    def _silent(self) -> tuple[int, ...]:
        """Return the living ranks that are late as the run ends: they have stopped, perhaps."""
        return tuple(sorted(set(self.members.late) & self.members.living))
