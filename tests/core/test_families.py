"""Few cuts, spread over the depth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.core.families import Spaced, families, limit_cuts


def test_points_spread_between_two_depths():
    assert Spaced(4, 0.2, 0.8).points(11) == (2, 4, 6, 8)
    assert Spaced(1, 0.0, 1.0).points(11) == (5,)


def test_shallow_models_get_each_point_once():
    assert Spaced(4).points(3) == (0, 1, 2)


def test_only_the_chosen_points_cut():
    kept = Spaced(4, 0.2, 0.8).kept(11, 196, 0.3, lambda _: 1)
    steps = [a - b for a, b in zip((196, *kept), kept, strict=False)]
    assert [i for i, step in enumerate(steps) if step] == [2, 4, 6, 8]


def test_fewest_is_honoured():
    kept = Spaced(2).kept(11, 196, 1.0, lambda patches: patches - patches // 2)
    assert kept[-1] == 49


def test_families_begin_with_the_default_and_end_with_fewer_cuts():
    assert families(4)[0] == Spaced(4)
    assert families(4)[-1] == Spaced(3)
    assert all(family.cuts == 1 for family in families(1))


def test_the_smallest_steps_go_and_their_tokens_go_with_the_next():
    assert limit_cuts((190, 150, 149, 100), 196, 2) == (196, 150, 150, 100)


def test_a_last_small_step_is_given_back():
    assert limit_cuts((150, 100, 99), 196, 2) == (150, 100, 100)


@given(st.lists(st.integers(1, 196), min_size=1, max_size=12), st.integers(1, 12))
def test_limited_schedules_never_grow_and_never_cut_more_often(kept, cuts):
    schedule = sorted(kept, reverse=True)
    limited = limit_cuts(schedule, 196, cuts)
    steps = [a - b for a, b in zip((196, *limited), limited, strict=False)]
    assert all(step >= 0 for step in steps)
    assert sum(step > 0 for step in steps) <= cuts
    assert all(a >= b for a, b in zip(limited, schedule, strict=True))


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_strength_zero_keeps_all_and_one_keeps_one(strength):
    kept = Spaced(4).kept(11, 196, strength, lambda _: 1)
    assert kept[-1] == (196 if strength == 0 else 1)
