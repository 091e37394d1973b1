"""Multiple-choice knapsack: one level for every module, the least loss in all, within a budget. Exact in its bins."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Sequence

_BINS = 4000
_MOST_BINS = 40_000


@dataclass(frozen=True, slots=True)
class Level:
    """One way to have a module.

    Attributes:
        keep: what stays of it.
        cost: in the unit of the budget.
        loss: what is lost.
    """

    keep: int
    cost: float
    loss: float


def allocate(modules: Sequence[Sequence[Level]], budget: float) -> list[Level]:
    """The level of each module with the least sum of losses at no more than `budget`.

    Costs are counted in bins, rounded up, so that the budget is never passed: in what all costs are multiples of, or
    where that is too little in 4000ths of the budget.

    Raises:
        PlanError: if even the cheapest levels cost more.
    """
    least = sum(min(level.cost for level in levels) for levels in modules)
    if least > budget:
        msg = f"the budget {budget:.4g} cannot be met: the cheapest levels cost {least:.4g}"
        raise PlanError(msg, hint="ask for a larger share, or name more --axes")
    unit = _unit(modules, budget)
    room = int(budget / unit + 1e-9)
    bins = [[int(np.ceil(level.cost / unit - 1e-9)) for level in levels] for levels in modules]
    room = max(room, sum(map(min, bins)))  # the cheapest fit, though they may not when each is rounded up
    best = np.full(room + 1, np.inf)
    best[0] = 0.0
    choices = []
    for levels, costs in zip(modules, bins, strict=True):
        new, choice = np.full(room + 1, np.inf), np.full(room + 1, -1)
        for i, (level, cost) in enumerate(zip(levels, costs, strict=True)):
            reached = best[: room + 1 - cost] + level.loss if cost <= room else np.empty(0)
            better = reached < new[cost:]
            new[cost:][better] = reached[better]
            choice[cost:][better] = i
        best = new
        choices.append(choice)
    return _traced(modules, bins, choices, int(np.argmin(best)))


def _unit(modules: Sequence[Sequence[Level]], budget: float) -> float:
    """What all costs are multiples of, if there is such a number and it leaves few bins; else a share of the budget."""
    costs = [float(level.cost) for levels in modules for level in levels]
    if all(cost.is_integer() for cost in costs):
        common = gcd(*map(int, costs))
        if common and budget / common <= _MOST_BINS:
            return float(common)
    return budget / _BINS


def _traced(
    modules: Sequence[Sequence[Level]], bins: list[list[int]], choices: list[np.ndarray], at: int
) -> list[Level]:
    """Walk back from the best total."""
    out: list[Level] = []
    for levels, costs, choice in zip(reversed(modules), reversed(bins), reversed(choices), strict=True):
        i = int(choice[at])
        out.append(levels[i])
        at -= costs[i]
    return out[::-1]
