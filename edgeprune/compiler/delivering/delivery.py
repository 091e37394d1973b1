"""Fill the output folder: graph, plan, engines, deploy folders, pictures, and the report last."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeprune.compiler.delivering.building import Workshop
from edgeprune.compiler.delivering.bundling import write_bundles
from edgeprune.compiler.delivering.lowerings import Lowerings
from edgeprune.compiler.delivering.reporting import PAGE, REPORT, written_bytes
from edgeprune.core.loading import digest_of
from edgeprune.core.plan import plan_to_json
from edgeprune.core.saving import save_model
from edgeprune_calibration.token_maps import collect_token_maps, save_worst
from edgeprune_targets.bundle import GUIDE
from edgeprune_targets.language_side import language_side
from edgeprune_targets.lowering.scans import standard_scans

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnx_ir as ir

    from edgeprune.compiler.delivering.lowerings import Name
    from edgeprune.compiler.proving.proofs import Feed
    from edgeprune.core.progress import Progress
    from edgeprune.core.results import EngineBuild
    from edgeprune.options import Options
    from edgeprune.report import Report
    from edgeprune_calibration.data import Dataset
    from edgeprune_targets.profiles import Target

_TRIED = 8  # samples that an engine is held against ONNX Runtime on


class Delivery:
    """What is written for one compile.

    Args:
        graphs: dense and pruned, canonical.
        targets: in the user's order.
        data: the samples that score; None without data.
        options: of the user.
        progress: is told what is going on.
    """

    def __init__(
        self,
        graphs: tuple[ir.Model, ir.Model],
        targets: Sequence[Target],
        data: Dataset | None,
        options: Options,
        progress: Progress,
    ) -> None:
        self.dense, self.pruned = graphs
        self.targets, self.data = targets, data
        self.options, self.progress = options, progress

    def write(self, folder: Path, report: Report) -> Report:
        """Fill `folder`; the report that lies in it."""
        plan = plan_to_json(report.plan)
        save_model(standard_scans(self.pruned, report.plan.scan), folder / "model.onnx")
        (folder / "plan.json").write_bytes(plan)
        guide = language_side(self.pruned, report.plan)
        if guide is not None:
            (folder / GUIDE).write_text(guide, encoding="utf-8")
        (folder / "engine").mkdir()
        report = replace(report, pruned=replace(report.pruned, sha256=digest_of(folder / "model.onnx")))
        report = self._for_targets(folder, report, plan)
        if not any((folder / "engine").iterdir()):
            (folder / "engine").rmdir()
        report = self._pictured(folder, report)
        page, text = folder / PAGE, folder / REPORT
        text_bytes, page_bytes = written_bytes(report, folder)
        page.write_bytes(page_bytes)
        text.write_bytes(text_bytes)
        return report

    def _for_targets(self, folder: Path, report: Report, plan: bytes) -> Report:
        if not self.targets:
            return report
        feeds = self._feeds(next(iter(report.plan.inputs.values()))[0])
        graphs: dict[Name, ir.Model] = {"model": self.pruned, "dense": self.dense}
        lowerings = Lowerings(graphs, report.plan, feeds[0] if feeds else None, self.options.threads)
        engines: list[EngineBuild] = []
        if self.options.engine:
            digest = hashlib.sha256(plan).hexdigest()
            workshop = Workshop(lowerings, feeds, digest, dense=self.options.dense_engine)
            engines = workshop.build(self.targets, folder, self.progress)
        built = {engine.target for engine in engines if engine.built}
        there = [target for target in self.targets if target.name not in built]
        with self.progress.stage("write deploy folders"):
            write_bundles(lowerings, there, folder, plan=plan, feed=feeds[0] if feeds else None)
        warnings = [
            *_failed_builds(engines),
            *report.warnings,
            *_lost_fusion(engines),
            *self._findings(lowerings, there),
        ]
        warnings += [_unproved(proof.runtime) for proof in lowerings.proofs if not proof.passed]
        return replace(report, engines=tuple(engines), lowerings=lowerings.proofs, warnings=tuple(warnings))

    def _findings(self, lowerings: Lowerings, there: Sequence[Target]) -> list[str]:
        """What stands against a build on the device, where nobody can see it yet."""
        found = [(target, lowerings.findings(lowerings.on_device(target), target)) for target in there]
        return [f"{target.name}: {f}" for target, every in found for f in every if f.severity != "note"]

    def _feeds(self, batch: int) -> list[Feed]:
        if self.data is None:
            return []
        few = self.data.subset(range(min(_TRIED, len(self.data))))
        return [feed for _, feed in few.feeds(batch=batch)]

    def _pictured(self, folder: Path, report: Report) -> Report:
        """With maps of what became of tokens, and the worst samples."""
        if self.data is None:
            return report
        with self.progress.stage("draw token maps"):
            maps = collect_token_maps(self.pruned, self.data, report.plan, folder, threads=self.options.threads)
            worst = save_worst(report.validation.drift, self.data, folder)
        return replace(report, token_maps=maps, worst_samples=worst)


def _failed_builds(engines: Sequence[EngineBuild]) -> list[str]:
    """Builds that were tried here and failed; a device that builds for itself is no failure."""
    return [f"{e.target}: {e.builder} built no engine: {e.error}" for e in engines if not e.built and e.tried]


def _lost_fusion(engines: Sequence[EngineBuild]) -> list[str]:
    lost = [e for e in engines if e.built and not e.attention_unfused]
    lost = [e for e in lost if e.fused_attentions is not None and e.fused_attentions < (e.attentions or 0)]
    return [f"{e.target}: only {e.fused_attentions} of {e.attentions} attentions are fused" for e in lost]


def _unproved(runtime: str) -> str:
    return f"the graph lowered for {runtime} does not give the same numbers as the compiled one: report this model"
