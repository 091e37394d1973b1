"""One budget over several axes: tokens, MLP channels, head size, heads. Mixes are realised and scored on real outputs.

Losses of different axes do not add up to a drift: heads look cheap one at a time and are not cheap together. So the
knapsack divides what one axis has to save among its blocks, a handful of mixes divide the budget among the axes, and
the outputs of each decide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeprune.compiler.deciding.budgets import Budget
from edgeprune.compiler.deciding.plans import Decision, decide, score_of
from edgeprune.compiler.structuring.dividing import divided
from edgeprune.compiler.structuring.latency_budget import decide_latency, first_strategy, macs_share
from edgeprune.compiler.structuring.level_times import bare, built
from edgeprune.compiler.structuring.mixes import WIDTH_KINDS, Mix, beside, mixes
from edgeprune.compiler.structuring.pricing import Base, Macs, ModelledLatency, Params
from edgeprune.compiler.structuring.structure import Structure
from edgeprune.core.costs import count_macs
from edgeprune.core.errors import PlanError
from edgeprune.core.plan import SUBLAYERS, StrategySpec
from edgeprune.core.refusals import Refusal, RefusalCode
from edgeprune.core.results import Candidate
from edgeprune_calibration.statistics import EVERY

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from edgeprune.compiler.deciding.bench import Bench
    from edgeprune.compiler.deciding.plans import Judge
    from edgeprune.compiler.structuring.pricing import Price
    from edgeprune.compiler.structuring.structure import Structured
    from edgeprune.core.plan import Plan, WidthKind
    from edgeprune.core.progress import Progress
    from edgeprune.core.widths.arrays import Arrays
    from edgeprune_targets.target import Target

# How near the budget a mix must come before it is solved, how far above it may end, and how often it is tried.
_CLOSE, _OVER, _ROUNDS = 0.004, 0.01, 4
# Tokens fill what widths leave of a budget up to this share of it.
_FULL = 0.001
# Mixes are scored on samples that nothing was fitted on: of five, these.
_SCORING = (1, 3)
# Samples on which sublayers are tried one by one.
_TRIED = 8


@dataclass(frozen=True, slots=True, eq=False)
class _Realised:
    """A mix that was tried."""

    candidate: Candidate
    made: Structured | None
    mix: Mix | None = None


class Axes:
    """The search for the best mix of one budget.

    Args:
        bench: the model.
        budget: of MACs, parameters, or modelled latency.
        judge: scores outputs.
        progress: is told what is going on.
        targets: that widths are aligned to, and modelled faster on.
        latency: the price, where that is the budget.
    """

    def __init__(
        self,
        bench: Bench,
        budget: Budget,
        judge: Judge | None,
        progress: Progress,
        targets: Sequence[Target] = (),
        latency: ModelledLatency | None = None,
    ) -> None:
        if judge is None:
            msg = "a budget over several axes is divided by outputs on data, and there is none"
            raise PlanError(msg, hint="give --data, or one axis: --macs alone for tokens")
        self.bench, self.budget, self.judge, self.progress = bench, budget, judge, progress
        self.targets = tuple(targets)
        every = range(len(judge.data))
        chosen = [i for i in every if i % EVERY in _SCORING] if len(judge.data) >= 2 * EVERY else list(every)
        measured = [i for i in every if i % EVERY not in _SCORING] if len(judge.data) >= 2 * EVERY else list(every)
        self.scored, self.measured = replace(judge, data=judge.data.subset(chosen)), judge.data.subset(measured)
        self._kinds: tuple[WidthKind, ...] = ()
        self._schedule: tuple[int, ...] = ()
        self.price: Price = Params() if budget.kind == "params" else latency or Macs()
        self.goal = budget.share * self.price.of(bench.loaded.dense)
        self._structures: dict[tuple[float, bool], Structure] = {}

    def best(self, axes: Sequence[str]) -> tuple[Decision, Structured | None]:
        """The decision with the least drift, and its widths.

        Raises:
            PlanError: if no mix can meet the budget.
        """
        tokens = "tokens" in axes and self.budget.kind != "params"
        alone = self._tokens_alone() if tokens else None
        spec = alone.plan.cuts[0].strategy if alone is not None and alone.plan.cuts else None
        if tokens and alone is None:
            spec = first_strategy(self.bench)
        if alone is not None and alone.plan.cuts:
            whole = alone.plan.schedule()
            self._schedule = tuple(whole[block] for block in self.bench.cost.blocks)
        tried = [self._alone(alone)] if alone is not None else []
        self._kinds = tuple(kind for kind in WIDTH_KINDS if kind in axes)
        made_of = [m for m in mixes(axes, params=self.budget.kind == "params") if spec is not None or not m.tokens]
        tried += [self._try(mix, spec) for mix in made_of]
        best = _best(tried)
        if best is not None and best.mix is not None:
            tried += [self._try(mix, spec) for mix in beside(best.mix, made_of)]
        chosen = _best(tried)
        if chosen is None:
            reasons = "; ".join(f"{each.candidate.name}: {each.candidate.refused}" for each in tried)
            msg = f"no mix of {', '.join(axes)} can meet the budget: {reasons}"
            raise PlanError(msg, hint="ask for a larger share, or name more --axes")
        candidates = tuple(each.candidate for each in tried)
        warnings = alone.warnings if alone is not None else ()
        if chosen.made is None:
            assert alone is not None
            return replace(alone, candidates=(*alone.candidates, *candidates)), None
        made = chosen.made
        warnings = (*warnings, *made.warnings, *self._told())
        return Decision(made.plan, candidates, warnings, made.rows), made

    def _tokens_alone(self) -> Decision | None:
        """The best that fewer tokens alone can do; None where they cannot meet a latency, and other axes may."""
        if not isinstance(self.price, ModelledLatency):
            return decide(self.bench, self.budget, self.judge, self.progress, self.targets)
        try:
            return decide_latency(self.bench, self.price, self.budget.share, self.judge, self.progress)
        except PlanError:
            return None

    def _told(self) -> list[str]:
        """What of the widths a person must know, once."""
        slow = [words for structure in self._structures.values() for words in structure.slow()]
        bound = sorted({block for structure in self._structures.values() for block in structure.bound})
        blocks = f"block {bound[0]}" if len(bound) == 1 else f"blocks {', '.join(map(str, bound))}"
        told = [f"attention sublayers of {blocks} stay where tokens are cut there, or before the last"] if bound else []
        return [*dict.fromkeys(slow), *told]

    def _alone(self, decision: Decision) -> _Realised:
        graph = self.bench.build(decision.plan)
        return _Realised(self._scored("tokens 100%", graph), None)

    def _try(self, mix: Mix, spec: StrategySpec | None) -> _Realised:
        try:
            structure = self._structure(mix, spec)
            keep = self._keep(structure, mix)
        except PlanError as error:
            refused = Refusal(RefusalCode.NOT_APPLICABLE, error.message)
            blank = Candidate(name=mix.name, options={}, macs_ratio=1.0, score=None, drift={}, refused=refused)
            return _Realised(blank, None)
        made = structure.solved(keep, self.progress)
        if mix.tokens and spec is not None:
            made = replace(made, plan=self._filled(made.plan, spec, made.arrays))
        return _Realised(self._scored(mix.name, built(self.bench, made.plan, made.arrays)), made, mix)

    def _filled(self, plan: Plan, spec: StrategySpec, arrays: Arrays) -> Plan:
        """As many tokens as the budget has room for: widths go in steps, tokens one by one."""
        if not isinstance(self.price, Macs):
            return plan
        share = count_macs(self.bench.build(replace(plan, widths=(), widths_sha256=""))) / self.bench.dense_macs
        filled, lost = plan, {cut.block for cut in plan.widths if cut.kind == "attention-sublayer"}
        for _ in range(_ROUNDS):
            room = self.goal - self.price.of(built(self.bench, filled, arrays))
            if abs(room) <= _FULL * self.goal:
                break
            share += room / self.bench.dense_macs
            cuts = self._tokens_at(share, spec).cuts
            if lost & {cut.block for cut in cuts}:
                break
            filled = replace(plan, cuts=cuts)
        return filled

    def realise(self, mix: Mix) -> ir.Model:
        """The graph of one mix of widths alone.

        Raises:
            PlanError: if it cannot meet the budget.
        """
        structure = self._structure(mix, None)
        made = structure.solved(self._keep(structure, mix), self.progress)
        return built(self.bench, made.plan, made.arrays)

    def _scored(self, name: str, graph: ir.Model) -> Candidate:
        drift = self.scored.drift(graph)
        ratio = count_macs(graph) / self.bench.dense_macs
        return Candidate(name=name, options={}, macs_ratio=ratio, score=score_of(drift), drift=drift)

    def _structure(self, mix: Mix, spec: StrategySpec | None) -> Structure:
        """The token cuts of a mix with the moments behind them; measured once for each share of tokens."""
        key = mix.tokens, bool(mix.sublayers)
        if key not in self._structures:
            kinds = (*(self._kinds or mix.widths), *(SUBLAYERS if mix.sublayers else ()))
            structure = Structure(self.bench, self._token_plan(mix.tokens, spec), kinds, self.targets)
            assert self.judge is not None
            structure.measure(self.measured, self.judge.batch, self.progress)
            if mix.sublayers:
                few = range(min(_TRIED, len(self.scored.data)))
                structure.try_sublayers(replace(self.scored, data=self.scored.data.subset(list(few))), self.progress)
            self._structures[key] = structure
        return self._structures[key]

    def _token_plan(self, share: float, spec: StrategySpec | None) -> Plan:
        if not share or spec is None:
            whole = (self.bench.patches,) * len(self.bench.cost.blocks)
            return self.bench.plan(StrategySpec(name="keep-all"), whole)
        part = 1 - share * (1 - self.budget.share)
        if isinstance(self.price, ModelledLatency):
            found = macs_share(self.bench, self.price, part, spec)
            if found is None:
                msg = f"fewer tokens do not bring {share:.0%} of the saving in modelled latency"
                raise PlanError(msg, hint="ask for a larger share, or name more --axes")
            part = found
        return self._tokens_at(part, spec)

    def _tokens_at(self, share: float, spec: StrategySpec) -> Plan:
        """Fewer tokens for a share of the MACs, in the schedule that was best for tokens alone if it can be so."""
        budget = Budget("macs", share)
        near = self._schedule
        made = self.bench.projection(spec, budget, near)(near) if near else None
        return self.bench.plan(spec, made or self.bench.first_fit(spec, budget))

    def _keep(self, structure: Structure, mix: Mix) -> dict[str, int]:
        """Units of every item that bring the graph to the budget, counted on the real graph.

        Raises:
            PlanError: if the widths of the mix cannot save so much.
        """
        graph = self.bench.build(structure.plan)
        base, asked = Base(graph, self.price.of(graph)), self.goal
        best: dict[str, int] | None = None
        most, least = 0.0, base.price
        for _ in range(_ROUNDS):
            keep = divided(structure, base, self.price, mix, base.price - asked)
            real = self.price.of(bare(self.bench, structure.plan, structure.items, keep))
            least = min(least, real)
            if most < real <= self.goal * (1 + _OVER):
                best, most = keep, real
            if self.goal * (1 - 3 * _CLOSE) <= real <= self.goal * (1 + _CLOSE):
                break
            asked -= real - self.goal
        if best is None:
            msg = f"the budget is passed: {least / self.goal:.1%} of it is the least that was found"
            raise PlanError(msg, hint="ask for a larger share, or name more --axes")
        return best


def _best(tried: Sequence[_Realised]) -> _Realised | None:
    """The one with the least drift; None where none meets the budget."""
    good = [each for each in tried if each.candidate.score is not None]
    return min(good, key=lambda each: each.candidate.score or 0.0) if good else None
