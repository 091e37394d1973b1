"""How many cuts pay on the targets: each is some small kernels, and small models are bound by launches."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from edgeprune.core.errors import PlanError
from edgeprune_targets.latency import model_latency_ms

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
    gains = {cuts: _gain(replace(bench, most_cuts=cuts), spec, budget, targets) for cuts in range(1, bench.cuts + 1)}
    enough = _AS_FAST * max(gains.values())
    return replace(bench, most_cuts=max(cuts for cuts, gain in gains.items() if gain >= enough))


def _gain(bench: Bench, spec: StrategySpec, budget: Budget, targets: Sequence[Target]) -> float:
    """Geometric mean over the targets of dense over pruned latency; 0 where the budget cannot be met."""
    try:
        plan = bench.plan(spec, bench.first_fit(spec, budget))
    except PlanError:
        return 0.0
    pruned = bench.build(plan)
    ratios = [
        model_latency_ms(bench.loaded.dense, target, plan.precision) / model_latency_ms(pruned, target, plan.precision)
        for target in targets
    ]
    return float(prod(ratios) ** (1 / len(ratios)))
