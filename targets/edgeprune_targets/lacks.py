"""What a runtime cannot build, named before the builder is asked: its own messages come late and say little."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune_targets.fp32_rules import PRODUCTS

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeprune_targets.profiles import Target

TOPK_LIMIT = 3840
_MISSING = {
    "NonZero": "its result has no static size",
    "Compress": "its result has no static size",
    "Unique": "its result has no static size",
    "BitwiseAnd": "there is no importer for it",
    "DynamicQuantizeLinear": "there is no importer for it",
    "MatMulInteger": "there is no importer for it",
    "QLinearConv": "there is no importer for it",
    "QLinearMatMul": "there is no importer for it",
}
_MISSING_MICROSOFT = {"SkipLayerNormalization", "FastGelu", "BiasGelu", "FusedMatMul", "EmbedLayerNormalization"}


@dataclass(frozen=True, slots=True)
class Lack:
    """One node that the target's runtime does not take.

    Attributes:
        node: its name, or its first output's where it has none.
        reason: one sentence.
        remedy: what to do about it.
    """

    node: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}; {self.remedy}"


def lacks(model: ir.Model, target: Target) -> tuple[Lack, ...]:
    """Nodes that TensorRT or TensorRT-RTX refuses, as probed with TensorRT-RTX 1.7 and read in the parsers' sources.

    Empty means that nothing known stands against a build, not that the build will succeed.
    """
    return tuple(lack for node in model.graph.all_nodes() for lack in _node_lacks(node, target))


def _node_lacks(node: ir.Node, target: Target) -> Iterator[Lack]:
    runtime = "TensorRT-RTX" if target.runtime == "tensorrt-rtx" else "TensorRT"
    name = node.name or node.outputs[0].name or node.op_type
    if node.op_type in _MISSING and (node.op_type != "NonZero" or target.runtime == "tensorrt-rtx"):
        yield Lack(
            name, f"{runtime} has no {node.op_type}: {_MISSING[node.op_type]}", "use a fixed-size form such as TopK"
        )
    if node.domain == "com.microsoft" and node.op_type in _MISSING_MICROSOFT:
        remedy = "compile the model as exported, not as optimised for ONNX Runtime"
        yield Lack(name, f"{runtime} has no com.microsoft {node.op_type}", remedy)
    if node.op_type == "TopK" and (keep := _topk_k(node)) is not None and keep > TOPK_LIMIT:
        yield Lack(name, f"TopK keeps {keep}, {runtime} at most {TOPK_LIMIT}", "cut fewer tokens at once, or merge")
    if node.op_type == "Resize" and node.attributes.get_int("antialias"):
        yield Lack(name, f"{runtime} has no Resize with antialias", "resize before the model, or without antialias")
    if node.op_type.startswith("Scatter") and node.attributes.get_string("reduction", "none") != "none":
        yield Lack(name, f"{runtime} has no {node.op_type} with a reduction", "write it as a one-hot MatMul")
    if node.op_type == "Attention" and node.domain == "":
        yield from _attention_lacks(node, name, runtime)
    yield from _turing_lacks(node, name, target)


def _attention_lacks(node: ir.Node, name: str, runtime: str) -> Iterator[Lack]:
    if len([value for value in node.outputs if value.name]) > 1:
        yield Lack(name, f"{runtime} takes an Attention with one output only", "compute scores beside the attention")
    query = node.inputs[0]
    four_axes = query is not None and query.shape is not None and len(query.shape) == 4
    if four_axes and query is not None and query.dtype is not None and query.dtype.name == "FLOAT":
        yield Lack(name, f"{runtime} has no kernel for Attention in fp32", "compile with `--precision fp16`")


def _turing_lacks(node: ir.Node, name: str, target: Target) -> Iterator[Lack]:
    if target.fp32_products:
        return
    left = node.inputs[0] if node.op_type in PRODUCTS else None
    if left is not None and left.dtype is not None and left.dtype.name == "FLOAT":
        reason = f"TensorRT-RTX has no fp32 {node.op_type} for compute capability 7.5"
        yield Lack(name, reason, "compile with `--precision fp16`")


def _topk_k(node: ir.Node) -> int | None:
    value = node.inputs[1] if len(node.inputs) > 1 else None
    if value is None or value.const_value is None:
        return None
    return int(value.const_value.numpy().reshape(-1)[0])
