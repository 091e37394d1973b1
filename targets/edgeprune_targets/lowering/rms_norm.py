"""RMSNormalization (opset 23) by its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune_targets.lowering._rewrite import as_float, as_type, float_of, int_of, nodes_of, replace, tape_before
from edgeprune_targets.lowering.layer_norm import normalised

if TYPE_CHECKING:
    import onnx_ir as ir


def decompose_rms_norm(model: ir.Model) -> int:
    """Write x / sqrt(mean(x^2) + eps) * scale; TensorRT's own importer writes the same layers."""
    nodes = list(nodes_of(model, "RMSNormalization"))
    for node in nodes:
        _decompose(model, node)
    return len(nodes)


def _decompose(model: ir.Model, node: ir.Node) -> None:
    x, scale = node.inputs[0], node.inputs[1]
    assert x is not None
    assert scale is not None
    tape = tape_before(model, node)
    high = as_float(tape, x)
    rank = len(tape.shape(high))
    axes = tuple(range(int_of(node, "axis", -1) % rank, rank))
    y = normalised(tape, high, axes, float_of(node, "epsilon", 1e-5))
    y = tape.op("Mul", as_type(tape, y, scale), scale)
    replace(model, node, as_type(tape, y, node.outputs[0]))
