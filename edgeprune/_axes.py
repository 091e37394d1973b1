"""One budget over several axes: tokens, MLP channels, head size, heads. Mixes are realised and scored on real outputs.

Losses of different axes do not add up to a drift: heads look cheap one at a time and are not cheap together. So the
knapsack divides what one axis has to save among its blocks, a handful of mixes divide the budget among the axes, and
the outputs of each decide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgeprune._bench import Budget
from edgeprune._deciding import Decision, decide, score_of
from edgeprune._structuring import Structure
from edgeprune._width_levels import levels_of, macs_of_unit
from edgeprune.core.costs import count_macs, count_params
from edgeprune.core.errors import PlanError
from edgeprune.core.knapsack import Level, allocate
from edgeprune.core.plan import StrategySpec, WidthCut
from edgeprune.core.refusals import Refusal, RefusalCode
from edgeprune.core.results import Candidate
from edgeprune_calibration.statistics import EVERY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from edgeprune._bench import Bench
    from edgeprune._deciding import Judge
    from edgeprune._structuring import Structured
    from edgeprune.core.plan import Plan, WidthKind
    from edgeprune.core.progress import Progress
    from edgeprune.core.widths.groups import WidthGroup

# How near the budget a mix must come before it is solved, and how often it is tried.
_CLOSE, _ROUNDS = 0.004, 4
# Shares of the saving that tokens bring, where other axes are named too.
_TOKEN_SHARES = (0.9, 0.75, 0.5, 0.0)


@dataclass(frozen=True, slots=True)
class Mix:
    """How a saving is divided: the tokens' share of it, and each width's share of the rest.

    Attributes:
        tokens: share that fewer tokens bring.
        widths: of what is left, the share of each width.
        joint: let one knapsack over all of them divide it instead.
    """

    tokens: float
    widths: dict[WidthKind, float]
    joint: bool = False

    @property
    def name(self) -> str:
        """For the report."""
        if self.joint:
            freely = f"{' and '.join(self.widths)} {1 - self.tokens:.0%}"
            return f"tokens {self.tokens:.0%}, {freely}" if self.tokens else freely
        parts = [("tokens", self.tokens), *((kind, (1 - self.tokens) * share) for kind, share in self.widths.items())]
        return ", ".join(f"{axis} {share:.0%}" for axis, share in parts if share)


@dataclass(frozen=True, slots=True, eq=False)
class _Realised:
    """A mix that was tried."""

    candidate: Candidate
    made: Structured | None
    token_plan: Plan | None = None


def mixes(axes: Sequence[str], *, params: bool) -> list[Mix]:
    """What is tried for these axes; tokens alone are not among them."""
    kinds: list[WidthKind] = [kind for kind in ("mlp", "head-size", "heads") if kind in axes]
    splits = [dict(zip(kinds, row, strict=True)) for row in _SPLITS[len(kinds)]] if kinds else []
    shares = (0.0,) if params or "tokens" not in axes else _TOKEN_SHARES
    few = splits if len(shares) == 1 else splits[:1]
    made = [Mix(tokens, split) for tokens in shares for split in few]
    joint = [Mix(tokens, splits[0], joint=True) for tokens in shares if len(kinds) > 1]
    return sorted([*made, *joint], key=lambda mix: -mix.tokens)


_SPLITS: dict[int, tuple[tuple[float, ...], ...]] = {
    1: ((1.0,),),
    2: ((1.0, 0.0), (0.7, 0.3), (0.5, 0.5)),
    3: ((1.0, 0.0, 0.0), (0.7, 0.3, 0.0), (0.5, 0.5, 0.0), (0.6, 0.25, 0.15)),
}


class Axes:
    """The search for the best mix of one budget."""

    def __init__(self, bench: Bench, budget: Budget, judge: Judge | None, progress: Progress) -> None:
        if judge is None:
            msg = "a budget over several axes is divided by outputs on data, and there is none"
            raise PlanError(msg, hint="give --data, or one axis: --macs alone for tokens")
        self.bench, self.budget, self.judge, self.progress = bench, budget, judge, progress
        seen = range(0, len(judge.data), EVERY) if len(judge.data) >= 2 * EVERY else range(len(judge.data))
        self.scored = replace(judge, data=judge.data.subset(list(seen)))
        self.count = count_params if budget.kind == "params" else count_macs
        self.goal = budget.share * self.count(bench.loaded.dense)
        self._structures: dict[float, tuple[Plan, Structure]] = {}

    def best(self, axes: Sequence[str]) -> tuple[Decision, Structured | None]:
        """The decision with the least drift, and its widths.

        Raises:
            PlanError: if no mix can meet the budget.
        """
        tokens = "tokens" in axes and self.budget.kind == "macs"
        alone = decide(self.bench, self.budget, self.judge, self.progress) if tokens else None
        spec = alone.plan.cuts[0].strategy if alone is not None and alone.plan.cuts else None
        tried = [self._alone(alone)] if alone is not None else []
        for mix in mixes(axes, params=self.budget.kind == "params"):
            if mix.tokens and spec is None:
                continue
            tried.append(self._try(mix, spec))
        good = [each for each in tried if each.candidate.score is not None]
        if not good:
            reasons = "; ".join(f"{each.candidate.name}: {each.candidate.refused}" for each in tried)
            msg = f"no mix of {', '.join(axes)} can meet the budget: {reasons}"
            raise PlanError(msg, hint="ask for a larger share, or name more --axes")
        chosen = min(good, key=lambda each: each.candidate.score or 0.0)
        candidates = tuple(each.candidate for each in tried)
        warnings = alone.warnings if alone is not None else ()
        if chosen.made is None:
            assert alone is not None
            return replace(alone, candidates=(*alone.candidates, *candidates)), None
        made = chosen.made
        warnings = (*warnings, *made.warnings)
        return Decision(made.plan, candidates, warnings, made.rows), made

    def _alone(self, decision: Decision) -> _Realised:
        graph = self.bench.build(decision.plan)
        return _Realised(self._scored("tokens 100%", graph), None, decision.plan)

    def _try(self, mix: Mix, spec: StrategySpec | None) -> _Realised:
        try:
            structure = self._structure(mix, spec)
            keep = self._keep(structure, mix)
        except PlanError as error:
            refused = Refusal(RefusalCode.NOT_APPLICABLE, error.message)
            blank = Candidate(name=mix.name, options={}, macs_ratio=1.0, score=None, drift={}, refused=refused)
            return _Realised(blank, None)
        made = structure.solved(keep, self.progress)
        graph = replace(self.bench, arrays=made.arrays).build(made.plan)
        return _Realised(self._scored(mix.name, graph), made)

    def _scored(self, name: str, graph: ir.Model) -> Candidate:
        drift = self.scored.drift(graph)
        ratio = count_macs(graph) / self.bench.dense_macs
        return Candidate(name=name, options={}, macs_ratio=ratio, score=score_of(drift), drift=drift)

    def _structure(self, mix: Mix, spec: StrategySpec | None) -> Structure:
        """The token cuts of a mix with the moments behind them; measured once for each share of tokens."""
        if mix.tokens not in self._structures:
            plan = self._token_plan(mix.tokens, spec)
            kinds = tuple(mix.widths)
            structure = Structure(self.bench, plan, kinds)
            structure.measure(self.judge.data, self.judge.batch, self.progress)
            self._structures[mix.tokens] = plan, structure
        return self._structures[mix.tokens][1]

    def _token_plan(self, share: float, spec: StrategySpec | None) -> Plan:
        if not share or spec is None:
            whole = (self.bench.patches,) * len(self.bench.cost.blocks)
            return self.bench.plan(StrategySpec(name="keep-all"), whole)
        part = Budget("macs", 1 - share * (1 - self.budget.share))
        return self.bench.plan(spec, self.bench.first_fit(spec, part))

    def _keep(self, structure: Structure, mix: Mix) -> dict[str, int]:
        """Units of every group that bring the graph to the budget, counted on the real graph.

        Raises:
            PlanError: if the widths of the mix cannot save so much.
        """
        base = self.bench.build(structure.plan)
        now, asked = self.count(base), self.goal
        keep: dict[str, int] = {}
        for _ in range(_ROUNDS):
            keep = self._divided(structure, base, mix, now - asked)
            real = self.count(self._bare(structure, keep))
            if real <= self.goal * (1 + _CLOSE) and real >= self.goal * (1 - 3 * _CLOSE):
                break
            asked -= real - self.goal
        return keep

    def _divided(self, structure: Structure, base: ir.Model, mix: Mix, saving: float) -> dict[str, int]:
        keep: dict[str, int] = {}
        every = tuple(group for kind in mix.widths for group in structure.widths.of(kind))
        parts = [(structure.widths.of(kind), share) for kind, share in mix.widths.items()]
        for groups, share in [(every, 1.0)] if mix.joint else parts:
            if not share or saving <= 0:
                continue
            units = [self._unit(base, group) for group in groups]
            levels = [
                [Level(n, n * unit, structure.loss(group, n)) for n in levels_of(group)]
                for group, unit in zip(groups, units, strict=True)
            ]
            whole = sum(each[-1].cost for each in levels)
            made = allocate(levels, whole - share * saving)
            keep |= {group.name: level.keep for group, level in zip(groups, made, strict=True)}
        return keep

    def _unit(self, base: ir.Model, group: WidthGroup) -> float:
        """What one unit of a group costs in the graph: parameters, or MACs of the products that have it."""
        if self.budget.kind == "params":
            rows = sum(len(units) for units in group.columns)
            made = sum(linear.weight.size + rows for linear in group.producers)
            return (made + group.consumer.weight.size) / group.size
        return macs_of_unit(base, group)

    def _bare(self, structure: Structure, keep: Mapping[str, int]) -> ir.Model:
        """The graph with so many units and no solution: only its cost is of interest."""
        groups = [g for kind in ("mlp", "heads", "head-size") for g in structure.widths.groups if g.kind == kind]
        cut = [group for group in groups if keep.get(group.name, group.size) < group.size]
        arrays = {f"{group.name}/kept": np.arange(keep[group.name]) for group in cut}
        cuts = tuple(WidthCut(kind=g.kind, block=g.block, number=g.number, keep=keep[g.name], of=g.size) for g in cut)
        plan = replace(structure.plan, widths=cuts, widths_sha256="")
        return replace(self.bench, arrays=arrays).build(plan)
