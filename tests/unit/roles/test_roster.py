from __future__ import annotations

from silofold.roles.roster import Roster

EXAMPLES = (50, 10, 40, 30, 20)


def roster(standbys: tuple[int, ...] = ()) -> Roster:
    return Roster({4: (0,), 5: (1, 2), 6: (3, 4)}, standbys, EXAMPLES)


def hosted(found: Roster) -> dict[int, tuple[int, ...]]:
    return {rank: found.silos_of(rank) for rank in sorted(found.hosts)}


def test_a_dead_workers_silos_go_to_those_with_the_fewest_examples() -> None:
    found = roster()
    found.bury(5)
    assert hosted(found) == {4: (0,), 6: (3, 4)}
    found.rehost({4, 6}, tied=False)
    assert hosted(found) == {4: (0, 1, 2), 6: (3, 4)} or hosted(found) == {4: (0, 2), 6: (1, 3, 4)}
    assert sum(map(len, hosted(found).values())) == 5


def test_a_standby_comes_first_if_it_is_ready() -> None:
    found = roster(standbys=(2, 3))
    found.bury(6)
    found.rehost({3, 4, 5}, tied=False)
    assert hosted(found) == {3: (3, 4), 4: (0,), 5: (1, 2)}
    assert found.standbys == [2]
    found.bury(2)
    assert found.standbys == []


def test_tied_silos_stay_with_their_host() -> None:
    found = roster(standbys=(3,))
    found.bury(6)
    found.rehost({3, 4, 5}, tied=True)
    assert hosted(found) == {4: (0,), 5: (1, 2)}


def test_nobody_is_left() -> None:
    found = Roster({4: (0, 1)}, (), (1, 2))
    found.bury(4)
    found.rehost(set(), tied=False)
    assert found.hosts == set()


def test_scale_out_and_in() -> None:
    found = roster(standbys=(2, 3))
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
    found = roster(standbys=(2,))
    assert found.scale(1, {4, 5, 6}) == 0
    found.bury(4)
    found.rehost({5, 6}, tied=False)
    assert found.standbys == [2]
