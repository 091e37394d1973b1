"""How many cuts pay on the targets: each is some small kernels, and small models are bound by launches."""

from __future__ import annotations

from dataclasses import replace
from math import inf, prod
from typing import TYPE_CHECKING

from edgeprune.core.errors import PlanError
from edgeprune_targets.latency import estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeprune._bench import Bench, Budget
    from edgeprune.core.plan import StrategySpec
    from edgeprune_targets.profiles import Target

# More cuts drift less, so that the most are taken of those within this share of the fastest.
_AS_FAST = 0.97


def paced(bench: Bench, spec: StrategySpec, budget: Budget, targets: Sequence[Target]) -> Bench:
    """The bench with as many cuts as pay on the targets, by modelled latency; unchanged where the user names a number.

    Args:
        bench: the model.
        spec: the strategy whose kernels are counted; those of the others are about as many.
        budget: that each number of cuts meets.
        targets: whose speed-ups are averaged, as factors.
    """
    if not targets or bench.options.cuts is not None:
        return bench
    precision = bench.options.precision_for(bench.targets)
    before = [estimate(bench.loaded.dense, target, precision).p50_ms for target in targets]
    gains = {}
    for cuts in range(1, bench.cuts + 1):
        after = _latencies(replace(bench, most_cuts=cuts), spec, budget, targets)
        gains[cuts] = prod(b / a for b, a in zip(before, after, strict=True))
    enough = _AS_FAST ** len(targets) * max(gains.values())
    return replace(bench, most_cuts=max(cuts for cuts, gain in gains.items() if gain >= enough))


def _latencies(bench: Bench, spec: StrategySpec, budget: Budget, targets: Sequence[Target]) -> list[float]:
    """Modelled latencies on the targets, in milliseconds; endless where the budget cannot be met."""
    try:
        plan = bench.plan(spec, bench.first_fit(spec, budget))
    except PlanError:
        return [inf] * len(targets)
    pruned = bench.build(plan)
    return [estimate(pruned, target, plan.precision).p50_ms for target in targets]
