"""The graphs of one compile as runtimes take them: lowered once for all targets that share a runtime, and proved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from edgeprune.compiler.proving.lowering_proof import noise_for, prove_lowering
from edgeprune_targets.lacks import findings
from edgeprune_targets.lowering import lower
from edgeprune_targets.runtimes import runtime_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from edgeprune.compiler.proving.proofs import Feed
    from edgeprune.core.plan import Plan, Precision
    from edgeprune.report.checked import LoweringProof
    from edgeprune_targets.findings import Finding
    from edgeprune_targets.lowering import Lowered
    from edgeprune_targets.profiles import Target
    from edgeprune_targets.runtimes import Runtime

Name: TypeAlias = Literal["model", "dense"]


class Lowerings:
    """The compiled and the dense graph, lowered on demand.

    Args:
        graphs: canonical, by the stem of the file that they become.
        plan: precision, TensorRT version, whether attention may be fused.
        feed: one input to prove lowerings on; None for noise.
        threads: of ONNX Runtime.
    """

    def __init__(self, graphs: Mapping[Name, ir.Model], plan: Plan, feed: Feed | None, threads: int) -> None:
        self.graphs, self.plan = graphs, plan
        self._feed, self._threads = feed, threads
        self._done: dict[tuple[str, str, bool, bool], Lowered] = {}
        self._proofs: dict[str, LoweringProof] = {}

    def on_device(self, target: Target) -> Runtime:
        """The TensorRT that the device has.

        Raises:
            TargetError: if it cannot have the version that was asked for.
        """
        return runtime_for(target, self.plan.tensorrt or None, "tensorrt")

    def of(self, name: Name, runtime: Runtime, target: Target, *, fused: bool | None = None) -> Lowered:
        """One graph for one runtime; `fused` overrides what the plan says of attention.

        Raises:
            TargetError: if the graph cannot be typed in the plan's precision.
        """
        fused = self.plan.fused_attention if fused is None else fused
        key = (name, runtime.name, target.fp32_products, fused)
        if key not in self._done:
            graph = self.graphs[name]
            self._done[key] = self._lower(graph, runtime, target, self.plan.precision, fused=fused)
            self._prove(runtime, target)
        return self._done[key]

    def findings(self, runtime: Runtime, target: Target) -> tuple[Finding, ...]:
        """What is known against a build of the compiled graph."""
        lowered = self.of("model", runtime, target)
        plan = self.plan
        return findings(lowered.model, runtime, target, precision=plan.precision, fused_attention=plan.fused_attention)

    @property
    def proofs(self) -> tuple[LoweringProof, ...]:
        """One for each runtime that something was lowered for."""
        return tuple(self._proofs.values())

    def _lower(
        self, graph: ir.Model, runtime: Runtime, target: Target, precision: Precision, *, fused: bool
    ) -> Lowered:
        return lower(graph, runtime, target, precision, fused_attention=fused, scan=self.plan.scan)

    def _prove(self, runtime: Runtime, target: Target) -> None:
        """The rewrites in fp32: fp16 may choose other tokens where two are nearly alike, which is no error."""
        if runtime.name in self._proofs:
            return
        canonical = self.graphs["model"]
        feed = self._feed or noise_for(canonical, self.plan.seed)
        lowered = self._lower(canonical, runtime, target, "fp32", fused=self.plan.fused_attention)
        self._proofs[runtime.name] = prove_lowering(canonical, lowered, feed, self._threads)
