"""Cut widths: find them, measure what they carry, choose what stays, and solve the weights anew."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeprune._width_levels import fewest_of, levels_of, step_of
from edgeprune.core.errors import DataError, PlanError
from edgeprune.core.knapsack import Level, allocate
from edgeprune.core.plan import WidthKind, plan_to_json
from edgeprune.core.results import WidthReport
from edgeprune.core.widths.arrays import arrays_to_bytes, digest
from edgeprune.core.widths.find import find_widths
from edgeprune.core.widths.groups import Sublayer, WidthGroup
from edgeprune_calibration.padding import find_padding
from edgeprune_calibration.statistics import collect
from edgeprune_calibration.store import store_for
from edgeprune_calibration.width_solving import WidthSolver, probes_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeprune._bench import Bench
    from edgeprune.core.plan import Plan
    from edgeprune.core.progress import Progress
    from edgeprune.core.widths.arrays import Arrays
    from edgeprune.core.widths.groups import WidthGroup, Widths
    from edgeprune_calibration.data import Dataset
    from edgeprune_calibration.width_solving import WidthSolution

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
    """Width cuts of one model under one plan of token cuts."""

    def __init__(self, bench: Bench, plan: Plan, kinds: tuple[WidthKind, ...]) -> None:
        self.bench, self.plan, self.kinds = bench, plan, kinds
        self.widths = _cuttable(find_widths(bench.loaded.dense, bench.loaded.found), kinds)
        self._solver: WidthSolver | None = None
        self.samples = 0

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
        self._solver = WidthSolver(self.widths, found)
        return self._solver

    def by_shares(self, shares: Mapping[WidthKind, float]) -> dict[str, int]:
        """Units that every group keeps so that each kind keeps its share, where they are missed least."""
        assert self._solver is not None
        keep: dict[str, int] = {}
        for kind, share in shares.items():
            groups = self.widths.of(kind)
            levels = [self._levels(group, share) for group in groups]
            whole = sum(group.size for group in groups)
            floor = sum(options[0].cost for options in levels)
            budget = max(_ceil(share * whole, step_of(groups[0])), floor)
            made = allocate(levels, budget)
            keep |= {group.name: level.keep for group, level in zip(groups, made, strict=True)}
        return keep

    def loss(self, group: WidthGroup, keep: int) -> float:
        """What is lost on the fitted samples when so many units of a group stay."""
        assert self._solver is not None
        return self._solver.loss(group, keep)

    def _levels(self, group: WidthGroup, share: float) -> list[Level]:
        return [Level(keep, keep, self.loss(group, keep)) for keep in levels_of(group, share)]

    def solved(self, keep: Mapping[str, int], progress: Progress) -> Structured:
        """The plan with these widths, and the weights for it."""
        assert self._solver is not None
        with progress.stage("solve widths"):
            solutions = self._solver.solve(keep)
        arrays = {name: array for solution in solutions for name, array in solution.arrays.items()}
        cuts = tuple(solution.cut for solution in solutions)
        sha256 = digest(arrays_to_bytes(arrays)) if cuts else ""
        made = replace(self.plan, widths=cuts, widths_sha256=sha256)
        return Structured(made, arrays, tuple(map(_row, solutions)), tuple(_warnings(solutions)))

    def missed(self, shares: Mapping[WidthKind, float], keep: Mapping[str, int]) -> list[str]:
        """What a person must know where counts that run fast are far from the share that was asked for."""
        out = []
        for kind, share in shares.items():
            groups = self.widths.of(kind)
            kept = sum(keep[group.name] for group in groups) / sum(group.size for group in groups)
            if abs(kept - share) > _NEAR:
                group = groups[0]
                steps = f"multiples of {step_of(group)}, and {fewest_of(group)} or more of {group.size}"
                out.append(f"{kind}: {kept:.0%} is kept where {share:.0%} was asked for; a block keeps {steps}")
        return out


def _cuttable(widths: Widths, kinds: tuple[WidthKind, ...]) -> Widths:
    """The groups that were asked for.

    Raises:
        PlanError: if a kind has none.
    """
    for kind in kinds:
        if not widths.of(kind):
            why = f": {widths.refusals[0]}" if widths.refusals else ""
            msg = f"no {kind} width of this model can be cut{why}"
            raise PlanError(msg, hint=f"leave out --{kind}-keep")
    return replace(widths, groups=tuple(group for group in widths.groups if group.kind in {*kinds, "heads"}))


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
