"""Decide a plan: which strategy, how many tokens after each block, to meet a budget with the least drift."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from onnx_ir.passes import common

from edgeprune.core.costs import TokenCost, count_macs, token_cost
from edgeprune.core.errors import PlanError
from edgeprune.core.plan import Plan, StrategySpec, TokenCut
from edgeprune.core.families import DEFAULT_CUTS, Spaced, families, limit_cuts
from edgeprune.core.recognition import recognize
from edgeprune.core.refusals import Refusal, RefusalCode
from edgeprune.core.results import Candidate, Drift
from edgeprune.core.schedule import fit_schedule, rebalance
from edgeprune.core.search import best, search
from edgeprune.options import AUTO
from edgeprune_calibration.drift import measure_drift
from edgeprune_calibration.runner import Runner
from edgeprune_passes.apply import apply_plan
from edgeprune_passes.eliminate_tail import EliminateTail
from edgeprune_passes.registry import make_strategy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx_ir as ir

    from edgeprune._loading import Loaded
    from edgeprune.core.progress import Progress
    from edgeprune.options import Options
    from edgeprune_calibration.data import Dataset
    from edgeprune_calibration.reference import Recording
    from edgeprune_passes.selection import Strategy

# Within this share of the budget a fitted schedule is taken; the promise to the user is 2 %.
_CLOSE = 0.004
_ROUNDS = 4
_WITH_CLASS_TOKEN = ("importance-merge", "prune-merge", "tome", "cls-topk", "zero-tprune", "mean-attention", "uniform", "random")
_WITHOUT = ("tome", "zero-tprune", "mean-attention", "uniform", "random")


@dataclass(frozen=True, slots=True)
class Budget:
    """What was asked for: a share of patch-token work, or of the whole model's MACs."""

    kind: Literal["keep", "macs"]
    share: float


def make_budget(keep: float | None, macs: float | None) -> Budget:
    """The budget of two options of which one is given.

    Raises:
        PlanError: if both or none is given, or the share is outside (0, 1].
    """
    given = [Budget("keep", keep)] if keep is not None else []
    given += [Budget("macs", macs)] if macs is not None else []
    if len(given) != 1:
        msg = "give exactly one of `keep`, `macs` and `plan`"
        raise PlanError(msg, hint="for example --keep 0.6: keep 60 % of the patch-token work")
    budget = given[0]
    if not 0 < budget.share <= 1:
        msg = f"`{budget.kind}` is {budget.share:g}, expected a share above 0 and at most 1"
        raise PlanError(msg, hint=f"for example --{budget.kind} 0.6")
    return budget


