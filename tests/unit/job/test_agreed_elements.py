"""The table of elements is shared at the start, or the start is refused."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from silofold.core import topology
from silofold.core.elements import Elements, lay_out
from silofold.core.errors import ConfigError
from silofold.job import trainee

if TYPE_CHECKING:
    from collections.abc import Iterator

TABLE = lay_out(trained=[("a.weight", (2, 3)), ("a.bias", (2,))], buffer=[("norm", (4,))])
TURNED = lay_out(trained=[("a.weight", (3, 2)), ("a.bias", (2,))], buffer=[("norm", (4,))])


class Rank:
    """A rank that hears what the others say in the one gathering that there is."""

    def __init__(self, rank: int, size: int, answers: list[bytes]) -> None:
        self.rank, self.size, self._answers, self.said = rank, size, answers, b""

    def gather(self, data: bytes) -> list[bytes]:
        self.said = data
        return self._answers

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        yield


def agree(tables: list[Elements | None]) -> list[Elements | str]:
    """Agree on every rank; the first one is the scheduler, the second the server."""
    layout, size = topology.Layout(len(tables), 1), len(tables)
    first: Any = [Rank(rank, size, []) for rank in range(size)]
    for rank, mine in zip(first, tables, strict=True):
        with contextlib.suppress(IndexError):
            trainee.agree_on_elements(rank, layout, mine)
    found: list[Elements | str] = []
    for number, mine in enumerate(tables):
        world: Any = Rank(number, size, [rank.said for rank in first])
        try:
            found.append(trainee.agree_on_elements(world, layout, mine))
        except ConfigError as fault:
            found.append(f"{fault.id}: {fault}")
    return found


def test_every_rank_knows_it() -> None:
    assert agree([None, None, TABLE, TABLE, TABLE]) == [TABLE] * 5


def test_one_worker() -> None:
    assert agree([None, None, TABLE]) == [TABLE] * 3


@pytest.mark.parametrize("other", [TURNED, lay_out(trained=[("b", (12,))]), lay_out(trained=[("a.weight", (2, 3))])])
def test_a_worker_with_another_model_is_named(other: Elements) -> None:
    found = agree([None, None, TABLE, TABLE, other])
    assert found[:4] == [TABLE] * 4
    assert str(found[4]).startswith("model-unequal: rank 4 built another model than rank 2: here | there: ")


def test_the_tensor_is_named() -> None:
    assert str(agree([None, None, TABLE, TURNED])[3]).endswith("a.weight: 0 trained 3x2 | 0 trained 2x3")
