from __future__ import annotations

from silofold.coordination.hosting import Hosting

EXAMPLES = (50, 10, 40, 30, 20)


def hosting(standbys: tuple[int, ...] = (), *, tied: bool = False) -> Hosting:
    return Hosting({4: (0,), 5: (1, 2), 6: (3, 4)}, standbys, EXAMPLES, tied=tied)


def hosted(found: Hosting) -> dict[int, tuple[int, ...]]:
    return {rank: found.silos_of(rank) for rank in sorted(found.hosts)}


def test_a_dead_workers_silos_go_to_those_with_the_fewest_examples() -> None:
    found = hosting()
    found.remove_dead(5)
    assert hosted(found) == {4: (0,), 6: (3, 4)}
    assert len(found.rehost({4, 6})) == 2
    assert hosted(found) == {4: (0, 2), 6: (1, 3, 4)} or hosted(found) == {4: (0, 1, 2), 6: (3, 4)}
    assert found.rehost({4, 6}) == []


def test_a_standby_comes_first_if_it_is_ready() -> None:
    found = hosting(standbys=(2, 3))
    found.remove_dead(6)
    found.rehost({3, 4, 5})
    assert hosted(found) == {3: (3, 4), 4: (0,), 5: (1, 2)}
    assert found.standbys == [2]
    found.remove_dead(2)
    assert found.standbys == []


def test_only_ranks_that_are_there_take_over() -> None:
    found = hosting()
    found.remove_dead(5)
    found.rehost({6})
    assert hosted(found) == {4: (0,), 6: (1, 2, 3, 4)}


def test_who_is_away_gets_its_silos_back() -> None:
    found = hosting()
    found.lend(5)
    found.lend(5)
    found.rehost({4, 6})
    assert found.silos_of(5) == ()
    assert sorted(silo for silos in hosted(found).values() for silo in silos) == [0, 1, 2, 3, 4]
    found.give_back(5)
    assert hosted(found) == {4: (0,), 5: (1, 2), 6: (3, 4)}
    found.give_back(5)
    assert hosted(found) == {4: (0,), 5: (1, 2), 6: (3, 4)}


def test_who_dies_while_away_gets_nothing_back() -> None:
    found = hosting()
    found.lend(5)
    found.rehost({4})
    found.remove_dead(5)
    found.rehost({4})
    assert hosted(found) == {4: (0, 1, 2), 6: (3, 4)}
    found.give_back(5)
    assert hosted(found) == {4: (0, 1, 2), 6: (3, 4)}


def test_who_looks_after_others_silos_and_dies() -> None:
    found = hosting()
    found.lend(5)
    found.rehost({4})
    found.remove_dead(4)
    found.give_back(5)
    found.rehost({5, 6})
    assert sorted(silo for silos in hosted(found).values() for silo in silos) == [0, 1, 2, 3, 4]
    assert set(found.silos_of(5)) >= {1, 2}


def test_tied_silos_stay_with_their_host() -> None:
    found = hosting(standbys=(3,), tied=True)
    found.remove_dead(6)
    found.lend(5)
    found.rehost({3, 4, 5})
    assert hosted(found) == {4: (0,), 5: (1, 2)}


def test_nobody_is_left() -> None:
    found = Hosting({4: (0, 1)}, (), (1, 2), tied=False)
    found.remove_dead(4)
    found.rehost(set())
    assert found.hosts == set()


def test_scale_out_and_in() -> None:
    found = hosting(standbys=(2, 3))
    assert found.scale(1, {2, 3, 4, 5, 6}) == 1
    assert sorted(found.hosts) == [2, 4, 5, 6]
    assert sorted(silo for silos in hosted(found).values() for silo in silos) == [0, 1, 2, 3, 4]
    assert found.standbys == [3]
    assert found.scale(5, {3}) == 1  # as many as there are
    assert found.scale(1, {3}) == 0  # five silos: no use for a sixth
    assert found.scale(-2, set()) == -2
    assert len(found.hosts) == 3
    assert found.scale(-9, set()) == -2  # one worker stays
    assert hosted(found) == {2: (0, 1, 2, 3, 4)}


def test_a_standby_that_is_not_ready_is_not_counted_on() -> None:
    found = hosting(standbys=(2,))
    assert found.scale(1, {4, 5, 6}) == 0
    found.remove_dead(4)
    found.rehost({5, 6})
    assert found.standbys == [2]
