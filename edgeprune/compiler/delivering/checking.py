"""Check a model against targets: lower it, prove that, name what stands against a build, and try one."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from edgeprune.compiler.proving.lowering_proof import noise_for, prove_lowering
from edgeprune.core.errors import PlanError, TargetError
from edgeprune.report.checked import CheckReport, LoweringProof, TargetCheck
from edgeprune.report.environment import describe_environment
from edgeprune_targets.attentions import count_attentions
from edgeprune_targets.builders.registry import make_builder
from edgeprune_targets.findings import Finding
from edgeprune_targets.lacks import findings
from edgeprune_targets.lowering import lower
from edgeprune_targets.runtimes import runtime_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeprune.compiler.opening.loading import Loaded
    from edgeprune.core.plan import Precision
    from edgeprune.core.progress import Progress
    from edgeprune.core.results import EngineBuild
    from edgeprune.options import Options
    from edgeprune_targets.lowering import Lowered
    from edgeprune_targets.profiles import Target
    from edgeprune_targets.runtimes import Runtime

_BUILDER = "tensorrt-rtx"
_RELATED = {
    "8.7": "8.6",
    "9.0": "8.9",
    "11.0": "12.0",
}  # compute capabilities that TensorRT-RTX has, for those it lacks


class Checker:
    """One model, checked on target after target; what targets share is done once.

    Args:
        loaded: the model in canonical form. Nothing need be recognised in it.
        options: precision, TensorRT version, fused attention, seed, threads.
        build: whether to try engines.
    """

    def __init__(self, loaded: Loaded, options: Options, *, build: bool) -> None:
        self._loaded, self._options, self._build = loaded, options, build
        self._proofs: dict[str, LoweringProof] = {}

    def check(self, targets: Sequence[Target], progress: Progress) -> CheckReport:
        """All targets, in their order.

        Raises:
            PlanError: if there is no target.
            TargetError: if a target cannot have the version of TensorRT.
        """
        if not targets:
            msg = "no target to check the model on"
            raise PlanError(msg, hint="name some with --targets, as in --targets jetson-orin,rtx-4090")
        runtimes = [runtime_for(target, self._options.tensorrt) for target in targets]
        checks = []
        with progress.stage("check", len(targets)) as stage:
            for target, runtime in zip(targets, runtimes, strict=True):
                checks.append(self._one(target, runtime))
                stage.advance(1)
        return CheckReport(
            would_build=all(check.would_build for check in checks),
            source=self._loaded.name,
            sha256=self._loaded.source.sha256,
            inputs=self._loaded.inputs,
            targets=tuple(checks),
            warnings=self._loaded.warnings,
            environment=describe_environment(),
            command=self._options.command,
        )

    def _one(self, target: Target, runtime: Runtime) -> TargetCheck:
        precision = self._options.precision_for((target.name,))
        blank = TargetCheck(target=target.name, runtime=runtime.name, precision=precision, would_build=False)
        try:
            lowered = self._lower(target, runtime, precision)
        except TargetError as error:
            finding = Finding(node="graph", reason=error.message, remedy=error.hint)
            return replace(blank, findings=(finding,), not_tried="the graph cannot be lowered")
        wanted = self._options.fused_attention
        found = findings(lowered.model, runtime, target, precision=precision, fused_attention=wanted)
        proof = self._prove(target, runtime)
        attentions = count_attentions(lowered.model)
        engine, reason = self._try(lowered, target, attentions)
        stand_in = None if engine is not None else self._try_related(lowered, target, attentions)
        sound = proof.passed and not any(finding.severity == "error" for finding in found)
        return replace(
            blank,
            would_build=sound and (engine is None or engine.built),
            findings=(*_of_engine(engine), *_of_proof(proof), *found, *(_of_stand_in(stand_in) if sound else ())),
            opset=lowered.model.opset_imports.get(""),
            changes=lowered.changes,
            proof=proof,
            attentions=attentions,
            engine=engine,
            not_tried=reason,
            stand_in=stand_in,
        )

    def _lower(self, target: Target, runtime: Runtime, precision: Precision) -> Lowered:
        asked = self._options
        return lower(
            self._loaded.dense, runtime, target, precision, fused_attention=asked.fused_attention, scan=asked.scan
        )

    def _prove(self, target: Target, runtime: Runtime) -> LoweringProof:
        """The rewrites in fp32: on noise, fp16 may choose other tokens than fp32 does."""
        if runtime.name not in self._proofs:
            lowered = self._lower(target, runtime, "fp32")
            feed = noise_for(self._loaded.dense, self._options.seed)
            self._proofs[runtime.name] = prove_lowering(self._loaded.dense, lowered, feed, self._options.threads)
        return self._proofs[runtime.name]

    def _try(self, lowered: Lowered, target: Target, attentions: int) -> tuple[EngineBuild | None, str]:
        """An engine, or why none was tried."""
        if not self._build:
            return None, "--no-build"
        if lowered.runtime.family != _BUILDER:
            return None, f"{lowered.runtime.title} builds on the device"
        builder = make_builder(_BUILDER)
        if reason := builder.builds_for(target) or builder.lacking():
            return None, reason
        return _built(lowered, target, attentions), ""

    def _try_related(self, lowered: Lowered, target: Target, attentions: int) -> EngineBuild | None:
        """The same graph for a related GPU: only strong typing makes the two builds alike."""
        capability = _RELATED.get(target.compute_capability, target.compute_capability)
        related = replace(target, compute_capability=capability)
        builder = make_builder(_BUILDER)
        alike = lowered.runtime.typing == "strong" and lowered.runtime.family != _BUILDER
        if not self._build or not alike or builder.builds_for(related) or builder.lacking():
            return None
        return _built(lowered, related, attentions)


def _built(lowered: Lowered, target: Target, attentions: int) -> EngineBuild:
    """An engine that is built to see whether it can be, and not kept."""
    data = ir.to_proto(lowered.model).SerializeToString()
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
        builder = make_builder(_BUILDER)
        (built,) = builder.build(data, [target], Path(folder), name="model", attentions=attentions)
    return replace(built, path=None, manifest=None)


def _of_stand_in(engine: EngineBuild | None) -> tuple[Finding, ...]:
    if engine is None or engine.built:
        return ()
    reason = f"TensorRT-RTX does not build it for compute capability {engine.compute_capability}: {engine.error}"
    remedy = "try a build on the device: its TensorRT may take what TensorRT-RTX does not"
    return (Finding(node="graph", reason=reason, remedy=remedy, severity="warning"),)


def _of_engine(engine: EngineBuild | None) -> tuple[Finding, ...]:
    if engine is None or engine.built:
        return ()
    reason = f"{engine.runtime or engine.builder} does not build it: {engine.error or 'no reason given'}"
    return (Finding(node="graph", reason=reason, remedy="see the other findings; else report this model"),)


def _of_proof(proof: LoweringProof) -> tuple[Finding, ...]:
    if proof.passed:
        return ()
    reason = f"the lowered graph differs by {proof.max_abs_error:.2g} at scale {proof.max_abs_value:.2g}"
    return (Finding(node="graph", reason=reason, remedy="this is a bug in edgeprune; please report the model"),)
