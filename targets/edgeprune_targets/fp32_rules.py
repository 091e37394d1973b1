"""Which nodes of a fp16 graph stay in fp32, and why.

Scores and what is chosen by them, because two tokens that fp16 cannot tell apart would be chosen differently than in
the fp32 graph; sums of squares, because 256^2 is past fp16; operators whose fp16 kernels are missing or imprecise;
consumers of constants that fp16 cannot hold; and the decays and states of a scan, which add up over all tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.core.graph import PREFIX, users

if TYPE_CHECKING:
    import onnx_ir as ir


FP16_MAX = 65504.0
SENTINEL = 1e9  # a constant from here on means "minus infinity" in a mask, not a quantity
MASK = 1e4  # exp(-1e4) is 0, and six such masks added up are still inside fp16
HELD = "edgeprune.fp32"  # in `Node.meta`: a rewrite that knows what it wrote asks for fp32

ALWAYS_FP32 = frozenset(
    {"TopK", "ArgMax", "ArgMin", "CumSum", "Range", "Resize", "NonMaxSuppression", "RandomNormal", "RandomUniform"}
    | {"ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceProd", "ReduceLogSum"}
    | {"ReduceLogSumExp", "Pow", "Sqrt", "Reciprocal", "Exp", "Log", "Softplus", "LpNormalization"}
)
MOVES = frozenset(
    {"Gather", "GatherND", "GatherElements", "Reshape", "Transpose", "Slice", "Concat", "Expand", "Squeeze"}
    | {"Unsqueeze", "Identity", "Split", "Flatten", "Tile", "Pad"}
)
PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum"})
_NORM_GLUE = frozenset({"Add", "Mul", "Sub", "Div", "Cast", "Clip", "Max"})
_MASK_CONSUMERS = frozenset({"Add", "Sub", "Mul", "Where", "Max", "Min", "Clip"} | MOVES)


def fp32_nodes(
    model: ir.Model, keep_fp32: Callable[[ir.Node], bool] | None = None, *, products: bool = True
) -> set[ir.Node]:
    """Nodes of the main graph that compute in fp32: those of `keep_fp32`, and those that every model needs so.

    Args:
        model: constants lifted to initializers.
        keep_fp32: the caller's own rule, added to the rules of this module.
        products: whether matrix products may be among them; TensorRT-RTX has none in fp32 for Turing.
    """
    nodes = tuple(model.graph)
    kept = {node for node in nodes if node.op_type in ALWAYS_FP32 or _has_graph(node) or is_score_node(node)}
    kept |= {node for node in nodes if HELD in node.meta}
    if keep_fp32 is not None:
        kept |= {node for node in nodes if keep_fp32(node)}
    kept |= {node for node in nodes if _reads_big_constant(node)}
    kept |= {node for node in nodes if _has_no_half(node, model.opset_imports.get(node.domain, 0))}
    for root in [node for node in nodes if node.op_type in {"Sqrt", "Reciprocal", "Pow"}]:
        kept |= _norm_chain(root)
    if not products:
        kept = {node for node in kept if node.op_type not in PRODUCTS}
    for node in reversed(nodes):
        if (node.op_type == "Cast" or node.op_type in MOVES) and _feeds_only(node, kept):
            kept.add(node)
    return kept


def is_score_node(node: ir.Node) -> bool:
    """Whether edgeprune inserted `node` beside the stream: it makes a score, an index, a matrix or a size.

    What edgeprune inserted *in* the stream (the last gather or merge, the bias of the logits) hands its result to the
    model's own nodes; it runs in the type of the stream, or attention and GEMMs would fall back to fp32.
    """
    return bool(node.name and node.name.startswith(PREFIX)) and not _rejoins(node, set())


def _rejoins(node: ir.Node, seen: set[ir.Node]) -> bool:
    """Whether the result leaves the graph, goes to a node of the model's own, or is moved, unchanged, to one."""
    seen.add(node)
    if any(value.is_graph_output() for value in node.outputs):
        return True
    for consumer in users(node):
        if not (consumer.name or "").startswith(PREFIX):
            return True
        if consumer.op_type in MOVES and consumer not in seen and _moves(consumer, node) and _rejoins(consumer, seen):
            return True
    return False


