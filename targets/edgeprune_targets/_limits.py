"""Findings about what a parser wants of an operator that it has: sizes, constants, attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from edgeprune.core.costs import trips
from edgeprune.core.graph import constant_of, name_of, static_shape
from edgeprune_targets.findings import Finding, Severity
from edgeprune_targets.lowering._rewrite import int_of, only_first_output, text_of
from edgeprune_targets.lowering.scan_loop import BODY
from edgeprune_targets.operators import numbers_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune_targets.runtimes import Runtime

_Rule: TypeAlias = Callable[["ir.Node", "Runtime"], Iterator[Finding]]
_EVER = (99, 0)
# Inputs that must be constant, in versions before the one named; TensorRT-RTX is taken as the newest.
# Sources: docs/operators.md of 8.5, 8.6, 10.1, 10.15; CumSum: notes of 10.8; Slice, Pad: changelogs of 10.3 and 10.4.
_CONSTANT: dict[str, tuple[int, str, tuple[int, ...]]] = {
    "TopK": (1, "K", (8, 6)),
    "CumSum": (1, "axis", (10, 8)),
    "Slice": (3, "axes", (10, 3)),
    "Pad": (3, "axes", (10, 4)),
    "OneHot": (1, "depth", _EVER),
    "Squeeze": (1, "axes", _EVER),
    "Unsqueeze": (1, "axes", _EVER),
    "ReduceSum": (1, "axes", _EVER),
}
_ZERO_POINT = "quantise symmetrically: every zero point 0"
_INT32 = np.iinfo(np.int32)


def limit_findings(node: ir.Node, runtime: Runtime) -> Iterator[Finding]:
    """What the parser would refuse, or read otherwise, in one node of a type that it has."""
    if node.domain in {"", "ai.onnx"}:
        yield from _constants(node, runtime)
        for rule in _RULES.get(node.op_type, ()):
            yield from rule(node, runtime)
        if not runtime.int64 and node.op_type not in {"Slice", "Constant", "Cast"}:
            yield from _large_integers(node, runtime)


def _found(node: ir.Node, reason: str, remedy: str, severity: Severity = "error") -> Finding:
    return Finding(node=name_of(node), reason=reason, remedy=remedy, severity=severity)


def _before(runtime: Runtime, version: tuple[int, ...]) -> bool:
    return runtime.family == "tensorrt" and numbers_of(runtime.version) < version


def _constants(node: ir.Node, runtime: Runtime) -> Iterator[Finding]:
    index, word, until = _CONSTANT.get(node.op_type, (0, "", ()))
    if not word or index >= len(node.inputs) or node.inputs[index] is None:
        return
    if constant_of(node.inputs[index]) is None and (until == _EVER or _before(runtime, until)):
        reason = f"{runtime.title} wants {word} of {node.op_type} as a constant"
        yield _found(node, reason, f"export the model with a fixed {word}")


def _topk(node: ir.Node, runtime: Runtime) -> Iterator[Finding]:
    size = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
    keep = 0 if size is None else int(size.reshape(-1)[0])
    if keep > runtime.topk_limit:
        reason = f"TopK keeps {keep}, {runtime.title} at most {runtime.topk_limit}"
        yield _found(node, reason, "cut fewer tokens at once, or merge")
    shape = static_shape(node.inputs[0]) if node.inputs[0] is not None else None
    axis = int_of(node, "axis", -1)
    if shape is not None and len(shape) - axis % len(shape) > 4:
        reason = f"TopK along axis {axis} of {len(shape)}, {runtime.title} takes one of the last four"
        yield _found(node, reason, "move the axis back, or drop axes of size 1")


def _scatter(node: ir.Node, runtime: Runtime) -> Iterator[Finding]:
    kind = text_of(node, "reduction", "none")
    if kind == "none":
        return
    remedy = "write it as a one-hot MatMul"
    if _before(runtime, (9, 0)):
        yield _found(
            node, f"{runtime.title} ignores the reduction of {node.op_type} and computes wrong numbers", remedy
        )
    elif runtime.family == "tensorrt-rtx" or node.op_type == "ScatterND":
        yield _found(node, f"{runtime.title} has no {node.op_type} with a reduction", remedy)
    else:
        reason = f"{node.op_type} with a reduction needs the plug-in library of {runtime.title}"
        yield _found(node, reason, remedy, "warning")


def _nonzero(node: ir.Node, runtime: Runtime) -> Iterator[Finding]:
    if runtime.family == "tensorrt":
        reason = f"the result of {node.op_type} has no static size: what follows is not fused, and needs an allocator"
        yield _found(node, reason, "keep a fixed number of tokens by TopK instead", "warning")


def _attention(node: ir.Node, runtime: Runtime) -> Iterator[Finding]:
    if not only_first_output(node):
        reason = f"{runtime.title} takes an Attention with one output only"
        yield _found(node, reason, "compute scores beside the attention")
    query = node.inputs[0]
    if query is not None and query.dtype is not None and query.dtype.name == "FLOAT":
        yield _found(node, f"{runtime.title} has no kernel for Attention in fp32", "compile with `--precision fp16`")
    if "softcap" in node.attributes and node.attributes["softcap"].as_float():
        yield _found(node, f"{runtime.title} has no softcap in Attention", "export with opset 22 or lower")


def _resize(node: ir.Node, runtime: Runtime) -> Iterator[Finding]:
    if int_of(node, "antialias", 0):
        reason = f"{runtime.title} has no Resize with antialias"
        yield _found(node, reason, "resize before the model, or without antialias")


def _layer_norm(node: ir.Node, runtime: Runtime) -> Iterator[Finding]:
    if not only_first_output(node):
        reason = f"{runtime.title} takes a LayerNormalization with one output only"
        yield _found(node, reason, "compute mean and deviation beside it")


def _einsum(node: ir.Node, runtime: Runtime) -> Iterator[Finding]:
    if not _before(runtime, (10, 12)):  # TensorRT-RTX takes all forms
        return
    equation = text_of(node, "equation", "").replace(" ", "")
    terms = equation.partition("->")[0].split(",")
    remedy = "write it as Transpose and MatMul"
    if "..." in equation:
        yield _found(node, f"{runtime.title} has no Einsum with an ellipsis", remedy)
    elif any(len(set(term)) < len(term) for term in terms):
        yield _found(node, f"{runtime.title} has no Einsum that takes a diagonal", remedy)
    elif _broadcasts(node, terms):
        yield _found(node, f"{runtime.title} has no Einsum that broadcasts", remedy)


def _broadcasts(node: ir.Node, terms: list[str]) -> bool:
    sizes: dict[str, int] = {}
    for term, value in zip(terms, node.inputs, strict=False):
        shape = static_shape(value) if value is not None else None
        for letter, size in zip(term, shape or (), strict=False):
            if sizes.setdefault(letter, size) != size:
                return True
    return False


def _quantize(node: ir.Node, runtime: Runtime) -> Iterator[Finding]:
    point = node.inputs[2] if len(node.inputs) > 2 else None
    if point is None:
        return
    array = constant_of(point)
    if array is None or (array != 0).any():
        yield _found(node, f"{runtime.title} has no {node.op_type} with a zero point other than 0", _ZERO_POINT)
    elif point.dtype is not None and point.dtype.name == "UINT8":
        yield _found(node, f"{runtime.title} has no {node.op_type} to uint8", "quantise to int8")


def _max_pool(node: ir.Node, runtime: Runtime) -> Iterator[Finding]:
    if not only_first_output(node):
        yield _found(node, f"{runtime.title} has no indices of MaxPool", "export the model without them")


def _instance_norm(node: ir.Node, runtime: Runtime) -> Iterator[Finding]:
    if _before(runtime, (8, 6)) and any(constant_of(value) is None for value in node.inputs[1:3]):
        yield _found(node, f"{runtime.title} wants scale and bias of {node.op_type} as constants", "export them so")


def _grid_sample(node: ir.Node, runtime: Runtime) -> Iterator[Finding]:
    shape = static_shape(node.inputs[0]) if node.inputs[0] is not None else None
    if shape is not None and len(shape) != 4:
        yield _found(node, f"{runtime.title} has GridSample for images only", "sample each frame by itself")


def _loop(node: ir.Node, runtime: Runtime) -> Iterator[Finding]:
    steps = trips(node)
    if steps == 1:
        return
    reason = f"{runtime.title} runs a {node.op_type} one step at a time: {steps} times the launches of its body"
    ours = node.attributes["body"].as_graph().name == BODY  # a selective scan that was asked to be a loop
    other = "`edgeprune inspect` says why it is no selective scan, which would run in chunks"
    yield _found(node, reason, "compile with `--scan chunked`" if ours else other, "warning")


def _large_integers(node: ir.Node, runtime: Runtime) -> Iterator[Finding]:
    for value in node.inputs:
        array = (
            constant_of(value)
            if value is not None and value.dtype is not None and value.dtype.name == "INT64"
            else None
        )
        if array is not None and array.size and (array.max() > _INT32.max or array.min() < _INT32.min):
            reason = f"a constant of {node.op_type} is beyond INT32, to which {runtime.title} cuts INT64"
            yield _found(node, reason, "keep numbers below 2^31", "warning")


_RULES: dict[str, tuple[_Rule, ...]] = {
    "TopK": (_topk,),
    "ScatterElements": (_scatter,),
    "ScatterND": (_scatter,),
    "NonZero": (_nonzero,),
    "Attention": (_attention,),
    "Resize": (_resize,),
    "LayerNormalization": (_layer_norm,),
    "Einsum": (_einsum,),
    "QuantizeLinear": (_quantize,),
    "DequantizeLinear": (_quantize,),
    "MaxPool": (_max_pool,),
    "InstanceNormalization": (_instance_norm,),
    "GridSample": (_grid_sample,),
    "Scan": (_loop,),
    "Loop": (_loop,),
}
