"""Findings about operators and types: does the parser have them?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeprune.core.graph import name_of
from edgeprune_targets.findings import Finding
from edgeprune_targets.fp32_rules import PRODUCTS
from edgeprune_targets.operators import operators

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune_targets.profiles import Target
    from edgeprune_targets.runtimes import Runtime

_REMEDIES = {
    "NonZero": "keep a fixed number of tokens by TopK instead",
    "Compress": "keep a fixed number of tokens by TopK instead",
    "Unique": "use a fixed-size form such as TopK",
    "Attention": "export with opset 22 or lower, or let edgeprune compile it: then it is plain products",
    "LayerNormalization": "lower the graph for this runtime: then it is spelled out",
    "DynamicQuantizeLinear": "export the float model: precision is chosen when it is compiled",
    "MatMulInteger": "export the float model: precision is chosen when it is compiled",
    "QLinearMatMul": "export the float model: precision is chosen when it is compiled",
    "QLinearConv": "export the float model: precision is chosen when it is compiled",
    "RotaryEmbedding": "export with opset 22 or lower, so that it is plain operators",
}
_WORDS = {
    "FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "DOUBLE": "fp64", "INT4": "int4", "INT8": "int8",
    "INT32": "int32", "INT64": "int64", "UINT8": "uint8", "BOOL": "bool", "FLOAT8E4M3FN": "fp8",
}  # fmt: skip
_DATA_AT = {"Where": 1, "OneHot": 2}  # where the data is not the first input
_MADE_OF_SHAPES = frozenset({"Shape", "Size", "ConstantOfShape", "EyeLike", "If", "Loop", "Scan", "Range"})
_MICROSOFT_RTX = frozenset({"MultiHeadAttention"})  # probed with TensorRT-RTX 1.7.1


def support_findings(node: ir.Node, runtime: Runtime, target: Target) -> Iterator[Finding]:
    """What the parser lacks for one node."""
    if node.domain not in {"", "ai.onnx"}:
        yield from _foreign(node, runtime)
        return
    operator = operators().get(node.op_type)
    if operator is None:
        yield Finding(
            node=name_of(node),
            reason=f"edgeprune does not know whether {runtime.title} has {node.op_type}",
            remedy="try a build on the device",
            severity="warning",
        )
        return
    types = operator.types_in(runtime)
    if not types:
        since = f", it came with TensorRT {operator.since}" if operator.since and runtime.family == "tensorrt" else ""
        remedy = _REMEDIES.get(node.op_type, "export the model without it, or write it as other operators")
        yield Finding(node=name_of(node), reason=f"{runtime.title} has no {node.op_type}{since}", remedy=remedy)
        return
    yield from _types(node, types, runtime, target)


def _foreign(node: ir.Node, runtime: Runtime) -> Iterator[Finding]:
    if node.domain == "com.microsoft":
        if runtime.family == "tensorrt-rtx" and node.op_type in _MICROSOFT_RTX:
            return
        remedy = "compile the model as exported, not as optimised for ONNX Runtime"
    else:
        remedy = "export it as standard operators; a plug-in would have to be on the device"
    reason = f"{runtime.title} has no {node.domain} {node.op_type}"
    yield Finding(node=name_of(node), reason=reason, remedy=remedy)


def _types(node: ir.Node, types: frozenset[str], runtime: Runtime, target: Target) -> Iterator[Finding]:
    word = data_type(node, runtime)
    if word == "bf16" and (
        not runtime.bf16 or (runtime.family == "tensorrt-rtx" and target.compute_capability == "7.5")
    ):
        where = runtime.title if not runtime.bf16 else f"{runtime.title} for compute capability 7.5"
        yield Finding(node=name_of(node), reason=f"{where} has no bf16", remedy="export the model in fp32")
    elif word is not None and word not in types and node.op_type not in _MADE_OF_SHAPES:
        known = ", ".join(sorted(types))
        reason = f"{node.op_type} of {word} is not documented for {runtime.title}, only {known}"
        yield Finding(node=name_of(node), reason=reason, remedy="cast its data, or try a build", severity="warning")
    if word == "fp32" and node.op_type in PRODUCTS and runtime.family == "tensorrt-rtx" and not target.fp32_products:
        reason = f"TensorRT-RTX has no fp32 {node.op_type} for compute capability 7.5"
        yield Finding(node=name_of(node), reason=reason, remedy="compile with `--precision fp16`")


def data_type(node: ir.Node, runtime: Runtime) -> str | None:
    """The type of the data that a node works on, as the runtime holds it; None where it is unknown or has no name."""
    index = _DATA_AT.get(node.op_type, 0)
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or value.dtype is None:
        return None
    word = _WORDS.get(value.dtype.name, value.dtype.name.lower())
    if word == "fp64":
        return "fp32"  # cast down by every parser
    return "int32" if word == "int64" and not runtime.int64 else word
