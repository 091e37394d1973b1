"""From moments to width cuts: what each number of units would cost, and the weights for the numbers that are chosen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.plan import SUBLAYERS, WidthCut
from edgeprune.core.widths.groups import group_name
from edgeprune_calibration._coupled import Front, coupled
from edgeprune_calibration.moments import Moments
from edgeprune_calibration.rotating import logit_basis, value_basis, value_weight
from edgeprune_calibration.solving import Affine, eliminate, held_error, resolve
from edgeprune_calibration.statistics import Probe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from edgeprune.core.linear import Linear
    from edgeprune.core.plan import WidthKind
    from edgeprune.core.widths.groups import HeadLayout, Sublayer, WidthGroup, Widths
    from edgeprune_calibration.moments import Floats, SplitMoments
    from edgeprune_calibration.rotating import LogitBasis, ValueBasis
    from edgeprune_calibration.solving import Elimination, Solved

RESOLVED, MEAN_ONLY, ROTATED, MEAN_ROW = "solved anew", "mean only", "rotated", "mean row"

# In the file of widths: what a cut cost when it was solved. [error, untouched, ridge], NaN for none.
COST = "cost"


@dataclass(frozen=True, slots=True, eq=False)
class WidthSolution:
    """One width cut with everything that it needs.

    Attributes:
        cut: for the plan.
        arrays: for the file of widths.
        method: how the weights that stay were changed.
        ridge: of the regression, where there was one.
        error: held-out squared error of the output that the units make, over its variance.
        untouched: the same if the units were only taken out; None for rotations.
        reason: why not every weight was solved.
    """

    cut: WidthCut
    arrays: dict[str, np.ndarray]
    method: str
    ridge: float | None
    error: float
    untouched: float | None
    reason: str = ""


def probes_of(widths: Widths, kinds: Sequence[str]) -> list[Probe]:
    """What must be measured to cut widths of these kinds."""
    probes: dict[str, Probe] = {}
    for group in widths.groups:
        if group.kind not in kinds:
            continue
        name = site_of(group)
        probes[name] = Probe(name, str(group.consumer.node.outputs[0].name))
        for i, linear in enumerate(group.beside):
            probes[beside_of(group, i)] = Probe(beside_of(group, i), str(linear.node.outputs[0].name))
        if group.kind == "head-size":
            assert group.layout is not None
            product, heads = str(group.layout.product.outputs[0].name), len(group.layout.query.columns)
            probes[f"query.{group.block}"] = Probe(f"query.{group.block}", product, 0, heads)
            probes[f"key.{group.block}"] = Probe(f"key.{group.block}", product, 1, heads, transposed=True)
    for sublayer in widths.sublayers:
        if sublayer.kind in kinds:
            probes[sublayer.name] = Probe(sublayer.name, str(sublayer.join.outputs[0].name), sublayer.index)
    return list(probes.values())


def site_of(group: WidthGroup) -> str:
    """The name of a group's probe: heads and head size of a block end in the same weight."""
    return group.name if group.layout is None else f"attention.{group.block}"


def beside_of(group: WidthGroup, index: int) -> str:
    """The name of the probe of another weight that contracts a group's units."""
    return f"{group.name}.beside{index}"


