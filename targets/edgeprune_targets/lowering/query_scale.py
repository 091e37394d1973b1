"""The scale of attention multiplies the query, before the first product: the form that NVIDIA documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.core.graph import constant_of, consumers
from edgeprune_targets.attentions import is_attention
from edgeprune_targets.lowering._rewrite import nodes_of, replace, tape_before

if TYPE_CHECKING:
    import onnx_ir as ir


def scale_queries(model: ir.Model) -> int:
    """Turn (Q K^T) * c into (Q * c) K^T, c one number.

    Equal but for the order of roundings, and bit for bit where c is a power of two. Products before the scale also
    are what overflows fp16 first. TensorRT 10.3 is documented to fuse this form; later versions fuse either.
    """
    done = 0
    for softmax in nodes_of(model, "Softmax"):
        if is_attention(softmax):
            done += _scale_query(model, softmax)
    return done


def _scale_query(model: ir.Model, softmax: ir.Node) -> int:
    scale = _scale_before(softmax)
    if scale is None:
        return 0
    scores = scale.inputs[0] if constant_of(scale.inputs[0]) is None else scale.inputs[1]
    factor = scale.inputs[1] if scores is scale.inputs[0] else scale.inputs[0]
    product = scores.producer() if scores is not None else None
    if product is None or product.op_type != "MatMul" or len(list(consumers(product.outputs[0]))) != 1:
        return 0
    if product.outputs[0].is_graph_output() or constant_of(product.inputs[0]) is not None:
        return 0
    query = product.inputs[0]
    if query is None or factor is None or len(factor.shape or ()) > len(query.shape or ()):
        return 0
    tape = tape_before(model, product)
    product.replace_input_with(0, tape.op(scale.op_type, query, factor))
    replace(model, scale, product.outputs[0])
    return 1


def _scale_before(softmax: ir.Node) -> ir.Node | None:
    """The Mul or Div by one number that first follows the scores, looking back from the softmax through masks."""
    value = softmax.inputs[0]
    while value is not None:
        node = value.producer()
        if node is None or node.op_type not in {"Add", "Sub", "Mul", "Div", "Where", "Cast"}:
            return None
        if node.op_type in {"Mul", "Div"}:
            return node if _is_scale(node) else None
        value = _scores_side(node)
    return None


def _scores_side(node: ir.Node) -> ir.Value | None:
    """The operand of a mask that leads to a product; None where that is not plain."""
    if node.op_type == "Cast":
        return node.inputs[0]
    sides = [value for value in node.inputs if value is not None and _leads_to_product(value)]
    return sides[0] if len(sides) == 1 else None


def _leads_to_product(value: ir.Value) -> bool:
    node = value.producer()
    while node is not None and node.op_type in {"Add", "Mul", "Div", "Cast"} and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type == "MatMul"


def _is_scale(node: ir.Node) -> bool:
    arrays = [constant_of(value) for value in node.inputs]
    if node.op_type == "Div":
        return arrays[1] is not None and arrays[1].size == 1 and arrays[0] is None
    return any(array is not None and array.size == 1 for array in arrays)
