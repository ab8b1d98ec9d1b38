"""The front of loss against readability: nobody on it is beaten, and a few stand for all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from optimize.search.evolution import Member, front, spread, survivors

WEIGHT = 0.5
NUMBERS = st.integers(0, 12).map(float)


POINTS = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=30)


def members(points: list[tuple[float, float]]) -> list[Member]:
    return [Member((index,), loss + WEIGHT * nll, loss, nll) for index, (loss, nll) in enumerate(points)]


def beats(one: Member, other: Member) -> bool:
    nowhere_worse = one.loss <= other.loss and one.nll <= other.nll
    return nowhere_worse and (one.loss < other.loss or one.nll < other.nll)


@given(POINTS)
def test_nobody_on_the_front_is_beaten_and_everybody_else_is_beaten_or_equalled(
    points: list[tuple[float, float]],
) -> None:
    pool = members(points)
    kept = front(pool)
    assert not any(beats(one, other) for one in pool for other in kept)
    for member in pool:
        equals = (other for other in kept if (other.loss, other.nll) == (member.loss, member.nll))
        assert member in kept or any(equals) or any(beats(other, member) for other in kept)
    assert len({(each.loss, each.nll) for each in kept}) == len(kept)


@given(POINTS)
def test_the_front_runs_from_the_least_loss_to_the_least_nll(points: list[tuple[float, float]]) -> None:
    pool = members(points)
    kept = front(pool)
    assert [each.loss for each in kept] == sorted(each.loss for each in kept)
    assert [each.nll for each in kept] == sorted((each.nll for each in kept), reverse=True)


@given(POINTS, st.integers(3, 8))
def test_a_spread_keeps_the_cheapest_and_the_ends(points: list[tuple[float, float]], size: int) -> None:
    pool = members(points)
    whole = front(pool)
    kept = spread(whole, size)
    assert len(kept) == min(size, len(whole))
    assert [each for each in whole if each in kept] == kept
    if whole:
        assert {whole[0], whole[-1], min(whole, key=lambda each: each.cost)} <= set(kept)


@given(POINTS)
def test_the_cheapest_of_all_is_on_the_front_however_small(points: list[tuple[float, float]]) -> None:
    pool = members(points)
    if pool:
        (only,) = spread(front(pool), 1)
        assert only.cost == min(each.cost for each in pool)


@given(POINTS, st.integers(1, 12))
def test_the_front_survives_first_and_as_many_as_there_is_room_for(
    points: list[tuple[float, float]], size: int
) -> None:
    pool = members(points)
    kept = survivors(pool, size)
    assert len(kept) == len(set(kept)) == min(size, len(pool))
    if len(front(pool)) <= size:
        assert set(front(pool)) <= set(kept)
    else:
        assert set(kept) <= set(front(pool))


def test_those_go_first_that_have_others_near() -> None:
    losses = [0.0, 1.0, 1.1, 1.2, 5.0, 9.0, 10.0]
    line = [Member((index,), loss, loss, -loss) for index, loss in enumerate(losses)]
    assert [each.loss for each in spread(line, 5)] == [0.0, 1.2, 5.0, 9.0, 10.0]
