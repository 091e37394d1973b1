"""A model on the bench: plans can be made for it, built and priced."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from onnx_ir.passes import common

from edgeprune.compiler.deciding.leaving import chooses_by, output_cut
from edgeprune.core.costs import TokenCost, count_macs, token_cost
from edgeprune.core.errors import PlanError
from edgeprune.core.flow.rules_scan import serves_scan
from edgeprune.core.plan import Plan, StrategySpec, TokenCut
from edgeprune.core.recognition import recognize
from edgeprune.core.scans import selective_scans
from edgeprune.core.schedule import Curve, fit_schedule, rebalance
from edgeprune_passes._inside import refuse_inside
from edgeprune_passes.apply import apply_plan
from edgeprune_passes.eliminate_tail import EliminateTail
from edgeprune_passes.registry import make_strategy
from edgeprune_passes.selection import first_refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import onnx_ir as ir

    from edgeprune.compiler.deciding.budgets import Budget
    from edgeprune.compiler.opening.loading import Loaded
    from edgeprune.core.plan import Alignment, Restore, ScanForm
    from edgeprune.core.refusals import Refusal
    from edgeprune.core.widths.arrays import Arrays
    from edgeprune.options import Options
    from edgeprune_passes.selection import Strategy

# Few cuts are few small kernels, and lose little: on DeiT-Tiny at 0.65 of its MACs four cuts drift as much as eleven.
DEFAULT_CUTS = 4

# How scans are aligned where nothing can be measured: of what shortens scans, what drifted least on Vims trained on
# digits, by far. At equal MACs `stand-in`, which does not, drifted more.
UNMEASURED: Alignment = "neighbours"

# Within this share of the budget a fitted schedule is taken; the promise to the user is 2 %.
_CLOSE = 0.004
_ROUNDS = 4


def curves(cuts: int, *, restores: bool = False, scans: bool = False) -> tuple[Curve, ...]:
    """Where a search begins: the default first, then other depths, then fewer cuts.

    Where all tokens come back, and between scans, even cuts or earlier ones, that leave more at the end, do better than
    late ones; between scans very early ones may.
    """
    early = (Curve(0.5, 5.0, 0.1, cuts=cuts), Curve(0.4, 0.5, 0.1, cuts=cuts)) if restores or scans else ()
    shapes = (
        *early,
        *((Curve(0.0, 0.25, 0.0, cuts=cuts),) if scans else ()),
        Curve(cuts=cuts),
        Curve(0.8, 0.4, cuts=cuts),
        Curve(0.65, 0.25, 0.1, cuts=cuts),
        Curve(0.5, 0.4, 0.1, cuts=cuts),
    )
    return (*shapes, Curve(cuts=cuts - 1)) if cuts > 1 else shapes


@dataclass(frozen=True, eq=False)
class Bench:
    """A model on the bench: plans can be made for it, built, priced and scored.

    Attributes:
        loaded: the model.
        options: of the user.
        targets: names of target profiles, for the plan.
        most_cuts: the most cuts that a plan may have where the user names no number.
        restore: how tokens come back where that was decided; None for what the user asked for.
        alignment: how scans are aligned where that was decided; None for what the user asked for.
        arrays: what stays of widths that a plan cuts, and the weights solved for it.
    """

    loaded: Loaded
    options: Options
    targets: tuple[str, ...] = ()
    most_cuts: int = DEFAULT_CUTS
    restore: Restore | None = None
    alignment: Alignment | None = None
    arrays: Arrays = field(default_factory=dict)

    @cached_property
    def dense_macs(self) -> int:
        """MACs of the dense model."""
        return count_macs(self.loaded.dense)

    @cached_property
    def patches(self) -> int:
        """N."""
        return self.loaded.found.found.tokens - self.loaded.found.found.prefix

    @cached_property
    def scans(self) -> bool:
        """Whether tokens are mixed by selective scans."""
        return any(block.scans for block in self.loaded.found.blocks)

    @cached_property
    def form_of_scans(self) -> ScanForm:
        """How scans are to be written; 'none' where there are none.

        Raises:
            PlanError: if a form is asked for, and there is no scan.
        """
        if selective_scans(self.loaded.dense.graph):
            return self.options.scan
        if self.options.scan != "auto":
            msg = f"`scan` is {self.options.scan}, and the model has no selective scan"
            raise PlanError(msg, hint="leave out --scan; `edgeprune inspect` says why a loop is no selective scan")
        return "none"

    @cached_property
    def mixes_neighbours(self) -> bool:
        """Whether a convolution over tokens stands in front of a scan."""
        return self.scans and any(node.op_type == "Conv" and serves_scan(node) for node in self.loaded.dense.graph)

    @cached_property
    def restores(self) -> bool:
        """Whether the head or an output needs all tokens back, and may have them."""
        found = self.loaded.found
        outputs = self.loaded.dense.graph.outputs if self.options.output_tokens is None else ()
        tokens = any(found.found.flow.tokens_on(value) for value in outputs)
        return self.options.restore != "none" and (tokens or bool(found.head_refusals))

    @cached_property
    def cost(self) -> TokenCost:
        """MACs by tokens, with the tail eliminated if the user lets it be."""
        model = self.loaded.dense.clone()
        if self.options.tail_elimination:
            EliminateTail().apply(model)
            common.RemoveUnusedNodesPass()(model)
        return token_cost(model, recognize(model), whole_scans=self.aligned == "stand-in")

    def refusal(self, strategy: Strategy) -> Refusal | None:
        """Why a strategy does not work on this model, or None."""
        inside = (refuse_inside(strategy, block) for block in self.loaded.found.blocks if self.aligned == "exact")
        return first_refusal(strategy, self.loaded.found) or next(filter(None, inside), None)

    def plan(self, spec: StrategySpec, schedule: Sequence[int]) -> Plan:
        """The plan of one strategy and a schedule over the cut points."""
        cuts, before = [], self.patches
        own = chooses_by(self.loaded, self.options)
        for block, kept in zip(self.cost.blocks, schedule, strict=True):
            if block == own:  # tokens that leave are chosen by its attention, which must see them all
                continue
            if kept < before:
                cuts.append(TokenCut(block=block, keep=kept, strategy=spec))
            before = kept
        found = self.loaded.found.found
        return Plan(
            model_sha256=self.loaded.source.sha256,
            inputs=self.loaded.inputs,
            patch_tokens=self.patches,
            prefix_tokens=found.prefix,
            prefix_place=found.place,
            blocks=len(self.loaded.found.blocks),
            cuts=tuple(cuts),
            output=output_cut(self.loaded, self.options, before),
            eliminate_tail=self.options.tail_elimination,
            restore=self.restore or self.options.restore,
            alignment=self.aligned if cuts else "none",
            precision=self.options.precision_for(self.targets),
            passes=self.options.passes,
            targets=self.targets,
            tensorrt=self.options.tensorrt or "",
            fused_attention=self.options.fused_attention,
            scan=self.form_of_scans,
            seed=self.options.seed,
        )

    @property
    def aligned(self) -> Alignment:
        """How scans are aligned: as was decided, or asked for, or as is best without data."""
        if self.alignment is not None:
            return self.alignment
        if self.options.alignment != "auto":
            return self.options.alignment
        return UNMEASURED if self.mixes_neighbours else "none"

    def build(self, plan: Plan) -> ir.Model:
        """The dense model with a plan applied."""
        model = self.loaded.dense.clone()
        apply_plan(model, plan, self.arrays)
        return model

    def keep_of(self, plan: Plan) -> float:
        """Share of patch-token work kept, averaged over the blocks.

        The MLP that follows attention sees the tokens behind the cut; a block of scans is done when it is cut.
        """
        left = plan.schedule()
        before = (self.patches, *left)
        whole = {block.index for block in self.loaded.found.blocks if not block.attentions}
        work = sum(before[i] if i in whole else kept for i, kept in enumerate(left))
        tokens = work / (self.patches * max(plan.blocks, 1))
        return tokens if plan.alignment != "stand-in" else tokens + (1 - tokens) * self._standing_share

    @cached_property
    def _standing_share(self) -> float:
        """Share of the blocks' work on tokens that stays, whatever is cut, where tokens stand in for others."""
        dense, found = self.loaded.dense, self.loaded.found
        rest = token_cost(dense, found, whole_scans=True)
        return 1 - sum(rest.linear) / sum(token_cost(dense, found).linear)

    def fits(self, spec: StrategySpec, budget: Budget) -> Iterator[tuple[int, ...]]:
        """Schedules of several families that meet a budget, the default first.

        Raises:
            PlanError: if the strategy cannot meet it with any.
        """
        failures: list[PlanError] = []
        found = 0
        for family in curves(self.cuts, restores=self.restores, scans=self.scans):
            made = self._try_fit(spec, family, budget)
            if isinstance(made, PlanError):
                failures.append(made)
                continue
            found += 1
            yield made
        if not found:
            raise failures[0]

    def first_fit(self, spec: StrategySpec, budget: Budget) -> tuple[int, ...]:
        """The schedule of the first family that meets a budget.

        Raises:
            PlanError: if the strategy cannot meet it with any.
        """
        return next(self.fits(spec, budget))

    def _try_fit(self, spec: StrategySpec, family: Curve, budget: Budget) -> tuple[int, ...] | PlanError:
        try:
            return self._fit(spec, family, budget)
        except PlanError as error:
            return error

    @property
    def cuts(self) -> int:
        """The most cuts that a plan may have."""
        return self.options.cuts or self.most_cuts

    def _fewest(self, spec: StrategySpec) -> Callable[[int], int]:
        strategy, prefix = make_strategy(spec), self.loaded.found.found.prefix
        output = output_cut(self.loaded, self.options, self.patches)
        leaving = output.keep if output is not None else 1
        return lambda patches: max(strategy.fewest(patches, prefix), min(leaving, patches))

    def _fit(self, spec: StrategySpec, family: Curve, budget: Budget) -> tuple[int, ...]:
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
            made = rebalance(proposed, price, goal, self.patches, fewest, cuts=self.cuts)
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
