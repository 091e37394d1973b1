"""Findings about attention that the runtime will not fuse, or whose fused kernel is known to be wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeprune.core.graph import consumers, name_of, static_shape
from edgeprune_targets.attentions import is_attention, own_core
from edgeprune_targets.findings import Finding, Severity
from edgeprune_targets.operators import numbers_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune_targets.profiles import Target
    from edgeprune_targets.runtimes import Runtime

_DOCUMENTED = (16, 256, 8)  # smallest, largest, step of the head size: NVIDIA's page on fused attention, 10.x
_PROBED = (9, 256, 1)  # the same of TensorRT-RTX 1.7.1
# TensorRT-RTX 1.7.1 has a second kernel, `_gemm_mha_v1`, that holds whole rows of scores and takes what stands between
# the products as it is: probed with head sizes 16 to 128 and 17 to 577 keys.
_WHOLE_ROW_SIZES, _LONGEST_WHOLE_ROW = frozenset({32, 64}), 512
_ADDITIVE = frozenset({"Cast", "Add", "Identity", "Where", "Reshape", "Transpose", "Dropout", "IsNaN", "Not"})


def fusion_findings(model: ir.Model, runtime: Runtime, target: Target, precision: str) -> Iterator[Finding]:
    """Why attentions stay unfused; at most one reason an attention."""
    for anchor in model.graph:
        if not is_attention(anchor) or anchor.op_type != "Softmax":
            continue
        found = _of_device(runtime, target, precision) or _of_shape(anchor, runtime)
        if found is not None:
            reason, remedy = found
            yield _found(anchor, f"attention is not fused: {reason}", remedy, "warning")
        elif (_shape(anchor.outputs[0]) or (0, 0))[-2] == 1:
            reason = "attention of a single query may stay unfused: the builder weighs heads against keys"
            yield _found(anchor, reason, "nothing: it is little work", "note")
        elif (hazard := _hazard(runtime, target)) is not None:
            remedy = "compare outputs on the device; `--no-fused-attention` keeps attention out of such kernels"
            yield _found(anchor, hazard, remedy, "note")


def _found(node: ir.Node, reason: str, remedy: str, severity: Severity) -> Finding:
    return Finding(node=name_of(node), reason=reason, remedy=remedy, severity=severity)


def _of_device(runtime: Runtime, target: Target, precision: str) -> tuple[str, str] | None:
    capability = numbers_of(target.compute_capability)
    if capability < (7, 5):
        return (
            f"there are no kernels for compute capability {target.compute_capability}",
            "take a newer device for more",
        )
    if runtime.version == "8.5" and capability == (8, 7):
        return f"{runtime.title} has no such kernels for Orin", "JetPack 6.2 or later brings TensorRT with them"
    if precision == "fp32":
        return "there are no fused kernels for fp32", "compile with `--precision fp16`"
    return None


def _of_shape(anchor: ir.Node, runtime: Runtime) -> tuple[str, str] | None:
    """The first reason in the graph around one softmax."""
    core = own_core(anchor)
    products = [node for node in anchor.graph or () if node in core and node.op_type in {"MatMul", "Einsum"}]
    if len(products) < 2:
        return None
    scores, mix = products[0], products[-1]
    query, values, probs = (_shape(v) for v in (scores.inputs[0], mix.inputs[1], anchor.outputs[0]))
    if second := _second_reader(core, mix):
        return f"{second} reads its scores a second time", "compute scores beside the attention, from q and k"
    if any(value.dtype is not None and value.dtype.name == "FLOAT" for value in scores.outputs) and _is_half(mix):
        return "its scores are a product in fp32", "let the product be fp16; the softmax may stay fp32"
    whole = runtime.family == "tensorrt-rtx" and _holds_whole_rows(query, probs)
    if not whole and _changes_probabilities(core, anchor):
        return "its probabilities are changed after the softmax", "mask the scores before the softmax instead"
    if not query or not values or not probs:
        return None
    return _of_sizes(query, values, probs, runtime) or _of_heads(query, masked=not whole and _is_masked(core))


def _holds_whole_rows(query: tuple[int, ...], probs: tuple[int, ...]) -> bool:
    return bool(query and probs) and query[-1] in _WHOLE_ROW_SIZES and probs[-1] <= _LONGEST_WHOLE_ROW


def _of_sizes(
    query: tuple[int, ...], values: tuple[int, ...], probs: tuple[int, ...], runtime: Runtime
) -> tuple[str, str] | None:
    size, rtx = query[-1], runtime.family == "tensorrt-rtx"
    low, high, step = _PROBED if rtx else _DOCUMENTED
    if size != values[-1]:
        remedy = "prune queries, keys and values to one head size"
        return f"queries have head size {size}, values {values[-1]}", remedy
    if not low <= size <= high or size % step:
        every = f" in steps of {step}" if step > 1 else ""
        return f"head size {size}, expected {low} to {high}{every}", "prune heads instead of head size, or pad it"
    if probs[-1] == probs[-2] == 1:
        return "it has a single token", "none is needed: it is no work"
    if len(query) == 3 and not rtx:
        return "heads and batch share an axis, expected four axes", "export attention as [batch, heads, tokens, size]"
    return None


def _of_heads(query: tuple[int, ...], *, masked: bool) -> tuple[str, str] | None:
    """A single head, as probed with TensorRT-RTX 1.7: no kernel takes it at batch 1, only an older one with a mask."""
    heads = query[1] if len(query) == 4 else 1
    if len(query) < 3 or (heads == 1 and query[0] == 1):
        return "it has a single head at batch 1", "keep two heads, or a larger batch"
    if len(query) == 4 and heads == 1 and masked:
        return "it has a single head and a mask", "keep two heads"
    return None


def _is_masked(core: set[ir.Node]) -> bool:
    return any(node.op_type in {"Add", "Where"} for node in core)


def _second_reader(core: set[ir.Node], mix: ir.Node) -> str | None:
    """Who reads the logits or the probabilities beside the attention itself."""
    for node in core:
        if node is mix:
            continue
        for value in node.outputs:
            if value.is_graph_output():
                return f"the graph output `{value.name}`"
            outside = [reader for reader in consumers(value) if reader not in core]
            if outside:
                return f"`{name_of(outside[0])}`"
    return None


def _changes_probabilities(core: set[ir.Node], anchor: ir.Node) -> bool:
    """Whether anything but casts and moves stands between the softmax and the values."""
    pending = [reader for reader in consumers(anchor.outputs[0]) if reader in core]
    while pending:
        node = pending.pop()
        if node.op_type in {"MatMul", "Einsum"}:
            continue
        if node.op_type not in _ADDITIVE or node.op_type == "Add":
            return True
        pending += [reader for value in node.outputs for reader in consumers(value) if reader in core]
    return False


def _is_half(node: ir.Node) -> bool:
    return any(value.dtype is not None and value.dtype.name in {"FLOAT16", "BFLOAT16"} for value in node.outputs)


def _shape(value: ir.Value | None) -> tuple[int, ...]:
    return (static_shape(value) if value is not None else None) or ()


def _hazard(runtime: Runtime, target: Target) -> str | None:
    """Versions whose fused attention has given wrong numbers."""
    if runtime.version == "10.3":
        return f"fused attention of {runtime.title} has been wrong in fp16 for some ViTs (NVIDIA/TensorRT issue 4723)"
    if runtime.version == "10.16" and target.compute_capability in {"12.0", "12.1"}:
        return f"fused attention of {runtime.title} has been wrong on {target.sm} (NVIDIA/TensorRT issue 4837)"
    return None