class WidthSolver:
    """Solves width cuts of one model from its moments."""

    def __init__(self, widths: Widths, moments: Mapping[str, SplitMoments]) -> None:
        self.widths, self.moments = widths, moments
        self._orders: dict[str, Elimination] = {}
        self._bases: dict[int, _Bases] = {}

    def loss(self, group: WidthGroup, keep: int) -> float:
        """Share of the output's variance that is lost on the fitted samples when `keep` units stay."""
        if keep >= group.size:
            return 0.0
        if group.kind == "head-size":
            return self.bases(group).loss(keep)
        order = self.order(group, keep)
        return float(order.loss[group.size - keep - 1]) / max(order.energy, 1e-30)

    def order(self, group: WidthGroup, keep: int) -> Elimination:
        """The order in which the units of an MLP, or heads, go until `keep` are left; ask for the fewest first."""
        known = self._orders.get(group.name)
        if known is None or group.size - len(known.order) > keep:
            front = coupled(self._fronts(group))
            self._orders[group.name] = eliminate(front.moments, front.weight, front.units, keep)
        return self._orders[group.name]

    def _fronts(self, group: WidthGroup) -> list[Front]:
        """The weight that ends a group, and those beside it."""
        names = [site_of(group), *(beside_of(group, i) for i in range(len(group.beside)))]
        linears, rows = [group.consumer, *group.beside], [group.rows, *map(group.rows_of, group.beside)]
        return [
            Front(self.moments[name].fit, _affine(linear).weighed, units)
            for name, linear, units in zip(names, linears, rows, strict=True)
        ]

    def bases(self, group: WidthGroup) -> _Bases:
        """The bases of every head of a block."""
        if group.block not in self._bases:
            assert group.layout is not None
            self._bases[group.block] = _Bases(group, group.layout, self.moments)
        return self._bases[group.block]

    def solve(self, keep: Mapping[str, int]) -> list[WidthSolution]:
        """Cuts and weights for the number of units of every group by its name; groups that keep all are left out.

        Heads come before head sizes: the latter rotate what the former left. Sublayers come last.
        """
        wanted = {name: count for name, count in keep.items() if count < self._group(name).size}
        solved: dict[int, WidthSolution] = {}
        out = []
        for kind in ("mlp", "inner", "heads", "head-size"):
            for group in self.widths.of(kind):
                if group.name not in wanted:
                    continue
                if kind == "head-size":
                    out.append(self._rotated(group, wanted[group.name], solved.get(group.block)))
                    continue
                made = self._eliminated(group, wanted[group.name])
                if kind == "heads":
                    solved[group.block] = made
                out.append(made)
        gone = [sublayer for sublayer in self.widths.sublayers if sublayer.name in wanted]
        return [_told(each) for each in (*out, *(mean_row(each, self.moments[each.name]) for each in gone))]

    def _group(self, name: str) -> WidthGroup | Sublayer:
        group = self.widths.named(name) or self.widths.sublayer(name)
        assert group is not None, name
        return group

    def _eliminated(self, group: WidthGroup, keep: int) -> WidthSolution:
        kept = self.order(group, keep).kept(keep, group.size)
        stays = group.mask(kept)
        made = _solution(group, kept, resolve(self.moments[site_of(group)], affine_of(group), stays[group.rows]))
        arrays = dict(made.arrays)
        for i, linear in enumerate(group.beside):
            solved = resolve(self.moments[beside_of(group, i)], _affine(linear), stays[group.rows_of(linear)])
            arrays[f"{group.name}/beside{i}.weight"] = _fp32(solved.weight)
            arrays[f"{group.name}/beside{i}.bias"] = _fp32(solved.bias)
        return replace(made, arrays=arrays)

    def _rotated(self, group: WidthGroup, keep: int, heads: WidthSolution | None) -> WidthSolution:
        """Rotate and cut every head that is left; the output projection is the one that was solved for those heads."""
        layout, bases = group.layout, self.bases(group)
        assert layout is not None
        left = _heads_left(layout, self.widths, group.block, heads)
        affine = affine_of(group)
        stays = np.zeros(len(affine.weight), bool)
        stays[layout.rows[left]] = True
        weight = affine.weight.copy()
        bias = affine.bias
        if heads is not None:
            weight[~stays] = 0
            weight[stays], bias = (
                heads.arrays[f"heads.{group.block}/consumer.weight"],
                heads.arrays[f"heads.{group.block}/consumer.bias"],
            )
        made = bases.cut(left, keep, weight, bias, affine)
        name = f"head-size.{group.block}"
        arrays = {f"{name}/{role}": array for role, array in made.arrays.items()}
        arrays[f"{name}/kept"] = np.arange(keep)
        cut = WidthCut(kind="head-size", block=group.block, keep=keep, of=group.size)
        return WidthSolution(cut, arrays, ROTATED, None, max(made.error, bases.loss(keep)), None)


def mean_row(sublayer: Sublayer, moments: SplitMoments) -> WidthSolution:
    """The mean of what a sublayer adds to the stream, and how far it is from that on the held-out samples."""
    held = moments.held
    second, variance = float(np.trace(held.second)), float(np.trace(held.covariance))
    away = held.mean - moments.fit.mean
    floor = max(variance, 1e-12 * second, float(np.finfo(np.float32).tiny))
    cut = WidthCut(kind=sublayer.kind, block=sublayer.block, number=sublayer.number, keep=0, of=1)
    arrays = {f"{sublayer.name}/mean": _fp32(moments.all.mean)}
    return WidthSolution(cut, arrays, MEAN_ROW, None, (variance + float(away @ away)) / floor, second / floor)


def affine_of(group: WidthGroup) -> Affine:
    """The weight behind a group's units, in fp64."""
    return _affine(group.consumer)


def _affine(linear: Linear) -> Affine:
    return Affine(linear.weight.astype(np.float64), linear.bias.astype(np.float64), linear.gain)


def method_of(kind: WidthKind, ridge: float | None) -> str:
    """How the weights that stay were changed by a cut of this kind."""
    if kind in SUBLAYERS:
        return MEAN_ROW
    return ROTATED if kind == "head-size" else MEAN_ONLY if ridge is None else RESOLVED


def _told(solution: WidthSolution) -> WidthSolution:
    """With what it cost among its arrays, so that the file tells whoever applies it again."""
    cut = solution.cut
    numbers = [np.nan if value is None else value for value in (solution.error, solution.untouched, solution.ridge)]
    name = f"{group_name(cut.kind, cut.block, cut.number)}/{COST}"
    return replace(solution, arrays={**solution.arrays, name: np.array(numbers, np.float64)})


