"""How many cuts pay: each is some small kernels, and small models are bound by launches."""

from __future__ import annotations

from dataclasses import replace
from math import inf, prod
from typing import TYPE_CHECKING

from edgeprune.compiler.deciding.bench import DEFAULT_CUTS, curves
from edgeprune.core.errors import PlanError
from edgeprune.core.schedule import fit_schedule
from edgeprune_targets.latency import estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeprune.compiler.deciding.bench import Bench
    from edgeprune.compiler.deciding.budgets import Budget
    from edgeprune.core.plan import StrategySpec
    from edgeprune_targets.profiles import Target

# Where all tokens come back, no cut takes more than this share of the patch tokens. On the saliency ViT that makes six
# cuts at 0.6 of its patch-token work and eleven at 0.45. There the mean absolute difference on 50 photographs was 0.037
# in eleven cuts and 0.040 in eight to ten; at 0.6 five cuts do as well as eleven (0.022 and 0.021). Each cut takes
# 0.75 % of the dense model's time on a processor.
_GENTLEST = 0.182
_MOST_CUTS = 12

# More cuts drift less, so that the most are taken of those within this share of the fastest.
_AS_FAST = 0.97


def gentle(bench: Bench, budget: Budget) -> Bench:
    """The bench with as few cuts as let none take much of the tokens, where all of them come back.

    Where no number of cuts is as gentle, the fewest that are as gentle as can be.
    """
    if not bench.restores or budget.share == 1.0:
        return bench
    shares = {cuts: _harshest(bench, cuts, budget) for cuts in range(DEFAULT_CUTS, _MOST_CUTS + 1)}
    enough = max(_GENTLEST, min(shares.values()))
    return replace(bench, most_cuts=next(cuts for cuts, share in shares.items() if share <= enough))


def _harshest(bench: Bench, cuts: int, budget: Budget) -> float:
    """The largest share that a cut of the first schedule takes, whatever its strategy costs; all where none fits."""
    patches, points, prefix = bench.patches, len(bench.cost.blocks), bench.loaded.found.found.prefix

    def share(schedule: Sequence[int]) -> float:
        if budget.kind == "keep":
            return sum(schedule) / (patches * points)
        return bench.cost.macs([patches + prefix, *[kept + prefix for kept in schedule]]) / bench.dense_macs

    family = curves(cuts, restores=True)[0]
    try:
        schedule = fit_schedule(
            lambda strength: family.kept(points, patches, strength, lambda _: 1), share, budget.share
        )
    except PlanError:
        return 1.0
    return max(1 - after / before for before, after in zip((patches, *schedule), schedule, strict=False))


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
