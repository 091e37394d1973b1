"""Which strategy and which alignment a model of scans takes: measured, best first."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from edgeprune.compiler.deciding.pairing import measured, worst_last
from edgeprune.core.plan import Alignment, StrategySpec
from edgeprune.options import AUTO
from edgeprune_passes._alignment import require_scans
from edgeprune_passes._inside import require_inside
from edgeprune_passes.registry import make_strategy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeprune.compiler.deciding.bench import Bench
    from edgeprune.core.progress import Progress
    from edgeprune.core.results import Candidate

# In the order in which they are taken where nothing can be measured.
SCAN_SPECS = (
    StrategySpec(name="ssm-runs"),
    StrategySpec(name="ssm-delta"),
    StrategySpec(name="ssm-delta", options={"merge": False}),
    StrategySpec(name="ssm-output"),
)
# Every other mode is tried with so many of the best strategies.
_BEST = 2


def opens(bench: Bench) -> bool:
    """Whether there are scans to align, and the user left open how."""
    return bench.scans and bench.options.alignment == "auto"


def check_alignment(bench: Bench) -> None:
    """Check that an alignment that was asked for has something to align, and fits the strategy that was asked for.

    Raises:
        PlanError: if the model has no selective scan, or the strategy cannot choose in front of one.
    """
    asked = bench.options.alignment
    if asked == "auto":
        return
    require_scans(asked, there=bench.scans)
    if asked == "exact" and bench.options.strategy != AUTO:
        spec = StrategySpec(name=bench.options.strategy, options=bench.options.strategy_options)
        for block in bench.loaded.found.blocks:
            require_inside(make_strategy(spec), block)


def best_alignment(
    bench: Bench,
    tried: Sequence[tuple[StrategySpec, Candidate]],
    score: Callable[[Bench, StrategySpec], Candidate],
    progress: Progress,
) -> tuple[Bench, Sequence[tuple[StrategySpec, Candidate]], tuple[Candidate, ...]]:
    """Try the other alignments with the best strategies.

    Args:
        bench: the model.
        tried: strategies with what they scored in the alignment that is taken without data.
        score: measures a strategy on a bench.
        progress: what is told of it.

    Returns:
        The bench with the alignment of the best pair, the strategies that were tried with that, and what else was
        tried.
    """
    ranked = sorted((pair for pair in tried if pair[1].score is not None), key=_score)
    if not opens(bench) or not ranked:
        return bench, tried, ()
    others = [(made, spec) for made in _further(bench) for spec in _taken(made, ranked)[:_BEST]]
    scored: list[tuple[Bench, StrategySpec, Candidate]] = []
    with progress.stage("try alignments", len(others)) as stage:
        for changed, spec in others:
            found = measured(changed, spec, score)
            stage.advance(1)
            if found is not None:
                scored.append((changed, spec, found))
    best = min(scored, key=lambda one: _score(one[1:]), default=None)
    told = tuple(found for _, _, found in scored)
    if best is None or _score(best[1:]) >= _score(ranked[0]):
        return bench, tried, told
    return best[0], [(spec, found) for changed, spec, found in scored if changed.alignment == best[0].alignment], told


def _further(bench: Bench) -> list[Bench]:
    return [replace(bench, alignment=mode) for mode in get_args(Alignment) if mode != bench.aligned]


def _taken(bench: Bench, ranked: Sequence[tuple[StrategySpec, Candidate]]) -> list[StrategySpec]:
    """The strategies that an alignment does not refuse, best first."""
    return [spec for spec, _ in ranked if bench.refusal(make_strategy(spec)) is None]


def _score(pair: tuple[StrategySpec, Candidate]) -> float:
    return worst_last(pair[1])
