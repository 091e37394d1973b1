"""Schedules follow their curve, keep what strategies must keep, and meet their budget."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.core.errors import PlanError
from edgeprune.core.schedule import Curve, fit_schedule, gathered, rates_of, rebalance, reduced


def one(patches: int) -> int:
    del patches
    return 1


def half(patches: int) -> int:
    return patches - patches // 2


def mean(schedule: Sequence[int]) -> float:
    return sum(schedule) / len(schedule)


@given(st.integers(1, 60), st.integers(1, 4096), st.floats(0, 1), st.sampled_from([one, half]))
def test_a_schedule_falls_and_never_asks_for_fewer_than_a_cut_can_keep(points, patches, strength, fewest):
    before = patches
    for kept in Curve().kept(points, patches, strength, fewest):
        assert max(fewest(before), 1) <= kept <= before
        before = kept


@given(st.integers(2, 40), st.floats(0, 1), st.floats(0.1, 3))
def test_stronger_keeps_no_more(points, centre, width):
    curve = Curve(centre=centre, width=width)
    schedules = [curve.kept(points, 196, strength / 10, one) for strength in range(11)]
    assert schedules[0] == (196,) * points
    assert all(a >= b for left, right in pairwise(schedules) for a, b in zip(left, right, strict=True))


def test_rates_are_a_bell_after_whole_blocks():
    rates = Curve(centre=0.5, width=0.2, start=0.2).rates(11)
    assert rates[:2] == (0, 0)
    assert max(rates) == rates[5]
    assert rates[4] == pytest.approx(rates[6])
    assert sum(rates) == pytest.approx(1)


def test_depth_is_relative():
    """Twice the blocks: the same share is left at the same depth."""
    curve = Curve(start=0)
    shallow, deep = curve.rates(11), curve.rates(21)
    assert sum(shallow[:6]) == pytest.approx(sum(deep[:11]), abs=0.05)  # a sum over coarser steps


def test_one_cut_point_takes_all():
    assert Curve().rates(1) == (1.0,)


def test_the_schedule_nearest_to_the_budget_is_taken():
    schedule = fit_schedule(lambda a: Curve().kept(11, 196, a, one), mean, 130)
    assert mean(schedule) == pytest.approx(130, abs=0.6)  # eleven counts, each rounded to a whole token


def test_a_budget_above_the_dense_cost_keeps_all():
    assert fit_schedule(lambda a: Curve().kept(4, 16, a, one), mean, 16) == (16, 16, 16, 16)


def test_a_budget_below_the_strongest_is_refused():
    with pytest.raises(PlanError, match="cannot be met by cutting tokens") as caught:
        fit_schedule(lambda a: Curve().kept(4, 16, a, half), mean, 2)
    assert caught.value.hint


def test_a_schedule_on_the_budget_stays():
    schedule = (196, 180, 150, 150, 90)
    assert rebalance(schedule, mean, mean(schedule), 196, one) == schedule


def test_a_proposal_is_scaled_onto_the_budget_with_its_rates():
    made = rebalance((196, 180, 150, 150, 90), mean, 120, 196, one)
    assert made is not None
    assert mean(made) == pytest.approx(120, abs=1)  # five counts, each rounded to a whole token
    assert (made[0], made[2]) == (196, made[3])
    assert rates_of(made, 196) == pytest.approx(rates_of((196, 180, 150, 150, 90), 196), abs=0.01)


def test_rates_of_nothing_removed_are_zero():
    assert rates_of((9, 9), 9) == (0.0, 0.0)
    assert reduced((0.0, 0.0), 9, 1.0, one) == (9, 9)


def test_what_cannot_be_rebalanced_is_none():
    assert rebalance((16, 16, 8), mean, 5, 16, one) is None


def test_few_cuts_stand_in_the_middles_of_equal_parts():
    assert gathered((0.1,) * 10, 2) == (0, 0, 0.5, 0, 0, 0, 0, 0.5, 0, 0)
    assert gathered((0.0, 0.6, 0.0, 0.4), 2) == (0.0, 0.6, 0.0, 0.4)  # no more than two: as they are
    assert gathered((0.9, 0.1), 1) == (1, 0)


@given(st.integers(1, 40), st.integers(1, 50))
def test_a_curve_uses_no_more_cuts_than_it_may(points, cuts):
    rates = Curve(cuts=cuts).rates(points)
    assert 1 <= sum(rate > 0 for rate in rates) <= cuts
    assert sum(rates) == pytest.approx(1)


def test_a_proposal_is_gathered_into_few_cuts():
    made = rebalance((190, 180, 170, 150, 120, 90, 80), mean, 130, 196, one, cuts=3)
    assert made is not None
    assert len(set(made) - {196}) == 3
    assert mean(made) == pytest.approx(130, abs=1)  # three counts, each rounded to a whole token
