"""What stands against a build, named before the builder is asked: its own messages come late and say little."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeprune.core.graph import name_of
from edgeprune_targets._fusion import fusion_findings
from edgeprune_targets._limits import limit_findings
from edgeprune_targets._support import support_findings
from edgeprune_targets.findings import SEVERITIES, Finding

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune_targets.profiles import Target
    from edgeprune_targets.runtimes import Runtime


def findings(
    model: ir.Model,
    runtime: Runtime,
    target: Target,
    *,
    precision: str | None = None,
    fused_attention: bool = True,
) -> tuple[Finding, ...]:
    """What is known against a build of this graph, errors first; nodes that share a reason share a finding.

    Empty means that nothing known stands against it, not that the build will succeed.

    Args:
        model: as the runtime is given it: lowered, with static shapes.
        runtime: its facts.
        target: the device.
        precision: what the engine computes in, where a builder's flag says so; None for what the graph says.
        fused_attention: whether it is wanted; what was lowered to stay unfused is no finding.
    """
    found = [finding for node in model.graph.all_nodes() for finding in _of_node(node, runtime, target)]
    found += [*_opset(model, runtime), *_inputs(model, runtime)]
    if fused_attention:
        found += fusion_findings(model, runtime, target, precision or _precision_of(model))
    return tuple(sorted(_merged(found), key=lambda finding: SEVERITIES.index(finding.severity)))


def _of_node(node: ir.Node, runtime: Runtime, target: Target) -> Iterator[Finding]:
    unsupported = list(support_findings(node, runtime, target))
    yield from unsupported
    if not any(finding.severity == "error" for finding in unsupported):
        yield from limit_findings(node, runtime)


def _opset(model: ir.Model, runtime: Runtime) -> Iterator[Finding]:
    opset = model.opset_imports.get("", 0)
    if opset > runtime.opset:
        reason = f"the graph has opset {opset}, {runtime.title} reads up to {runtime.opset}"
        yield Finding(node="graph", reason=reason, remedy=f"export it with opset {runtime.opset} or lower")


def _inputs(model: ir.Model, runtime: Runtime) -> Iterator[Finding]:
    for value in model.graph.inputs:
        if not runtime.int64 and value.dtype is not None and value.dtype.name == "INT64":
            reason = f"the input is INT64, {runtime.title} binds it as INT32"
            yield Finding(node=name_of(value), reason=reason, remedy="feed INT32 on the device", severity="note")


def _precision_of(model: ir.Model) -> str:
    types = {value.dtype.name for node in model.graph for value in node.outputs if value.dtype is not None}
    return "fp16" if types & {"FLOAT16", "BFLOAT16"} else "fp32"


def _merged(found: Iterable[Finding]) -> Iterator[Finding]:
    """One finding for all nodes of one reason, in the order of the graph."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    first: dict[tuple[str, str, str], Finding] = {}
    for finding in found:
        key: tuple[str, str, str] = (finding.severity, finding.reason, finding.remedy)
        first.setdefault(key, finding)
        groups.setdefault(key, []).append(finding.node)
    for key, nodes in groups.items():
        yield replace(first[key], also=tuple(node for node in dict.fromkeys(nodes) if node != first[key].node))
