"""The knapsack: exact against every combination, never past its budget."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.core.errors import PlanError
from edgeprune.core.knapsack import Level, allocate

MODULES = st.lists(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 1000)), min_size=1, max_size=4), min_size=1, max_size=4
)


def made(modules, scale: float = 1.0) -> list[list[Level]]:
    return [[Level(cost, cost * scale, loss / 7) for cost, loss in levels] for levels in modules]


@given(MODULES, st.floats(0, 1))
def test_it_is_as_good_as_every_combination(modules, share):
    levels = made(modules)
    low = sum(min(level.cost for level in each) for each in levels)
    high = sum(max(level.cost for level in each) for each in levels)
    budget = low + share * (high - low)
    found = allocate(levels, budget)
    assert sum(level.cost for level in found) <= budget + 1e-9
    fits = [c for c in itertools.product(*levels) if sum(level.cost for level in c) <= budget + 1e-9]
    best = min(sum(level.loss for level in c) for c in fits)
    assert sum(level.loss for level in found) == pytest.approx(best)


@given(MODULES)
def test_costs_that_are_no_whole_numbers_never_pass_the_budget(modules):
    levels = made(modules, scale=1234.567)
    budget = 1.1 * sum(min(level.cost for level in each) for each in levels)
    assert sum(level.cost for level in allocate(levels, budget)) <= budget


def test_too_small_a_budget_says_so():
    with pytest.raises(PlanError, match="the budget 3 cannot be met: the cheapest levels cost 4"):
        allocate([[Level(4, 4.0, 0.0)]], 3.0)
