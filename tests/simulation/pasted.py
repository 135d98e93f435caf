"""Write the unit test that shows what a seed has found: the events of one coordinator, in their order."""

from __future__ import annotations

import dataclasses
import enum
import json
import re
from typing import TYPE_CHECKING, Any

import msgspec

from silofold.config import Rounds
from silofold.coordination import events
from silofold.coordination.events import Tick
from silofold.core import messages, reports

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from silofold.coordination.events import Event, Lost
    from silofold.coordination.facts import Facts
    from silofold.coordination.member import MemberFacts, Waits

TEST = """\
from silofold.core import topology
from silofold.coordination import phases
from silofold.coordination.coordinator import Coordinator
{imports}
from simulation.job import facts, step


def test_seed_{seed}() -> None:
    machine = Coordinator(
        facts(
            {settings},
        ),
        0.0,
    )
    for now, event in (
{story}
    ):
        step(machine, event, now)
    assert isinstance(machine.phase, phases.{phase})
    raise AssertionError({why!r})  # in its place: what must hold instead
"""


TEST_OF_MEMBER = """\
from silofold.core import topology
from silofold.coordination.member import Member, MemberFacts, Waits
{imports}


def test_a_member() -> None:
    machine = Member({facts})
    for now, told in (
{story}
    ):
        machine.wait(told, now) if isinstance(told, Waits) else machine.handle(told, now)
    raise AssertionError({why!r})  # in its place: what must hold instead
"""
TEST_OF_SURVIVOR = """\
from silofold.coordination.recovery import Recovery
{imports}


def test_a_survivor() -> None:
    machine = Recovery({rank}, {living}, {loss}, {seconds})
    machine.begin({began})
    for now, event in (
{story}
    ):
        machine.handle(event, now)
    raise AssertionError({why!r})  # in its place: what must hold instead
"""


def test_of_member(facts: MemberFacts, story: Iterable[tuple[Waits | Event, float]], why: str) -> str:
    """Write the test of a member: what it knew, what it waited for and was told, and when."""
    told = "\n".join(f"        ({when!r}, {code(one)})," for one, when in story)
    made = code(facts).replace("Layout", "topology.Layout")
    return TEST_OF_MEMBER.format(facts=made, story=told, why=why, imports="\n".join(imports(told)))


def test_of_survivor(
    rank: int, living: set[int], loss: Lost, seconds: float, began: float, story: Iterable[tuple[Event, float]], why: str
) -> str:
    """Write the test of a survivor: the arguments of its `Recovery`, when it began, and what it was told."""
    told = "\n".join(f"        ({when!r}, {code(one)})," for one, when in story)
    return TEST_OF_SURVIVOR.format(
        rank=rank, living=living, loss=code(loss), seconds=seconds, began=began, story=told, why=why,
        imports="\n".join(imports(f"{told} {code(loss)}")),
    )  # fmt: skip


def test_of(seed: int, facts: Facts, story: Iterable[tuple[Event, float]], phase: object, why: str) -> str:
    """Write the test.

    Parameters
    ----------
    seed
        Of the job.
    facts
        What the coordinator knew of it.
    story
        All that it was told, and when.
    phase
        In which it was at last.
    why
        What must not be.
    """
    told = "\n".join(f"        ({when!r}, {code(event)})," for event, when in story)
    return TEST.format(
        seed=seed, settings=",\n            ".join(settings(facts)), story=told, phase=type(phase).__name__, why=why,
        imports="\n".join(imports(told)),
    )  # fmt: skip


def settings(facts: Facts) -> Iterator[str]:
    """Write the arguments of `simulation.job.facts`."""
    rounds = {key: value for key, value in msgspec.structs.asdict(facts.rounds).items() if value != getattr(Rounds(), key)}
    yield from (repr(f"rounds.{key}={json.dumps(value)}") for key, value in rounds.items())
    yield f"layout=topology.{facts.layout!r}"
    yield f"certain={facts.certain(messages.Members((), 0, 0))}"
    yield f"hosted={dict(facts.hosted)!r}"
    if facts.saved:
        yield f"saved=({facts.saved.round}, {dict(facts.saved.files)!r})"
    for key in ("nodes", "examples", "survives", "tied", "keeps_state", "states", "start_round", "counted", "voids"):
        yield f"{key}={code(getattr(facts, key))}"


def code(value: Any) -> str:
    """Write a value as the expression that makes it."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, msgspec.Struct):
        values = [getattr(value, name) for name in value.__struct_fields__]
        return f"{type(value).__name__}({', '.join(map(code, values))})"
    if dataclasses.is_dataclass(value):
        values = [getattr(value, one.name) for one in dataclasses.fields(value)]
        return f"{type(value).__name__}({', '.join(map(code, values))})"
    if isinstance(value, tuple):
        return f"({', '.join(map(code, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {code(one)}' for key, one in value.items())}}}"
    return repr(value)


def imports(told: str) -> Iterator[str]:
    """Write the imports of what a story names."""
    words = set(re.findall(r"\b[A-Z]\w+", told))
    for module in (events, messages, reports):
        if named := sorted(word for word in words if getattr(vars(module).get(word), "__module__", "") == module.__name__):
            yield f"from {module.__name__} import {', '.join(named)}"


def telling(event: Event, actions: Iterable[object], *, moved: bool) -> bool:
    """Whether a test must hear of an event: time that passes changes nothing by itself."""
    beats = all(isinstance(one, events.Send) and isinstance(one.message, messages.Alive) for one in actions)
    return moved or not beats or not isinstance(event, Tick)