@dataclass(frozen=True, eq=False)
class Bench:
    """A model on the bench: plans can be made for it, built, priced and scored.

    Attributes:
        loaded: the model.
        options: of the user.
        targets: names of target profiles, for the plan.
    """

    loaded: Loaded
    options: Options
    targets: tuple[str, ...] = ()

    @cached_property
    def dense_macs(self) -> int:
        """MACs of the dense model."""
        return count_macs(self.loaded.dense)

    @cached_property
    def patches(self) -> int:
        """N."""
        return self.loaded.found.found.tokens - self.loaded.found.found.prefix

    @cached_property
    def cost(self) -> TokenCost:
        """MACs by tokens, with the tail eliminated if the user lets it be."""
        model = self.loaded.dense.clone()
        if self.options.tail_elimination:
            EliminateTail().apply(model)
            common.RemoveUnusedNodesPass()(model)
        return token_cost(model, recognize(model))

    def refusal(self, strategy: Strategy) -> Refusal | None:
        """Why a strategy does not work on this model, or None."""
        prefix = self.loaded.found.found.prefix
        reasons = (strategy.refuses(block, prefix) for block in self.loaded.found.blocks)
        return next((reason for reason in reasons if reason is not None), None)

    def plan(self, spec: StrategySpec, schedule: Sequence[int]) -> Plan:
        """The plan of one strategy and a schedule over the cut points."""
        cuts, before = [], self.patches
        for block, kept in zip(self.cost.blocks, schedule, strict=True):
            if kept < before:
                cuts.append(TokenCut(block=block, keep=kept, strategy=spec))
            before = kept
        found = self.loaded.found.found
        return Plan(
            model_sha256=self.loaded.source.sha256,
            inputs=self.loaded.inputs,
            patch_tokens=self.patches,
            prefix_tokens=found.prefix,
            blocks=len(self.loaded.found.blocks),
            cuts=tuple(cuts),
            eliminate_tail=self.options.tail_elimination,
            restore=self.options.restore,
            precision=self.options.precision_for(self.targets),
            passes=self.options.passes,
            targets=self.targets,
            seed=self.options.seed,
        )

    def build(self, plan: Plan) -> ir.Model:
        """The dense model with a plan applied."""
        model = self.loaded.dense.clone()
        apply_plan(model, plan)
        return model

    def keep_of(self, plan: Plan) -> float:
        """Share of patch-token work kept, averaged over the blocks."""
        return sum(plan.schedule()) / (self.patches * max(plan.blocks, 1))

    def fits(self, spec: StrategySpec, budget: Budget) -> list[tuple[int, ...]]:
        """Schedules of several families that meet a budget, the default first.

        Raises:
            PlanError: if the strategy cannot meet it with any.
        """
        out: list[tuple[int, ...]] = []
        failure: PlanError | None = None
        for family in families(self.cuts):
            try:
                out.append(self._fit(spec, family, budget))
            except PlanError as error:
                failure = failure or error
        if not out and failure is not None:
            raise failure
        return out

    def first_fit(self, spec: StrategySpec, budget: Budget) -> tuple[int, ...]:
        """The schedule of the first family that meets a budget.

        Raises:
            PlanError: if the strategy cannot meet it with any.
        """
        failure: PlanError | None = None
        for family in families(self.cuts):
            try:
                return self._fit(spec, family, budget)
            except PlanError as error:
                failure = failure or error
        assert failure is not None
        raise failure

    @property
    def cuts(self) -> int:
        """The most cuts that a plan may have."""
        return self.options.cuts or DEFAULT_CUTS

    def _fewest(self, spec: StrategySpec) -> Callable[[int], int]:
        strategy, prefix = make_strategy(spec), self.loaded.found.found.prefix
        return lambda patches: strategy.fewest(patches, prefix)

    def _fit(self, spec: StrategySpec, family: Spaced, budget: Budget) -> tuple[int, ...]:
        fewest = self._fewest(spec)

        def make(strength: float) -> tuple[int, ...]:
            return family.kept(len(self.cost.blocks), self.patches, strength, fewest)

        return self.settle(spec, make, budget)

    def projection(
        self, spec: StrategySpec, budget: Budget, near: Sequence[int]
    ) -> Callable[[Sequence[int]], tuple[int, ...] | None]:
        """What brings a proposed schedule back onto the budget; the strategy's own cost is taken from one nearby."""
        fewest = self._fewest(spec)
        if budget.kind == "keep":
            price, goal = self._kept_share, budget.share
        else:
            own = count_macs(self.build(self.plan(spec, near))) - self._macs(near)
            price, goal = self._macs, budget.share * self.dense_macs - own

        def project(proposed: Sequence[int]) -> tuple[int, ...] | None:
            few = limit_cuts(proposed, self.patches, self.cuts)
            made = rebalance(few, price, goal, self.patches, fewest)
            # What cannot be scaled onto the budget is no proposal.
            return made if made is not None and abs(price(made) - goal) <= _CLOSE * goal else None

        return project

    def _kept_share(self, schedule: Sequence[int]) -> float:
        return self.keep_of(self.plan(StrategySpec(name="keep-all"), schedule))

    def settle(self, spec: StrategySpec, make: Callable[[float], Sequence[int]], budget: Budget) -> tuple[int, ...]:
        """Fit a family of schedules to a budget, counting what the strategy itself costs.

        Raises:
            PlanError: if the budget cannot be met.
        """
        if budget.kind == "keep":
            return fit_schedule(make, lambda s: self.keep_of(self.plan(spec, s)), budget.share)
        overhead = 0.0
        schedule: tuple[int, ...] = ()
        for _ in range(_ROUNDS):
            schedule = fit_schedule(make, self._macs, budget.share * self.dense_macs - overhead)
            real = count_macs(self.build(self.plan(spec, schedule)))
            if abs(real / self.dense_macs - budget.share) <= _CLOSE * budget.share:
                break
            overhead = real - self._macs(schedule)
        return schedule

    def _macs(self, schedule: Sequence[int]) -> float:
        prefix = self.loaded.found.found.prefix
        return self.cost.macs([self.patches + prefix, *[kept + prefix for kept in schedule]])


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
    """One number: KL where an output holds logits, else the relative error; the mean over outputs."""
    values = [d.kl if d.kl is not None else d.relative_error for d in drift.values()]
    return sum(values) / len(values)


@dataclass(frozen=True, slots=True)
class Decision:
    """A plan, and what else was tried."""

    plan: Plan
    candidates: tuple[Candidate, ...] = ()
    warnings: tuple[str, ...] = ()


