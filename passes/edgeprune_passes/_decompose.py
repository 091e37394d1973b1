"""Write the Attention operator of opset 23 as the plain operators that all runtimes know."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgeprune.core.errors import ModelError
from edgeprune.core.graph import name_of, static_shape
from edgeprune.core.tape import Tape

if TYPE_CHECKING:
    from collections.abc import Sequence


def decompose_attention(model: ir.Model) -> int:
    """Replace every Attention node by MatMul, Softmax, MatMul; the number replaced.

    TensorRT's importer makes an operator of it that fp32 cannot build, and hides the probabilities.

    Raises:
        ModelError: if a node uses what has no plain form here (caches, more than one output).
    """
    nodes = [node for node in model.graph if node.op_type == "Attention" and node.domain == ""]
    for node in nodes:
        _decompose(model, node)
    return len(nodes)


def _decompose(model: ir.Model, node: ir.Node) -> None:
    inputs = [*node.inputs, *[None] * (4 - len(node.inputs))]
    query, key, value, mask = inputs[:4]
    if query is None or key is None or value is None or any(v is not None for v in inputs[4:]) or _extra_outputs(node):
        msg = f"Attention node `{name_of(node)}` uses a cache or more than one output"
        raise ModelError(msg, hint="export with opset 20 or lower, so that attention is written as plain operators")
    tape = Tape(model, before=node, prefix=name_of(node))
    query, key, value = (_heads(tape, node, v, kind) for v, kind in ((query, "q"), (key, "kv"), (value, "kv")))
    key, value = _repeat_groups(tape, query, (key, value))
    scale = node.attributes["scale"].as_float() if "scale" in node.attributes else 1 / math.sqrt(_shape(query)[-1])
    scores = tape.op("MatMul", tape.op("Mul", query, tape.scalar(scale)), tape.op("Transpose", key, perm=[0, 1, 3, 2]))
    if "softcap" in node.attributes and node.attributes["softcap"].as_float() > 0:
        cap = tape.scalar(node.attributes["softcap"].as_float())
        scores = tape.op("Mul", tape.op("Tanh", tape.op("Div", scores, cap)), cap)
    scores = _masked(tape, node, scores, mask)
    context = tape.op("MatMul", tape.op("Softmax", scores, axis=-1), value)
    if len(_shape(node.outputs[0], default=_shape(context))) == 3:
        batch, heads, tokens, size = _shape(context)
        context = tape.op("Transpose", context, perm=[0, 2, 1, 3])
        context = tape.op("Reshape", context, tape.ints([batch, tokens, heads * size]))
    if node.outputs[0].is_graph_output():
        context.name, node.outputs[0].name = node.outputs[0].name, f"{context.name}/gone"
    ir.convenience.replace_all_uses_with(node.outputs[0], context, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)


def _extra_outputs(node: ir.Node) -> bool:
    return any(v.uses() or v.is_graph_output() for v in node.outputs[1:])


def _shape(value: ir.Value, default: Sequence[int] | None = None) -> tuple[int, ...]:
    shape = static_shape(value)
    if shape is None and default is None:
        msg = f"`{value.name}` has no static shape, so its Attention node cannot be written as plain operators"
        raise ModelError(msg, hint="declare the input shapes: --input NAME:1x3x224x224")
    return tuple(default or ()) if shape is None else shape


def _heads(tape: Tape, node: ir.Node, value: ir.Value, kind: str) -> ir.Value:
    """[B, T, H*Dh] -> [B, H, T, Dh]; four axes already have that form."""
    shape = _shape(value)
    if len(shape) == 4:
        return value
    heads = node.attributes[f"{kind}_num_heads"].as_int()
    value = tape.op("Reshape", value, tape.ints([shape[0], shape[1], heads, shape[2] // heads]))
    return tape.op("Transpose", value, perm=[0, 2, 1, 3])


def _repeat_groups(tape: Tape, query: ir.Value, pair: tuple[ir.Value, ir.Value]) -> tuple[ir.Value, ir.Value]:
    """Repeat the heads of keys and values to the number of query heads (grouped-query attention)."""
    heads = _shape(query)[1]
    out = []
    for value in pair:
        batch, own, tokens, size = _shape(value)
        if own != heads:
            wide = tape.op("Unsqueeze", value, tape.ints([2]))
            wide = tape.op("Expand", wide, tape.ints([batch, own, heads // own, tokens, size]))
            value = tape.op("Reshape", wide, tape.ints([batch, heads, tokens, size]))  # noqa: PLW2901
        out.append(value)
    return out[0], out[1]


def _masked(tape: Tape, node: ir.Node, scores: ir.Value, mask: ir.Value | None) -> ir.Value:
    lowest = float(np.finfo(np.float32).min)
    if mask is not None and mask.dtype == ir.DataType.BOOL:
        mask = tape.op("Where", mask, tape.scalar(0.0), tape.scalar(lowest))
    if mask is not None:
        scores = tape.op("Add", scores, mask)
    if "is_causal" in node.attributes and node.attributes["is_causal"].as_int():
        rows, columns = _shape(scores)[-2:]
        causal = np.triu(np.full((rows, columns), lowest, np.float32), k=1)
        scores = tape.op("Add", scores, tape.constant(causal))
    return scores
