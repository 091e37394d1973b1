"""Engines: those that this machine can build, and for the others the reason."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.core.errors import TargetError
from edgeprune.core.results import EngineBuild
from edgeprune.core.saving import save_model
from edgeprune_calibration.runner import Runner
from edgeprune_targets.attentions import count_attentions
from edgeprune_targets.builders.checking import CheckedBuilder, Trial, yardstick
from edgeprune_targets.builders.driver import find_device
from edgeprune_targets.builders.protocol import Origin
from edgeprune_targets.builders.registry import choose_builder
from edgeprune_targets.runtimes import runtime_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeprune.compiler.delivering.lowerings import Lowerings, Name
    from edgeprune.compiler.proving.proofs import Feed
    from edgeprune.core.progress import Progress
    from edgeprune_targets.builders.protocol import Builder
    from edgeprune_targets.lowering import Lowered
    from edgeprune_targets.profiles import Target
    from edgeprune_targets.runtimes import Runtime

ENGINES = "engine"


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """Targets that one build serves: they share the builder and the graph, not the compute capability."""

    builder: Builder
    runtime: Runtime
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Workshop:
    """Builds the engines of one compile.

    Attributes:
        lowerings: what is built.
        feeds: real inputs to try an engine on, where it runs on this machine.
        plan_sha256: of plan.json, for the manifests.
        dense: whether the dense model's engines are built too, to compare.
    """

    lowerings: Lowerings
    feeds: Sequence[Feed]
    plan_sha256: str
    dense: bool = False

    def build(self, targets: Sequence[Target], out: Path, progress: Progress) -> list[EngineBuild]:
        """One result a target, in their order; engines lie in `out`/engine."""
        orders, done = _orders(targets, self.lowerings.plan.tensorrt)
        with progress.stage("build engines", len(orders)) as stage:
            for order in orders:
                served = self._served(order, out)
                done |= {name: replace(engine, tried=True) for name, engine in served.items()}
                stage.advance(1)
        return [done[target.name] for target in targets]

    def _served(self, order: Order, out: Path) -> dict[str, EngineBuild]:
        first = order.targets[0]
        try:
            wrong = [f for f in self.lowerings.findings(order.runtime, first) if f.severity == "error"]
        except TargetError as error:
            return {target.name: _failed(target, order.builder.name, str(error)) for target in order.targets}
        if wrong:
            reason = "; ".join(map(str, wrong))
            return {target.name: _failed(target, order.builder.name, reason) for target in order.targets}
        results = {build.target: build for build in self._engines("model", order, out)}
        if self.dense:
            fused = {build.target: build.fused_attentions for build in self._engines("dense", order, out)}
            results = {name: replace(b, dense_fused_attentions=fused[name]) for name, b in results.items()}
        return results

    def _engines(self, name: Name, order: Order, out: Path) -> list[EngineBuild]:
        lowered = self.lowerings.of(name, order.runtime, order.targets[0])
        job: dict[str, Any] = {
            "name": name if order.builder.name == "tensorrt-rtx" else f"{name}.{order.builder.name}",
            # No runtime fuses attention in fp32, so that none can be lost.
            "attentions": count_attentions(lowered.model) if self.lowerings.plan.precision == "fp16" else None,
            "origin": Origin(plan_sha256=self.plan_sha256, runtime=order.runtime.name, typing=order.runtime.typing),
        }
        device = find_device()
        here = [t for t in order.targets if device and t.compute_capability == device.compute_capability]
        others = [target for target in order.targets if target not in here]
        made: list[EngineBuild] = []
        with tempfile.TemporaryDirectory(dir=out, prefix=".lowered-") as scratch:
            onnx = _saved(lowered, Path(scratch) / "model.onnx")
            if here:  # they share one engine, as a builder makes one a compute capability
                built = self._checked(name, order, onnx).build(onnx, here[0], out / ENGINES, **job)
                made += [replace(built, target=target.name) for target in here]
            if others:
                made += order.builder.build(onnx, others, out / ENGINES, **job)
        asked_off = not self.lowerings.plan.fused_attention
        return [_placed(replace(b, attention_unfused=b.attention_unfused or asked_off), out) for b in made]

    def _checked(self, name: Name, order: Order, onnx: Path) -> CheckedBuilder:
        """A builder that runs what it built, as this machine has the device."""

        def unfused() -> Path:
            lowered = self.lowerings.of(name, order.runtime, order.targets[0], fused=False)
            return _saved(lowered, onnx.with_name("unfused.onnx"))

        relower = unfused if self.lowerings.plan.fused_attention else None
        return CheckedBuilder(builder=order.builder, trial=self._trial(name, onnx), relower=relower)

    def _trial(self, name: Name, onnx: Path) -> Trial | None:
        """What an engine should give, and how far its precision alone moves that."""
        if not self.feeds:
            return None
        typed = [Runner(onnx, optimise=False).run(feed) for feed in self.feeds]
        exact = [Runner(self.lowerings.graphs[name]).run(feed) for feed in self.feeds]
        precision = self.lowerings.plan.precision
        return Trial(feeds=self.feeds, reference=typed, precision=precision, yardstick=yardstick(typed, exact))


def _saved(lowered: Lowered, path: Path) -> Path:
    save_model(lowered.model, path)
    return path


def _orders(targets: Sequence[Target], tensorrt: str) -> tuple[list[Order], dict[str, EngineBuild]]:
    """What is to be built, and the targets for which this machine cannot."""
    orders: dict[tuple[str, str, bool], Order] = {}
    refused: dict[str, EngineBuild] = {}
    for target in targets:
        builder, reason = choose_builder(_preferring(target, tensorrt))
        if builder is None:
            refused[target.name] = _failed(target, target.runtime, reason)
            continue
        runtime = runtime_for(target, tensorrt or None, builder.name)
        key = (builder.name, runtime.name, target.fp32_products)
        before = orders[key].targets if key in orders else ()
        orders[key] = Order(builder, runtime, (*before, target))
    return list(orders.values()), refused


def _preferring(target: Target, tensorrt: str) -> Target:
    """Who names a version of TensorRT means TensorRT, not TensorRT-RTX."""
    if not tensorrt:
        return target
    return replace(target, builders=tuple(name for name in target.builders if name != "tensorrt-rtx"))


def _failed(target: Target, builder: str, reason: str) -> EngineBuild:
    return EngineBuild(
        target=target.name, builder=builder, compute_capability=target.compute_capability, built=False, error=reason
    )


def _placed(built: EngineBuild, out: Path) -> EngineBuild:
    """Paths relative to the output folder, which is not yet where it will be."""
    path, manifest = (str(Path(p).relative_to(out)) if p else None for p in (built.path, built.manifest))
    return replace(built, path=path, manifest=manifest)
