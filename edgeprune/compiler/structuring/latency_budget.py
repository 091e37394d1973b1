"""A budget of modelled latency: what it allows on the targets, and how few tokens alone meet it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeprune.compiler.deciding.budgets import Budget
from edgeprune.compiler.deciding.plans import Decision, decide
from edgeprune.compiler.structuring.pricing import ModelledLatency
from edgeprune.core.errors import PlanError
from edgeprune.core.plan import StrategySpec
from edgeprune.options import AUTO
from edgeprune_passes.registry import make_strategy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeprune.compiler.deciding.bench import Bench
    from edgeprune.compiler.deciding.plans import Judge
    from edgeprune.core.progress import Progress
    from edgeprune_targets.target import Target

_STEPS, _ROUNDS = 7, 3
_LEAST, _CLOSE, _NEAR = 0.15, 0.005, 0.01
_FIRST = ("importance-merge", "cls-topk", "tome", "mean-attention", "uniform", "random")


def modelled_latency(bench: Bench, targets: Sequence[Target]) -> tuple[ModelledLatency, Budget]:
    """The price of graphs on the targets, and the budget as a share of the dense model's.

    Raises:
        PlanError: if there is no target, or the dense model is modelled to be as fast already.
    """
    options = bench.options
    if not targets:
        msg = "a latency is modelled for targets, and there is none"
        raise PlanError(msg, hint="name one: --target jetson-orin-nano-8gb; `edgeprune targets` lists them")
    price = ModelledLatency(
        bench.loaded.dense, targets, options.precision_for(bench.targets), same=options.latency is None
    )
    if options.latency is not None:
        return price, Budget("modelled-latency", options.latency)
    assert options.latency_ms is not None
    slowest = max(price.dense_ms)
    if options.latency_ms >= slowest:
        msg = f"the dense model is modelled at {slowest:.3g} ms, and {options.latency_ms:g} ms were asked for"
        raise PlanError(msg, hint="nothing need be cut; ask for less, or for a share: --latency 0.7")
    return price, Budget("modelled-latency", options.latency_ms / slowest)


def decide_latency(
    bench: Bench, price: ModelledLatency, goal: float, judge: Judge | None, progress: Progress
) -> Decision:
    """The decision of fewer tokens whose modelled latency is `goal` of the dense model's.

    Raises:
        PlanError: if fewer tokens do not bring it so low.
    """
    share = macs_share(bench, price, goal)
    decision = None
    for _ in range(_ROUNDS):
        if share is None or share <= _LEAST:
            break
        decision = decide(bench, Budget("macs", share), judge, progress, price.targets)
        reached = price.of(bench.build(decision.plan))
        if reached <= goal * (1 + _NEAR):
            return decision
        share -= reached - goal  # the strategy that was taken has more kernels than the one that was counted
    if decision is None:
        names = ", ".join(target.name for target in price.targets)
        msg = f"fewer tokens do not bring the modelled latency on {names} to {goal:.0%} of the dense model's"
        raise PlanError(msg, hint="ask for more, or name further axes: --axes tokens,mlp,sublayers")
    told = f"modelled latency is {reached:.1%} of the dense model's, {goal:.1%} was asked for"
    return replace(decision, warnings=(*decision.warnings, told))


def macs_share(bench: Bench, price: ModelledLatency, goal: float, spec: StrategySpec | None = None) -> float | None:
    """The largest share of MACs at which fewer tokens bring the modelled latency to `goal`; None where none does.

    Latency falls with the tokens in steps, of tiles and waves, and a cut is some kernels; so it is searched by halves.

    Args:
        bench: the model.
        price: of graphs.
        goal: share of the dense model's latency.
        spec: the strategy whose kernels are counted; the first that applies without.
    """
    spec = spec or first_strategy(bench)
    low, high, found = _LEAST, 1.0, None
    for _ in range(_STEPS):
        share = (low + high) / 2
        reached = _reached(bench, price, spec, share)
        if reached is not None and reached > goal:
            high = share
            continue
        low = share
        found = share if reached is not None else found
        if reached is not None and reached >= goal * (1 - _CLOSE):
            break
    return found


def _reached(bench: Bench, price: ModelledLatency, spec: StrategySpec, share: float) -> float | None:
    """Modelled latency at a share of MACs; None where no schedule has so few."""
    try:
        return price.of(bench.build(bench.plan(spec, bench.first_fit(spec, Budget("macs", share)))))
    except PlanError:
        return None


def first_strategy(bench: Bench) -> StrategySpec:
    """The one that was asked for, or the first that applies."""
    asked = bench.options.strategy
    if asked != AUTO:
        return StrategySpec(name=asked, options=bench.options.strategy_options)
    return StrategySpec(name=next(n for n in _FIRST if bench.refusal(make_strategy(StrategySpec(name=n))) is None))
