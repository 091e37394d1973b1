"""What the benchmark of structure shares: a model on the bench with its widths measured, and ways to cut them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.compiler.opening.loading import opened
from edgeprune.compiler.structuring.width_levels import levels_of
from edgeprune.core.costs import count_macs
from edgeprune.core.knapsack import Level, allocate
from edgeprune.core.plan import WidthCut
from edgeprune.core.widths.find import find_widths
from edgeprune.options import Options
from edgeprune_calibration.drift import measure_drift
from edgeprune_calibration.reference import OnnxReference, record
from edgeprune_calibration.runner import Runner
from edgeprune_calibration.statistics import collect
from edgeprune_calibration.width_solving import WidthSolver, affine_of, probes_of, site_of
from edgeprune_passes.remove_channels import RemoveChannels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import onnx_ir as ir

    from edgeprune.core.widths.groups import WidthGroup

KINDS = ("mlp", "heads", "head-size")


@dataclass(frozen=True, slots=True)
class Images:
    """Prepared photographs as a dataset."""

    names: tuple[str, ...]
    arrays: Sequence[np.ndarray]
    input: str

    def __len__(self) -> int:
        return len(self.names)

    def feeds(self, indices: Sequence[int] | None = None, batch: int = 1):
        """As `Dataset.feeds`, at batch one."""
        assert batch == 1
        for i in range(len(self)) if indices is None else indices:
            yield (self.names[i],), {self.input: self.arrays[i]}


class Subject:
    """A dense model, its widths and their moments on the calibration images."""

    def __init__(self, path: Path, shape: tuple[int, ...], input_name: str, fit: Images, threads: int) -> None:
        with opened(path, Options(inputs={input_name: shape})) as loaded:
            self.dense = loaded.dense
            self.widths = find_widths(loaded.dense, loaded.found)
        self.threads = threads
        self.moments = collect(self.dense, probes_of(self.widths, KINDS), fit, batch=1, threads=threads)  # type: ignore[arg-type]
        self.solver = WidthSolver(self.widths, self.moments)
        self.macs = count_macs(self.dense)

    def at_macs(self, share: float, kinds: Sequence[str]) -> dict[str, int]:
        """Units that stay for a share of the model's MACs, by the knapsack over losses; equal steps of all kinds."""
        groups = [g for g in self.widths.groups if g.kind in kinds]
        levels = [
            [Level(n, n * self.unit_macs(g), self.solver.loss(g, n)) for n in levels_of(g, share)] for g in groups
        ]
        whole = sum(each[-1].cost for each in levels)
        made = allocate(levels, whole - (1 - share) * self.macs)
        return {g.name: level.keep for g, level in zip(groups, made, strict=True)}

    def unit_macs(self, group: WidthGroup) -> float:
        """MACs that one unit of a group costs: an alone cut of one level, counted."""
        keep = levels_of(group)[-2]
        return (self.macs - count_macs(self.cut({group.name: keep}, bare=True))) / (group.size - keep)

    def solved(self, keep: Mapping[str, int]) -> ir.Model:
        """Our cut."""
        solutions = self.solver.solve(keep)
        arrays = {name: array for s in solutions for name, array in s.arrays.items()}
        return self._applied(tuple(s.cut for s in solutions), arrays)

    def cut(self, keep: Mapping[str, int], *, how: str = "magnitude", bare: bool = False, seed: int = 0) -> ir.Model:
        """A baseline: units by `magnitude`, `flap` (fluctuation, mean folded) or `random`; nothing is solved."""
        rng = np.random.default_rng(seed)
        cuts, arrays = [], {}
        for name, count in keep.items():
            group = self.widths.named(name)
            assert group is not None
            if count >= group.size:
                continue
            scores = rng.random(group.size) if bare or how == "random" else self._scores(group, how)
            kept = np.sort(np.argsort(-scores, kind="stable")[:count])
            cuts.append(WidthCut(kind=group.kind, block=group.block, number=group.number, keep=count, of=group.size))
            arrays[f"{name}/kept"] = kept
            if how == "flap" and not bare:
                affine, gone = affine_of(group), ~group.mask(kept)[group.rows]
                mean = self.moments[site_of(group)].all.mean
                arrays[f"{name}/consumer.bias"] = (affine.bias + mean[gone] @ affine.weight[gone]).astype(np.float32)
        return self._applied(tuple(cuts), arrays)

    def _scores(self, group: WidthGroup, how: str) -> np.ndarray:
        weight = (affine_of(group).weighed ** 2).sum(1)
        variance = np.diag(self.moments[site_of(group)].all.covariance)
        rows = weight * variance if how == "flap" else weight
        return np.bincount(group.rows, weights=rows, minlength=group.size)

    def _applied(self, cuts: tuple[WidthCut, ...], arrays: Mapping[str, np.ndarray]) -> ir.Model:
        model = self.dense.clone()
        RemoveChannels(tuple(sorted(cuts, key=lambda cut: KINDS.index(cut.kind))), arrays).apply(model)
        return model


class Scorer:
    """The dense model's outputs on the scored images, and how far another model is from them."""

    def __init__(self, dense: ir.Model, images: Images, truth: np.ndarray | None, threads: int) -> None:
        self.images, self.truth, self.threads, self.dense = images, truth, threads, count_macs(dense)
        self.recording = record(OnnxReference(dense, threads=threads), images)  # type: ignore[arg-type]

    def row(self, model: ir.Model | bytes, macs: float | None = None) -> dict[str, object]:
        """KL, agreement, top-1 in percent, relative error and correlation of the first output."""
        runner = Runner(model, threads=self.threads)
        drift = next(iter(measure_drift(self.recording, runner, self.images).values()))  # type: ignore[arg-type]
        share = macs if macs is not None else count_macs(model) / self.dense  # type: ignore[arg-type]
        agreement = None if drift.top1_agreement is None else 100 * drift.top1_agreement
        out: dict[str, object] = {"macs_ratio": share, "kl": drift.kl, "agreement": agreement}
        if self.truth is not None:
            name = runner.outputs[0].name
            found = [runner.run(feed)[name].argmax() for _, feed in self.images.feeds()]
            out["top1"] = 100 * float(np.mean(np.array(found) == self.truth))
        return out | {"relative_error": drift.relative_error, "correlation": drift.correlation}
