"""Which pair of strategy and restore a model takes whose head or outputs need all tokens: measured, best first."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from edgeprune.core.errors import PlanError
from edgeprune_passes.registry import restores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeprune.compiler.deciding.bench import Bench
    from edgeprune.core.plan import Restore, StrategySpec
    from edgeprune.core.progress import Progress
    from edgeprune.core.results import Candidate

# In the order in which they are taken where nothing can be measured. Strategies that keep what the class token looks at
# leave holes in a map: on the saliency ViT they correlated 0.93 where ward-merge did 0.99.
STRATEGIES = ("ward-merge", "importance-merge", "tome", "grid-cluster", "k-centre")
# Pairs whose drift is within this factor of the least are as good; the cheapest of them is taken. On the saliency ViT
# at 0.45 of its patch-token work residual-delta drifted 2 % less than unmerge, for 3 % of the dense model's time.
_AS_GOOD = 1.05
# Every other mode is tried with so many of the best strategies.
_BEST = 2
# Never near the others: the head sees tokens of different depths.
_UNTRIED = frozenset({"last-seen"})


def first_mode(bench: Bench) -> Bench:
    """The bench with the mode that every strategy is tried with, which refuses none; or with what the user named."""
    return replace(bench, restore="residual-delta") if chooses(bench) else bench


def chooses(bench: Bench) -> bool:
    """Whether tokens come back, and the user left open how."""
    return bench.restores and bench.options.restore == "auto"


def best_pair(
    bench: Bench,
    tried: Sequence[tuple[StrategySpec, Candidate]],
    score: Callable[[Bench, StrategySpec], Candidate],
    progress: Progress,
) -> tuple[Bench, StrategySpec, tuple[Candidate, ...]]:
    """Try further modes with the best strategies, and take the cheapest pair of those that drift least.

    Args:
        bench: the model.
        tried: strategies with what they scored in their first mode.
        score: measures a strategy on a bench.
        progress: what is told of it.

    Returns:
        The bench with the mode, the strategy, and what else was tried.
    """
    ranked = sorted((pair for pair in tried if pair[1].score is not None), key=lambda pair: worst_last(pair[1]))
    if not chooses(bench) or not ranked:
        return bench, ranked[0][0] if ranked else tried[0][0], ()
    pairs = [(first_mode(bench), spec, candidate) for spec, candidate in ranked[:_BEST]]
    others = [(made, spec) for first, spec, _ in pairs for made in _further(bench, first)]
    with progress.stage("try restores", len(others)) as stage:
        for made, spec in others:
            found = measured(made, spec, score)
            stage.advance(1)
            if found is not None:
                pairs.append((made, spec, found))
    taken, spec = _cheapest(pairs)
    return taken, spec, tuple(candidate for _, _, candidate in pairs[len(ranked[:_BEST]) :])


def _cheapest(pairs: Sequence[tuple[Bench, StrategySpec, Candidate]]) -> tuple[Bench, StrategySpec]:
    """Of the pairs that drift as little as any, the one with the fewest MACs, by hundredths; of several the best."""
    enough = _AS_GOOD * min(worst_last(candidate) for _, _, candidate in pairs)
    good = [pair for pair in pairs if worst_last(pair[2]) <= enough]
    bench, spec, _ = min(good, key=lambda pair: (round(pair[2].macs_ratio, 2), worst_last(pair[2])))
    return bench, spec


def _further(bench: Bench, first: Bench) -> list[Bench]:
    modes = [mode for mode in restores() if mode != first.restore and mode not in _UNTRIED]
    return [replace(bench, restore=cast("Restore", mode)) for mode in modes]


def measured(bench: Bench, spec: StrategySpec, score: Callable[[Bench, StrategySpec], Candidate]) -> Candidate | None:
    """What a pair scores; None where the mode refuses what the strategy does."""
    try:
        found = score(bench, spec)
    except PlanError:
        return None
    return None if found.score is None else found


def worst_last(candidate: Candidate) -> float:
    """The score, least first; a candidate without one comes behind all others."""
    return float("inf") if candidate.score is None else candidate.score