def decide(bench: Bench, budget: Budget, judge: Judge | None, progress: Progress) -> Decision:
    """Choose a plan for a budget.

    Raises:
        PlanError: if no strategy can meet the budget.
    """
    asked = bench.options.strategy
    if budget.share == 1.0:
        return Decision(bench.plan(StrategySpec(name="keep-all"), (bench.patches,) * len(bench.cost.blocks)))
    if asked != AUTO:
        spec = StrategySpec(name=asked, options=bench.options.strategy_options)
        return _one(bench, spec, budget, judge, progress)
    names = _WITH_CLASS_TOKEN if bench.loaded.found.found.prefix else _WITHOUT
    if judge is None:
        name = next(n for n in names if bench.refusal(make_strategy(StrategySpec(name=n))) is None)
        warning = f"no data was given: {name} with its default schedule was not measured on anything"
        spec = StrategySpec(name=name)
        return Decision(bench.plan(spec, bench.first_fit(spec, budget)), warnings=(warning,))
    return _best(bench, names, budget, judge, progress)


def _one(bench: Bench, spec: StrategySpec, budget: Budget, judge: Judge | None, progress: Progress) -> Decision:
    refusal = bench.refusal(make_strategy(spec))
    if refusal is not None:
        msg = f"the strategy {spec.name} refuses this model: {refusal}"
        raise PlanError(msg, hint="`edgeprune inspect` lists the strategies that apply; --strategy auto picks one")
    if judge is None or bench.options.search == 0:
        return Decision(bench.plan(spec, bench.first_fit(spec, budget)))
    return _searched(bench, spec, budget, judge, progress)


def _best(bench: Bench, names: Sequence[str], budget: Budget, judge: Judge, progress: Progress) -> Decision:
    candidates: list[Candidate] = []
    with progress.stage("try strategies", len(names)) as stage:
        for name in names:
            candidates.append(_candidate(bench, StrategySpec(name=name), budget, judge))
            stage.advance(1)
    scored = [candidate for candidate in candidates if candidate.score is not None]
    if not scored:
        reasons = "; ".join(f"{candidate.name}: {candidate.refused}" for candidate in candidates)
        msg = f"no strategy can meet the budget: {reasons}"
        raise PlanError(msg, hint="ask for a larger --keep or --macs")
    chosen = min(scored, key=_score_or_worst)
    spec = StrategySpec(name=chosen.name, options=chosen.options)
    if bench.options.search == 0:
        return Decision(bench.plan(spec, bench.first_fit(spec, budget)), tuple(candidates))
    searched = _searched(bench, spec, budget, judge, progress)
    return Decision(searched.plan, (*candidates, *searched.candidates))


def _score_or_worst(candidate: Candidate) -> float:
    return float("inf") if candidate.score is None else candidate.score


def _candidate(bench: Bench, spec: StrategySpec, budget: Budget, judge: Judge) -> Candidate:
    refused = bench.refusal(make_strategy(spec))
    if refused is None:
        try:
            schedule = bench.first_fit(spec, budget)
        except PlanError as error:
            refused = Refusal(RefusalCode.NOT_APPLICABLE, error.message)
    if refused is not None:
        return Candidate(name=spec.name, options=spec.options, macs_ratio=1.0, score=None, drift={}, refused=refused)
    return _scored(bench, spec, schedule, judge)


def _scored(bench: Bench, spec: StrategySpec, schedule: Sequence[int], judge: Judge) -> Candidate:
    model = bench.build(bench.plan(spec, schedule))
    drift = judge.drift(model)
    ratio = count_macs(model) / bench.dense_macs
    return Candidate(name=spec.name, options=spec.options, macs_ratio=ratio, score=score_of(drift), drift=drift)


def _searched(bench: Bench, spec: StrategySpec, budget: Budget, judge: Judge, progress: Progress) -> Decision:
    """The best of some schedules of one strategy, all on the budget."""
    tried: dict[tuple[int, ...], Candidate] = {}
    total = max(bench.options.search, 1)
    with progress.stage(f"search schedules of {spec.name}", total) as stage:

        def score(schedule: tuple[int, ...]) -> float:
            tried[schedule] = _scored(bench, spec, schedule, judge)
            stage.advance(1)
            return _score_or_worst(tried[schedule])

        starts = bench.fits(spec, budget)
        project = bench.projection(spec, budget, starts[0])
        trials = search(
            score, starts, project, patches=bench.patches, evaluations=total, seed=bench.options.seed
        )
    schedule = best(trials).schedule
    found = replace(tried[schedule], name=f"{spec.name}, searched")
    return Decision(bench.plan(spec, schedule), (found,))
