"""How many attentions a graph has, to hold against how many an engine fused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from edgeprune_targets.fp32_rules import OURS

if TYPE_CHECKING:
    import onnx_ir as ir

_ATTENTION_OPS = frozenset({"Attention", "MultiHeadAttention"})
_PRODUCTS = frozenset({"MatMul", "Einsum", "Gemm"})
_BETWEEN = frozenset(
    {"Add", "Sub", "Mul", "Div", "Where", "Cast", "Clip", "Min", "Max", "Identity", "Reshape", "Transpose", "Dropout"}
    | {"Expand", "Squeeze", "Unsqueeze", "IsNaN", "Not", "Tanh", "Concat", "Slice"}
)


def count_attentions(model: ir.Model) -> int:
    """Attentions of the model itself: product, softmax, product, through scale, mask, casts and NaN guards.

    Side branches that edgeprune added for a score are none of them, and are told by their names.
    """
    return sum(1 for node in model.graph if is_attention(node))


def is_attention(node: ir.Node) -> bool:
    """Whether `node` is an Attention operator, or the Softmax of a spelled-out attention."""
    if (node.name or "").startswith(OURS):
        return False
    if node.op_type in _ATTENTION_OPS:
        return True
    if node.op_type != "Softmax":
        return False
    return _reaches(node, _producers, _is_scores) and _reaches(node, _consumers, _is_mix)


def _reaches(start: ir.Node, step: Callable[[ir.Node], Iterable[ir.Node]], found: Callable[[ir.Node], bool]) -> bool:
    seen, pending = {start}, [start]
    while pending:
        for node in step(pending.pop()):
            if node in seen:
                continue
            seen.add(node)
            if found(node):
                return True
            if node.op_type in _BETWEEN:
                pending.append(node)
    return False


def _producers(node: ir.Node) -> list[ir.Node]:
    found = (value.producer() for value in node.inputs if value is not None)
    return [producer for producer in found if producer is not None]


def _consumers(node: ir.Node) -> list[ir.Node]:
    return [use.node for value in node.outputs for use in value.uses()]


def _is_scores(node: ir.Node) -> bool:
    """Q K^T: no product with a weight, but the query of an attention pool may be a constant."""
    return node.op_type in _PRODUCTS and all(
        value.const_value is None or len(value.shape or ()) > 2 for value in node.inputs[:2] if value is not None
    )


def _is_mix(node: ir.Node) -> bool:
    return node.op_type in _PRODUCTS and all(
        value.const_value is None for value in node.inputs[:2] if value is not None
    )