def _solution(group: WidthGroup, kept: npt.NDArray[np.int64], solved: Solved) -> WidthSolution:
    arrays = {"kept": kept, "consumer.weight": _fp32(solved.weight), "consumer.bias": _fp32(solved.bias)}
    cut = WidthCut(kind=group.kind, block=group.block, number=group.number, keep=len(kept), of=group.size)
    method = method_of(group.kind, solved.ridge)
    named = {f"{group.name}/{role}": array for role, array in arrays.items()}
    return WidthSolution(cut, named, method, solved.ridge, solved.error, solved.untouched, solved.reason)


def _heads_left(layout: HeadLayout, widths: Widths, block: int, heads: WidthSolution | None) -> npt.NDArray[np.int64]:
    """Heads of the layout that a cut of heads leaves."""
    every = np.arange(len(layout.rows))
    group = widths.named(f"heads.{block}")
    if heads is None or group is None:
        return every
    mask = group.mask(heads.arrays[f"{group.name}/kept"])
    return every[mask[group.rows[layout.rows[:, 0]]]]


def _fp32(array: Floats) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=np.float32)


def _pooled(moments: Moments, heads: npt.NDArray[np.int64]) -> Moments:
    """The moments of several heads as those of one, [1, ...]."""
    total, gram = (sums[heads].sum(axis=0, keepdims=True) for sums in (moments.total, moments.gram))
    return Moments(moments.rows * len(heads), total, gram)


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    arrays: dict[str, np.ndarray]
    error: float


class _Bases:
    """Logit and value bases of all heads of one block."""

    def __init__(self, group: WidthGroup, layout: HeadLayout, moments: Mapping[str, SplitMoments]) -> None:
        self.group, self.layout = group, layout
        self.moments = moments[site_of(group)]
        queries, keys = moments[f"query.{group.block}"].all, moments[f"key.{group.block}"].all
        sigma, weighed = self.moments.all.covariance, affine_of(group).weighed
        # Heads that share keys share the bases too: their queries are pooled, and so are their outputs.
        members = [np.flatnonzero(layout.shared == shared) for shared in range(len(layout.key.columns))]
        self.logits: list[LogitBasis] = [logit_basis(_pooled(queries, m), _pooled(keys, m), 0) for m in members]
        self.values: list[ValueBasis] = [
            value_basis(
                np.mean([sigma[np.ix_(rows, rows)] for rows in layout.rows[m]], axis=0),
                np.concatenate([weighed[rows] for rows in layout.rows[m]], axis=1),
            )
            for m in members
        ]
        self.energy = float((weighed * (sigma @ weighed)).sum())

    def loss(self, keep: int) -> float:
        """Share of logits lost in the mean of heads, plus share of the output's variance lost."""
        logits = float(np.mean([basis.loss[keep] for basis in self.logits]))
        return logits + float(sum(basis.loss[keep] for basis in self.values)) / max(self.energy, 1e-30)

    def cut(self, left: npt.NDArray[np.int64], keep: int, weight: Floats, bias: Floats, affine: Affine) -> _Cut:
        """Projections and output weight with `keep` coordinates of every head that is left, as the pass wants them."""
        layout, every = self.layout, self.moments.all
        sigma, mean = every.covariance, every.mean
        out = np.zeros_like(weight)
        full = np.zeros_like(weight)
        for head in left:
            rows, basis = layout.rows[head], self.values[layout.shared[head]].basis[:, :keep]
            out[rows[:keep]] = value_weight(sigma[np.ix_(rows, rows)], basis, weight[rows])
            full[rows] = basis @ out[rows[:keep]]
        shifted = bias + mean @ weight - mean @ full
        stays = layout.rows[left][:, :keep].reshape(-1)
        arrays = {"consumer.weight": _fp32(out[np.sort(stays)]), "consumer.bias": _fp32(shifted)}
        arrays |= self._projections(left, keep)
        return _Cut(arrays, held_error(self.moments.held, affine, full, shifted, np.arange(len(full))))

    def _projections(self, left: npt.NDArray[np.int64], keep: int) -> dict[str, np.ndarray]:
        """Rotated projections without the columns that go."""
        shared = np.unique(self.layout.shared[left])
        parts = [(self.layout.query, left, [self.logits[own].query for own in self.layout.shared])]
        parts.append((self.layout.key, shared, [basis.key for basis in self.logits]))
        parts.append((self.layout.value, shared, [basis.basis for basis in self.values]))
        arrays = {}
        for i, linear in enumerate(self.group.producers):
            weight, bias = linear.weight.astype(np.float64), linear.bias.astype(np.float64)
            new_weight, new_bias = np.zeros_like(weight), np.zeros_like(bias)
            stays = []
            for part, heads, bases in parts:
                for head in heads if part.linear.node is linear.node else ():
                    columns, basis = part.columns[head], bases[head][:, :keep]
                    new_weight[:, columns[:keep]] = weight[:, columns] @ basis
                    new_bias[columns[:keep]] = bias[columns] @ basis
                    stays.append(columns[:keep])
            kept = np.sort(np.concatenate(stays))
            arrays[f"producer{i}.weight"] = _fp32(new_weight[:, kept])
            if linear.bias_index is not None:
                arrays[f"producer{i}.bias"] = _fp32(new_bias[kept])
        return arrays
