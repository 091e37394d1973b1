"""Schedules: how many patch tokens are left after each block, and how to meet a budget with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.core.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_STEPS = 40


@dataclass(frozen=True, slots=True)
class Curve:
    """A family of schedules with one strength: share(i) = 1 - strength * ((i - start + 1) / (n - start)) ** power.

    Attributes:
        start: the first of the `n` cut points that cuts; those before it stay whole.
        power: above one the cuts come late, below one early.
    """

    start: int = 1
    power: float = 1.3

    def kept(self, points: int, patches: int, strength: float, fewest: Callable[[int], int]) -> tuple[int, ...]:
        """Patch tokens after each of `points` cut points, never fewer than `fewest` of those before allows."""
        out, before = [], patches
        span = max(points - self.start, 1)
        for i in range(points):
            share = 1.0 if i < self.start else 1.0 - strength * ((i - self.start + 1) / span) ** self.power
            before = min(before, max(round(share * patches), fewest(before), 1))
            out.append(before)
        return tuple(out)


def fit_schedule(
    make: Callable[[float], Sequence[int]], cost: Callable[[Sequence[int]], float], budget: float
) -> tuple[int, ...]:
    """The schedule whose cost comes nearest to a budget from the strength of its curve.

    Args:
        make: schedule of a strength in [0, 1]; stronger schedules cost less.
        cost: in the unit of `budget`.
        budget: what to meet.

    Raises:
        PlanError: if even the strongest schedule costs more than the budget.
    """
    if cost(make(0.0)) <= budget:
        return tuple(make(0.0))
    if cost(make(1.0)) > budget:
        msg = f"the budget {budget:.3g} cannot be met by cutting tokens: the least is {cost(make(1.0)):.3g}"
        raise PlanError(msg, hint="ask for a larger --keep or --macs, or another --strategy")
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(make(middle)) <= budget else (middle, high)
    near = (tuple(make(low)), tuple(make(high)))
    return min(near, key=lambda schedule: abs(cost(schedule) - budget))


def rebalance(
    schedule: Sequence[int],
    cost: Callable[[Sequence[int]], float],
    budget: float,
    patches: int,
    fewest: Callable[[int], int],
) -> tuple[int, ...] | None:
    """Scale what a proposed schedule removes so that it costs the budget again; None if it cannot."""
    removed = [a - b for a, b in zip((patches, *schedule), schedule, strict=False)]

    def make(strength: float) -> tuple[int, ...]:
        out, before, exact = [], patches, float(patches)
        for share in removed:
            exact -= share * strength * 2
            before = min(before, max(round(exact), fewest(before), 1))
            out.append(before)
        return tuple(out)

    try:
        return fit_schedule(make, cost, budget)
    except PlanError:
        return None
