"""Cut widths: find them, measure what they carry, choose what stays, and solve the weights anew."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from edgeprune.compiler.deciding.leaving import chooses_by
from edgeprune.compiler.structuring.level_times import LevelTimes, built
from edgeprune.compiler.structuring.width_levels import fewest_of, levels_of, step_of
from edgeprune.core.errors import DataError, PlanError
from edgeprune.core.knapsack import Level, allocate
from edgeprune.core.plan import SUBLAYERS, WidthKind, plan_to_json
from edgeprune.core.progress import SILENT
from edgeprune.core.results import WidthReport
from edgeprune.core.widths.arrays import arrays_to_bytes, digest
from edgeprune.core.widths.find import find_widths
from edgeprune.core.widths.groups import Sublayer, WidthGroup
from edgeprune_calibration.padding import find_padding
from edgeprune_calibration.statistics import collect, thin
from edgeprune_calibration.store import store_for
from edgeprune_calibration.width_solving import WidthSolver, probes_of
from edgeprune_targets.width_alignment import width_alignment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from edgeprune.compiler.deciding.bench import Bench
    from edgeprune.compiler.deciding.plans import Judge
    from edgeprune.core.plan import Plan
    from edgeprune.core.progress import Progress
    from edgeprune.core.results import Drift
    from edgeprune.core.widths.arrays import Arrays
    from edgeprune.core.widths.groups import Widths
    from edgeprune_calibration.data import Dataset
    from edgeprune_calibration.width_solving import WidthSolution
    from edgeprune_targets.target import Target

Item: TypeAlias = WidthGroup | Sublayer

# More samples cost time and change little: 256 images of 197 tokens are 20 rows for every channel of a ViT-Base.
_MOST_SAMPLES = 256
# Shares farther from what was asked for than this are told.
_NEAR = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Structured:
    """A plan with widths cut, and what goes with it.

    Attributes:
        plan: tokens and widths.
        arrays: what stays, and the weights solved for it.
        rows: of the report.
        warnings: for a person.
    """

    plan: Plan
    arrays: Arrays
    rows: tuple[WidthReport, ...]
    warnings: tuple[str, ...] = ()


class Structure:
    """Width cuts of one model under one plan of token cuts, aligned to the targets and modelled faster there."""

    def __init__(self, bench: Bench, plan: Plan, kinds: tuple[WidthKind, ...], targets: Sequence[Target] = ()) -> None:
        self.bench, self.plan, self.kinds = bench, plan, kinds
        self.alignment = width_alignment(targets)
        every = _cuttable(find_widths(bench.loaded.dense, bench.loaded.found), kinds)
        self.widths, self.bound = _without_bound(every, bound_blocks(bench, plan), kinds)
        self.times = LevelTimes(bench, plan, self.items, targets) if targets else None
        self.targets = ", ".join(target.name for target in targets)
        self.damage: dict[str, float] = {}
        self._solver: WidthSolver | None = None
        self._thin = ""
        self._slow: dict[WidthKind, set[int]] = {}
        self.samples = 0

    @property
    def items(self) -> tuple[Item, ...]:
        """Everything of these kinds that may be cut."""
        every: tuple[Item, ...] = (*self.widths.groups, *self.widths.sublayers)
        return tuple(item for item in every if item.kind in self.kinds)

    def of(self, kinds: Iterable[WidthKind]) -> tuple[Item, ...]:
        """What may be cut of some kinds."""
        return tuple(item for kind in kinds for item in self.items if item.kind == kind)

    def measure(self, data: Dataset | None, batch: int, progress: Progress) -> WidthSolver:
        """Take the moments of everything that is to be cut, on the stream that the plan's token cuts leave.

        Raises:
            DataError: if there is no data, or too little.
        """
        if data is None:
            msg = "no data to choose widths by"
            raise DataError(msg, hint="give --data a folder of images; 64 to 256 are a good number")
        chosen = data if len(data) <= _MOST_SAMPLES else data.subset(range(_MOST_SAMPLES))
        self.samples = len(chosen)
        tokens = replace(self.plan, eliminate_tail=False, passes=(), output=None)
        graph, threads = self.bench.build(tokens), self.bench.options.threads
        probes = probes_of(self.widths, self.kinds)
        store = store_for(self.plan.model_sha256, plan_to_json(tokens) + repr(probes).encode(), chosen, batch)
        hides = find_padding(self.bench.loaded.found)
        found = collect(
            graph, probes, chosen, batch=batch, threads=threads, progress=progress, store=store, padding=hides
        )
        self._solver, self._thin = WidthSolver(self.widths, found), thin(found, self.samples)
        return self._solver

    def by_shares(self, shares: Mapping[WidthKind, float]) -> dict[str, int]:
        """Units that every group keeps so that each kind keeps its share, where they are missed least."""
        assert self._solver is not None
        keep: dict[str, int] = {}
        for kind, share in shares.items():
            groups = self.widths.of(kind)
            levels = [
                [Level(keep, keep, self.loss(group, keep)) for keep in self.levels(group, share)] for group in groups
            ]
            whole = sum(group.size for group in groups)
            floor = sum(options[0].cost for options in levels)
            budget = max(_ceil(share * whole, step_of(groups[0], self.alignment)), floor)
            made = allocate(levels, budget)
            keep |= {group.name: level.keep for group, level in zip(groups, made, strict=True)}
        return keep

    def loss(self, item: Item, keep: int) -> float:
        """What is lost when so many units stay: on the fitted samples, or of the outputs where a sublayer goes."""
        assert self._solver is not None
        if isinstance(item, Sublayer):
            return 0.0 if keep else self.damage.get(item.name, 1.0)
        return self._solver.loss(item, keep)

    def levels(self, item: Item, share: float = 0.0) -> list[int]:
        """Counts that may stay: aligned, and, where there are targets, modelled faster than any larger count."""
        found = levels_of(item, share, self.alignment)
        if self.times is None:
            return found
        kept, slow = self.times.faster(item, found)
        self._slow.setdefault(item.kind, set()).update(slow)
        return kept

    def slow(self) -> list[str]:
        """What a person must know of counts that were not taken since they are modelled no faster."""
        return [
            f"{kind}: {', '.join(map(str, sorted(counts)))} would be modelled no faster than more on {self.targets}, "
            "and is not taken"
            for kind, counts in self._slow.items()
            if counts
        ]

    def try_sublayers(self, judge: Judge, progress: Progress) -> None:
        """Measure on outputs what each sublayer is worth, one at a time: its squared relative error, as for `loss`."""
        assert self._solver is not None
        whole = judge.drift(self.bench.build(self.plan)) if self.plan.cuts else None
        with progress.stage("try sublayers", len(self.widths.sublayers)) as stage:
            for sublayer in self.widths.sublayers:
                made = self.solved({sublayer.name: 0}, SILENT)
                drift = judge.drift(built(self.bench, made.plan, made.arrays))
                self.damage[sublayer.name] = max(_squared(drift) - (_squared(whole) if whole else 0.0), 0.0)
                stage.advance(1)

    def solved(self, keep: Mapping[str, int], progress: Progress) -> Structured:
        """The plan with these widths, and the weights for it."""
        assert self._solver is not None
        with progress.stage("solve widths"):
            solutions = self._solver.solve(keep)
        arrays = {name: array for solution in solutions for name, array in solution.arrays.items()}
        cuts = tuple(solution.cut for solution in solutions)
        sha256 = digest(arrays_to_bytes(arrays)) if cuts else ""
        made = replace(self.plan, widths=cuts, widths_sha256=sha256)
        few = [self._thin] if self._thin and cuts else []
        return Structured(made, arrays, tuple(map(_row, solutions)), (*few, *_warnings(solutions)))

    def missed(self, shares: Mapping[WidthKind, float], keep: Mapping[str, int]) -> list[str]:
        """What a person must know where counts that run fast are far from the share that was asked for."""
        out = []
        for kind, share in shares.items():
            groups = self.widths.of(kind)
            kept = sum(keep[group.name] for group in groups) / sum(group.size for group in groups)
            if abs(kept - share) > _NEAR:
                group = groups[0]
                step, fewest = step_of(group, self.alignment), fewest_of(group, self.alignment)
                steps = f"multiples of {step}, and {fewest} or more of {group.size}"
                out.append(f"{kind}: {kept:.0%} is kept where {share:.0%} was asked for; a block keeps {steps}")
        return out


def _cuttable(widths: Widths, kinds: tuple[WidthKind, ...]) -> Widths:
    """The groups that were asked for.

    Raises:
        PlanError: if a kind has none.
    """
    for kind in kinds:
        if kind not in SUBLAYERS and not widths.of(kind):
            msg = f"no {kind} width of this model can be cut{widths.why_no(kind)}"
            raise PlanError(msg, hint=f"leave out --{kind}-keep")
    if set(kinds) & set(SUBLAYERS) and not any(sublayer.kind in kinds for sublayer in widths.sublayers):
        why = f": {widths.refusals[0]}" if widths.refusals else ""
        msg = f"no sublayer of this model can be removed{why}"
        raise PlanError(msg, hint="leave out sublayers in --axes")
    groups = tuple(group for group in widths.groups if group.kind in {*kinds, "heads"})
    return replace(widths, groups=groups, sublayers=tuple(s for s in widths.sublayers if s.kind in kinds))


def bound_blocks(bench: Bench, plan: Plan) -> frozenset[int]:
    """Blocks whose attention must stay: tokens are cut behind it, or those that leave are chosen by it.

    Where tokens are cut the last block's stays too: a cut with no attention behind it would gain nothing.
    """
    if not plan.cuts and plan.output is None:
        return frozenset()
    chooser = chooses_by(bench.loaded, bench.options)
    return frozenset({*(cut.block for cut in plan.cuts), plan.blocks - 1, *([] if chooser is None else [chooser])})


def _without_bound(
    widths: Widths, blocks: frozenset[int], kinds: tuple[WidthKind, ...]
) -> tuple[Widths, tuple[int, ...]]:
    """The widths without attentions that must stay, and the blocks that this concerns."""
    if "attention-sublayer" not in kinds:
        return widths, ()
    stays = [s for s in widths.sublayers if s.kind == "attention-sublayer" and s.block in blocks]
    left = tuple(s for s in widths.sublayers if s not in stays)
    return replace(widths, sublayers=left), tuple(s.block for s in stays)


def _squared(drift: Mapping[str, Drift]) -> float:
    return sum(each.relative_error**2 for each in drift.values()) / len(drift)


def _ceil(value: float, step: int) -> int:
    return -int(-value // step) * step


def _row(solution: WidthSolution) -> WidthReport:
    cut = solution.cut
    return WidthReport(
        kind=cut.kind,
        block=cut.block,
        number=cut.number,
        keep=cut.keep,
        of=cut.of,
        method=solution.method,
        ridge=solution.ridge,
        error=solution.error,
        untouched=solution.untouched,
        reason=solution.reason,
    )


def _warnings(solutions: list[WidthSolution]) -> list[str]:
    plain = [solution for solution in solutions if solution.reason]
    if not plain:
        return []
    names = ", ".join(f"{s.cut.kind} of block {s.cut.block}" for s in plain)
    return [f"only the mean was folded where nothing better was found ({plain[0].reason}): {names}"]
