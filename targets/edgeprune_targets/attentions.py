"""How many attentions a graph has, to hold against how many an engine fused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from edgeprune.core.graph import PREFIX, producers, users

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
    if (node.name or "").startswith(PREFIX):
        return False
    if node.op_type in _ATTENTION_OPS:
        return True
    if node.op_type != "Softmax":
        return False
    return bool(_between(node, producers, _is_scores)) and bool(_between(node, users, _is_mix))


def core_of(anchor: ir.Node) -> set[ir.Node]:
    """All nodes of one attention: the anchor, both products, and scale, mask and casts between them."""
    if anchor.op_type != "Softmax":
        return {anchor}
    return {anchor} | _between(anchor, producers, _is_scores) | _between(anchor, users, _is_mix)


def own_core(softmax: ir.Node) -> set[ir.Node]:
    """The same without what edgeprune reads the probabilities with, for a score."""
    core = core_of(softmax)
    behind = _after(softmax, core)
    return {node for node in core if node not in behind or not (node.name or "").startswith(PREFIX)}


def _after(softmax: ir.Node, core: set[ir.Node]) -> set[ir.Node]:
    """Nodes of the core that depend on the softmax."""
    behind: set[ir.Node] = set()
    pending = [softmax]
    while pending:
        found = {node for node in users(pending.pop()) if node in core} - behind
        behind |= found
        pending += found
    return behind


def _between(
    start: ir.Node, step: Callable[[ir.Node], Iterable[ir.Node]], ends: Callable[[ir.Node], bool]
) -> set[ir.Node]:
    """Nodes on the paths from `start` to an end, ends included."""
    on_path: dict[ir.Node, bool] = {}

    def walk(node: ir.Node) -> bool:
        if node in on_path:
            return on_path[node]
        on_path[node] = found = ends(node)
        if not found and node.op_type in _BETWEEN:
            for after in step(node):
                found |= walk(after)
        on_path[node] = found
        return found

    for node in step(start):
        walk(node)
    return {node for node, found in on_path.items() if found}


def _is_scores(node: ir.Node) -> bool:
    """Q K^T: no product with a weight, but the query of an attention pool may be a constant."""
    return node.op_type in _PRODUCTS and all(
        value.const_value is None or len(value.shape or ()) > 2 for value in node.inputs[:2] if value is not None
    )


def _is_mix(node: ir.Node) -> bool:
    return node.op_type in _PRODUCTS and all(
        value.const_value is None for value in node.inputs[:2] if value is not None
    )