def _moves(consumer: ir.Node, producer: ir.Node) -> bool:
    data = consumer.inputs if consumer.op_type == "Concat" else consumer.inputs[:1]
    return any(value is not None and value.producer() is producer for value in data)


def _feeds_only(node: ir.Node, kept: set[ir.Node]) -> bool:
    """Whether all that read the result are fp32: kept nodes, and graph outputs."""
    return all(consumer in kept for consumer in users(node))


def _has_graph(node: ir.Node) -> bool:
    return any(attribute.type.name in {"GRAPH", "GRAPHS"} for attribute in node.attributes.values())


def constant_of(value: ir.Value | None) -> np.ndarray | None:
    """Float content of an initializer; None where the value is computed, or holds no floats."""
    if value is None or value.const_value is None or value.dtype is None or not value.dtype.is_floating_point():
        return None
    return value.const_value.numpy()


def is_mask_constant(value: ir.Value | None) -> bool:
    """Whether fp16 cannot hold the constant, and its consumers mean it as a mask.

    A sentinel like -3.4e38 can be cut to `MASK`: it only has to vanish under Softmax. -inf is left as it is.
    """
    array = constant_of(value)
    if value is None or array is None or array.size == 0:
        return False
    size = np.abs(array[np.isfinite(array)])
    big = size > FP16_MAX
    sentinels = bool(big.any()) and bool((size[big] >= SENTINEL).all())
    return sentinels and all(use.node.op_type in _MASK_CONSUMERS for use in value.uses())


def _reads_big_constant(node: ir.Node) -> bool:
    for value in node.inputs:
        array = constant_of(value)
        if array is None or not array.size or is_mask_constant(value):
            continue
        if (np.abs(array[np.isfinite(array)]) > FP16_MAX).any():
            return True
    return False


def _has_no_half(node: ir.Node, opset: int) -> bool:
    """Whether ONNX knows a float input of the operator in fp32 only, as that of DynamicQuantizeLinear."""
    import onnx

    try:
        formal = onnx.defs.get_schema(node.op_type, opset, node.domain).inputs
    except onnx.defs.SchemaError:
        return False
    for i, value in enumerate(node.inputs):
        types = formal[min(i, len(formal) - 1)].types
        if (
            value is not None
            and value.dtype is not None
            and value.dtype.name == "FLOAT"
            and "tensor(float16)" not in types
        ):
            return True
    return False


def _norm_chain(root: ir.Node) -> set[ir.Node]:
    """Nodes around a root of a mean of squares: Sub(x, mean), Pow, mean, + eps, sqrt, and the division."""
    chain = {root}
    pending = [root]
    while pending:
        for value in pending.pop().inputs:
            node = None if value is None else value.producer()
            if node is None or node in chain or not _is_norm_glue(node):
                continue
            chain.add(node)
            pending.append(node)
    if not any(node.op_type.startswith("Reduce") for node in chain):
        return set()
    return chain | {node for node in users(root) if node.op_type in {"Div", "Mul", "Reciprocal", "Cast"}}


def _is_norm_glue(node: ir.Node) -> bool:
    """Reductions and squares, and arithmetic with a constant, a mean or itself; never the residual stream's own Add."""
    if node.op_type in {"ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2", "Pow"}:
        return True
    if node.op_type not in _NORM_GLUE:
        return False
    if node.op_type == "Mul":
        return node.inputs[0] is node.inputs[1]
    if node.op_type in {"Sub", "Div"}:
        return any(value is not None and _is_reduction(value.producer()) for value in node.inputs)
    if node.op_type == "Cast":
        return any(_is_reduction(consumer) for consumer in users(node))
    return any(constant_of(value) is not None for value in node.inputs[1:] or ()) and _follows_reduction(node)


def _is_reduction(node: ir.Node | None) -> bool:
    return node is not None and node.op_type.startswith("Reduce")


def _follows_reduction(node: ir.Node) -> bool:
    return any(value is not None and _is_reduction(value.producer()) for value in node.inputs)
