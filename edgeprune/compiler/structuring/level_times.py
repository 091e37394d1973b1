"""What the levels of widths take on targets, by the latency model: modelled, no clock has seen it."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.plan import SUBLAYERS, WidthCut
from edgeprune.core.widths.groups import Sublayer
from edgeprune_targets.latency import estimate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from edgeprune.compiler.deciding.bench import Bench
    from edgeprune.compiler.structuring.structure import Item
    from edgeprune.core.plan import Plan, WidthKind
    from edgeprune.core.widths.arrays import Arrays
    from edgeprune_targets.target import Target

# A level that is not faster by this share of its own block gains nothing that the model could tell.
_LEAST = 1e-3

ORDER: tuple[WidthKind, ...] = ("mlp", "inner", "heads", "head-size", *SUBLAYERS)


def bare(bench: Bench, plan: Plan, items: Sequence[Item], keep: Mapping[str, int]) -> ir.Model:
    """The graph with so many units and no solution: only its cost is of interest."""
    cut = [item for kind in ORDER for item in items if item.kind == kind and keep.get(item.name, item.size) < item.size]
    arrays: dict[str, np.ndarray] = {}
    for item in cut:
        if isinstance(item, Sublayer):
            arrays[f"{item.name}/mean"] = np.zeros(item.row, np.float32)
        else:
            arrays[f"{item.name}/kept"] = np.arange(keep[item.name])
    cuts = tuple(WidthCut(kind=i.kind, block=i.block, number=i.number, keep=keep[i.name], of=i.size) for i in cut)
    return built(bench, replace(plan, widths=cuts, widths_sha256=""), arrays)


def built(bench: Bench, plan: Plan, arrays: Arrays) -> ir.Model:
    """The dense model with a plan that cuts widths applied."""
    return replace(bench, arrays=arrays).build(plan)


class LevelTimes:
    """Modelled time of each level of each width, in shares of the whole run, averaged over the targets.

    All widths of one kind are set to a level at once, and the blocks' own times are read off: one graph a level is
    modelled, not one for each block and level. Sublayers are taken out one by one.
    """

    def __init__(self, bench: Bench, plan: Plan, items: Sequence[Item], targets: Sequence[Target]) -> None:
        self.bench, self.plan, self.items, self.targets = bench, plan, items, targets
        self._known: dict[tuple[str, int], dict[int, float]] = {}

    @cached_property
    def whole(self) -> dict[int, float]:
        """Time by block with nothing cut; the sum is one."""
        return self._times(self.bench.build(self.plan))

    @cached_property
    def _dense(self) -> list[float]:
        graph = self.bench.build(self.plan)
        return [estimate(graph, target, self.plan.precision).p50_ms for target in self.targets]

    def cost(self, item: Item, keep: int) -> float:
        """Time of the item's block at a level less that with the item whole: zero, or what is saved with its sign."""
        if keep >= item.size:
            return 0.0
        if isinstance(item, Sublayer):
            key = item.name, 0
            if key not in self._known:
                self._known[key] = {0: sum(self._times(self._at([item], 0)).values())}
            return self._known[key][0] - sum(self.whole.values())
        key = item.kind, keep
        if key not in self._known:
            self._known[key] = self._times(self._at([i for i in self.items if i.kind == item.kind], keep))
        beside = sum(other.kind == item.kind and other.block == item.block for other in self.items)
        return (self._known[key].get(item.block, 0.0) - self.whole.get(item.block, 0.0)) / beside

    def faster(self, item: Item, levels: Sequence[int]) -> tuple[list[int], list[int]]:
        """The levels, ascending, of which each is faster than all larger ones; and those that are not."""
        kept, dropped = [item.size], list[int]()
        for level in sorted(levels, reverse=True):
            if level >= item.size:
                continue
            gain = self.cost(item, kept[-1]) - self.cost(item, level)
            (kept if gain > _LEAST * self.whole.get(item.block, 1.0) else dropped).append(level)
        return kept[::-1], dropped[::-1]

    def _at(self, items: Sequence[Item], keep: int) -> ir.Model:
        return bare(self.bench, self.plan, self.items, {i.name: keep for i in items if keep < i.size})

    def _times(self, graph: ir.Model) -> dict[int, float]:
        """Share of the whole run by block, the mean over targets."""
        out: dict[int, float] = {}
        for target, dense in zip(self.targets, self._dense, strict=True):
            for part in estimate(graph, target, self.plan.precision).blocks:
                out[part.block] = out.get(part.block, 0.0) + part.ms / dense / len(self.targets)
        return out
