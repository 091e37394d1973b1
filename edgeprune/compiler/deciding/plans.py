"""Decide a plan: which strategy, how many tokens after each block, to meet a budget with the least drift."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeprune.compiler.deciding.aligning import SCAN_SPECS, best_alignment, check_alignment, opens
from edgeprune.compiler.deciding.pacing import gentle, paced
from edgeprune.compiler.deciding.pairing import STRATEGIES, best_pair, chooses, first_mode, worst_last
from edgeprune.core.costs import count_macs
from edgeprune.core.errors import PlanError
from edgeprune.core.plan import Plan, StrategySpec
from edgeprune.core.refusals import Refusal, RefusalCode
from edgeprune.core.results import Candidate, Drift, WidthReport
from edgeprune.core.search import best, search
from edgeprune.options import AUTO
from edgeprune_calibration.drift import measure_drift
from edgeprune_calibration.runner import Runner
from edgeprune_passes.registry import make_strategy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx_ir as ir

    from edgeprune.compiler.deciding.bench import Bench
    from edgeprune.compiler.deciding.budgets import Budget
    from edgeprune.core.progress import Progress
    from edgeprune_calibration.data import Dataset
    from edgeprune_calibration.reference import Recording
    from edgeprune_targets.profiles import Target

# In the order in which they are taken where nothing can be measured.
_WITHOUT = ("tome", "zero-tprune", "mean-attention", "uniform", "random")
_WITH_CLASS_TOKEN = ("importance-merge", "prune-merge", "cls-topk", *_WITHOUT)


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """Scores plans on data: lower is better.

    Attributes:
        recording: the reference's outputs.
        data: the samples that decisions are made on.
        batch: B.
        threads: of ONNX Runtime.
    """

    recording: Recording
    data: Dataset
    batch: int
    threads: int

    def drift(self, model: ir.Model) -> dict[str, Drift]:
        """Drift of a compiled model on the deciding samples."""
        return measure_drift(self.recording, Runner(model, threads=self.threads), self.data, batch=self.batch)


def score_of(drift: dict[str, Drift]) -> float:
    """One number to decide by: mean root KL where an output holds logits, else the relative error; the mean of outputs.

    Over schedules of one model it agrees with itself on two halves of 100 samples better than the mean KL (0.88 against
    0.67).
    """
    values = [d.root_kl if d.root_kl is not None else d.relative_error for d in drift.values()]
    return sum(values) / len(values)


@dataclass(frozen=True, slots=True)
class Decision:
    """A plan, and what else was tried."""

    plan: Plan
    candidates: tuple[Candidate, ...] = ()
    warnings: tuple[str, ...] = ()
    widths: tuple[WidthReport, ...] = ()


def decide(
    bench: Bench, budget: Budget, judge: Judge | None, progress: Progress, targets: Sequence[Target] = ()
) -> Decision:
    """Choose a plan for a budget, with as many cuts as pay on the targets.

    Raises:
        PlanError: if no strategy can meet the budget.
    """
    asked = bench.options.strategy
    check_alignment(bench)
    bench = gentle(bench, budget)
    if budget.share == 1.0:
        return Decision(bench.plan(StrategySpec(name="keep-all"), (bench.patches,) * len(bench.cost.blocks)))
    if asked != AUTO:
        spec = StrategySpec(name=asked, options=bench.options.strategy_options)
        _check_applies(bench, spec)
        return _one(paced(bench, spec, budget, targets), spec, budget, judge, progress)
    specs = _specs(bench)
    spec = next(one for one in specs if bench.refusal(make_strategy(one)) is None)
    bench = paced(bench, spec, budget, targets)
    if judge is None:
        warning = f"no data was given: {spec.name} with its default schedule was not measured on anything"
        return Decision(bench.plan(spec, bench.first_fit(spec, budget)), warnings=(warning,))
    return _best(bench, specs, budget, judge, progress)


def _specs(bench: Bench) -> tuple[StrategySpec, ...]:
    if all(block.scans for block in bench.loaded.found.blocks):
        return SCAN_SPECS
    names = STRATEGIES if bench.restores else _WITH_CLASS_TOKEN if bench.loaded.found.found.prefix else _WITHOUT
    return tuple(StrategySpec(name=name) for name in names)


def _check_applies(bench: Bench, spec: StrategySpec) -> None:
    refusal = bench.refusal(make_strategy(spec))
    if refusal is not None:
        msg = f"the strategy {spec.name} refuses this model: {refusal}"
        raise PlanError(msg, hint="`edgeprune inspect` lists the strategies that apply; --strategy auto picks one")


def _one(bench: Bench, spec: StrategySpec, budget: Budget, judge: Judge | None, progress: Progress) -> Decision:
    if judge is None:
        return Decision(bench.plan(spec, bench.first_fit(spec, budget)))
    tried: tuple[Candidate, ...] = ()
    if chooses(bench) or opens(bench):
        tried = (_candidate(first_mode(bench), spec, budget, judge),)
        bench, spec, others = _best_modes(bench, [(spec, tried[0])], budget, judge, progress)
        tried = (*tried, *others)
    return _settled(bench, spec, budget, judge, progress, tried)


def _settled(
    bench: Bench, spec: StrategySpec, budget: Budget, judge: Judge, progress: Progress, tried: tuple[Candidate, ...]
) -> Decision:
    """The default schedule of a strategy, or the best of a search."""
    if bench.options.search == 0:
        return Decision(bench.plan(spec, bench.first_fit(spec, budget)), tried)
    searched = _searched(bench, spec, budget, judge, progress)
    return Decision(searched.plan, (*tried, *searched.candidates))


def _scorer(budget: Budget, judge: Judge) -> Callable[[Bench, StrategySpec], Candidate]:
    return lambda bench, spec: _candidate(bench, spec, budget, judge)


def _best_modes(
    bench: Bench,
    tried: Sequence[tuple[StrategySpec, Candidate]],
    budget: Budget,
    judge: Judge,
    progress: Progress,
) -> tuple[Bench, StrategySpec, tuple[Candidate, ...]]:
    """The bench with the alignment and the restore that drift least, the strategy, and what else was tried."""
    score = _scorer(budget, judge)
    bench, tried, aligned = best_alignment(bench, tried, lambda changed, one: score(first_mode(changed), one), progress)
    bench, spec, restored = best_pair(bench, tried, score, progress)
    return bench, spec, (*aligned, *restored)


def _best(bench: Bench, specs: Sequence[StrategySpec], budget: Budget, judge: Judge, progress: Progress) -> Decision:
    candidates: list[Candidate] = []
    with progress.stage("try strategies", len(specs)) as stage:
        for spec in specs:
            candidates.append(_candidate(first_mode(bench), spec, budget, judge))
            stage.advance(1)
    scored = [candidate for candidate in candidates if candidate.score is not None]
    if not scored:
        reasons = "; ".join(f"{candidate.name}: {candidate.refused}" for candidate in candidates)
        msg = f"no strategy can meet the budget: {reasons}"
        raise PlanError(msg, hint="ask for a larger --keep or --macs")
    tried = list(zip(specs, candidates, strict=True))
    bench, spec, others = _best_modes(bench, tried, budget, judge, progress)
    return _settled(bench, spec, budget, judge, progress, (*candidates, *others))


def _candidate(bench: Bench, spec: StrategySpec, budget: Budget, judge: Judge) -> Candidate:
    refused = bench.refusal(make_strategy(spec))
    if refused is None:
        try:
            schedule = bench.first_fit(spec, budget)
        except PlanError as error:
            refused = Refusal(RefusalCode.NOT_APPLICABLE, error.message)
    if refused is not None:
        return Candidate(name=str(spec), options=spec.options, macs_ratio=1.0, score=None, drift={}, refused=refused)
    return _scored(bench, spec, schedule, judge)


def _scored(bench: Bench, spec: StrategySpec, schedule: Sequence[int], judge: Judge) -> Candidate:
    model = bench.build(bench.plan(spec, schedule))
    drift = judge.drift(model)
    ratio = count_macs(model) / bench.dense_macs
    return Candidate(
        name=_name(bench, spec), options=spec.options, macs_ratio=ratio, score=score_of(drift), drift=drift
    )


def _name(bench: Bench, spec: StrategySpec) -> str:
    """What a candidate is called: its strategy, and what else was tried of it."""
    modes = [bench.restore, bench.aligned if bench.scans else None]
    return ", ".join([str(spec), *[mode for mode in modes if mode is not None]])


def _searched(bench: Bench, spec: StrategySpec, budget: Budget, judge: Judge, progress: Progress) -> Decision:
    """The best of some schedules of one strategy, all on the budget."""
    tried: dict[tuple[int, ...], Candidate] = {}
    total = max(bench.options.search, 1)
    with progress.stage(f"search schedules of {spec.name}", total) as stage:

        def score(schedule: tuple[int, ...]) -> float:
            tried[schedule] = _scored(bench, spec, schedule, judge)
            stage.advance(1)
            return worst_last(tried[schedule])

        starts = list(bench.fits(spec, budget))
        project = bench.projection(spec, budget, starts[0])
        trials = search(score, starts, project, patches=bench.patches, evaluations=total, seed=bench.options.seed)
    schedule = best(trials).schedule
    found = replace(tried[schedule], name=f"{tried[schedule].name}, searched")
    return Decision(bench.plan(spec, schedule), (found,))
